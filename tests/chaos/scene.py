"""What every scenario starts from, and what it asserts at its end."""

import contextlib
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from client import Client, Follower, Watch
from lintmesh.v1 import health_pb2
from mesh import API, COORDINATOR, NODES, Mesh
from network import Network

# The tools that are quick: scenarios that repeat runs use them.
QUICK_TOOLS = ["bandit", "flake8", "ruff"]
HEARTBEAT = 5.0
# Shorter than the default so that the suite is quick; the figures use the default.
MESSAGE_TIMEOUT = 10.0
SHORT_TIMEOUT = f"[mesh]\nmessage_timeout = {MESSAGE_TIMEOUT}\n"
# Promises.
DEGRADED_SECONDS = 4.0
VIEWS_SECONDS = 2 * HEARTBEAT


@dataclass(frozen=True)
class Options:
    """What the suite was told."""

    binary: Path
    scratch: Path
    tree: Path
    toolchain: str
    seed: int


@dataclass
class Scene:
    """A mesh whose nodes are ACTIVE, watched."""

    options: Options
    network: Network
    mesh: Mesh
    client: Client
    health: Watch
    chance: random.Random
    undisturbed: dict[tuple[str, ...], str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Tell what was seen, and when."""
        print(f"    [{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def lint(self, tools: list[str]) -> Watch:
        """Start a run."""
        return self.client.lint(self.options.tree, tools, ["src"])

    def follow(self, tools: list[str]) -> Follower:
        """Start a run and follow it over restarts of the coordinator."""
        return self.client.follow(self.options.tree, tools, ["src"])

    def api(self) -> tuple[str, Path]:
        """What a client needs."""
        return API, self.mesh.authority

    def expect(self, tools: list[str] = QUICK_TOOLS) -> float:
        """Make sure that the result of an undisturbed run is known; return how long that run took."""
        began = time.monotonic()
        outcome, digest = self.lint(tools).result()
        assert outcome == "FINDINGS", f"the undisturbed run ended {outcome}"
        known = self.undisturbed.setdefault(tuple(tools), digest)
        assert known == digest, "two undisturbed runs have different results"
        return time.monotonic() - began

    def same_result(self, run: Watch, tools: list[str] = QUICK_TOOLS, seconds: float = 200) -> None:
        """The run ends with the undisturbed result."""
        outcome, digest = run.result(seconds)
        assert outcome == "FINDINGS", f"the disturbed run ended {outcome}"
        assert digest == self.undisturbed[tuple(tools)], "the disturbed run has another result"

    def assigned(self, run: Watch, node: str, seconds: float = 30) -> float:
        """Wait until a LINT task of the run is with a node; return when that was told."""

        def found(watch: Watch) -> float | None:
            given = watch.events("task_assigned")
            return next((at for at, event in given if event.node_id == node and event.task.tool), None)

        return run.wait(f"{node} has work", found, seconds)

    def second_attempt(self, run: Watch, node: str, since: float) -> float:
        """Wait until a task that the node had is given to another; return how long it took."""

        def found(watch: Watch) -> float | None:
            given = watch.events("task_assigned")
            had = {event.task.task_id for at, event in given if event.node_id == node and at < since}
            again = (at for at, event in given if at >= since and event.task.task_id in had and event.node_id != node)
            return next(again, None)

        return run.wait(f"a task of {node} is given to another", found, 30) - since

    def refused(self, *codes: str) -> str:
        """A new run is refused with one of these statuses; what it says."""
        try:
            self.client.start(self.options.tree, QUICK_TOOLS, ["src"])
        except grpc.RpcError as error:
            assert error.code().name in codes, f"{error.code().name}: {error.details()}"
            self.say(f"refused: {error.code().name}: {error.details()}")
            return error.details()
        raise AssertionError("a run was taken")

    def degraded(self, node: str, since: float, seconds: float = 30) -> float:
        """The node becomes DEGRADED within the promised time of silence; return how long it took."""
        took = self.health.reaches(node, "DEGRADED", since, seconds) - since
        self.say(f"{node} DEGRADED after {took:.2f} s ({self.health.changes(node, since)[0][2]})")
        assert took <= DEGRADED_SECONDS, f"{node} DEGRADED after {took:.2f} s, promised {DEGRADED_SECONDS} s"
        return took

    def active(self, node: str, since: float, seconds: float) -> float:
        """The node becomes ACTIVE; return how long it took."""
        took = self.health.reaches(node, "ACTIVE", since, seconds) - since
        self.say(f"{node} ACTIVE after {took:.2f} s")
        return took

    def settle(self) -> None:
        """Let the grace after the coordinator's start pass, in which nobody is FAILED for being away."""
        self.stays(max(0.0, self.began + MESSAGE_TIMEOUT - time.monotonic()))

    def stays(self, seconds: float) -> None:
        """Let time pass; the streams go on meanwhile."""
        time.sleep(seconds)
        assert not self.health.ended, f"the stream of health ended: {self.health.failure}"

    def story(self, node: str, since: float) -> list[str]:
        """The changes of a node's status, for messages."""
        changes = self.health.changes(node, since)
        return [f"{at - since:.1f} s {status} {cause}".strip() for at, status, cause in changes]

    def at_most(self, most: int, node: str, since: float) -> None:
        """No more than so many changes of a node's status, one for each fault."""
        story = self.story(node, since)
        self.say(f"{node}: {len(story)} changes of status, at most {most} allowed: {'; '.join(story) or 'none'}")
        assert len(story) <= most, f"{node}: {len(story)} changes of status for {most} faults: {story}"

    def others_undisturbed(self, faulty: list[str], since: float) -> None:
        """No other node's status has changed."""
        for node in self.mesh.nodes:
            if node not in faulty:
                assert not self.story(node, since), f"{node}, which is healthy, changed: {self.story(node, since)}"

    def whole(self, seconds: float = VIEWS_SECONDS) -> None:
        """All nodes are ACTIVE, and every process alive sees every other."""
        began = time.monotonic()
        self.client.ready(seconds)
        self.views_equal(seconds - (time.monotonic() - began))

    def views_equal(self, seconds: float) -> None:
        """Every node sees every other by a link of its own, within this time."""
        wanted = {(a, b) for a in self.mesh.nodes for b in self.mesh.nodes if a != b}
        began = time.monotonic()
        while True:
            seen = views(self.client.status().metrics)
            if seen == wanted:
                self.say(f"all {len(wanted)} views are equal after {time.monotonic() - began:.1f} s")
                return
            missing = sorted(wanted - seen)
            assert time.monotonic() < began + seconds, f"after {seconds:.1f} s these links are not up: {missing}"
            time.sleep(0.1)


def views(health: object) -> set[tuple[str, str]]:
    """The links that are up, each by the word of the node that observes it."""
    return {
        (observer, link.peer_id)
        for observer, node in health.node_health.items()
        for link in node.links
        if link.state == health_pb2.LINK_STATE_UP
    }


@contextlib.contextmanager
def scene(
    options: Options,
    name: str,
    settings: str = "",
    nodes: list[str] = NODES,
    state: Path | None = None,
    prefix: list | None = None,
) -> Iterator[Scene]:
    """A mesh for one scenario; `state` and `prefix` as for Mesh. What its processes logged is printed if it fails."""
    scratch = options.scratch / name
    shutil.rmtree(scratch, ignore_errors=True)
    with (
        Network([COORDINATOR, *nodes], options.seed) as network,
        Mesh(network, options.binary, scratch, settings, options.toolchain, list(nodes), state, prefix or []) as mesh,
        Client(API, mesh.authority) as client,
    ):
        try:
            client.ready()
            health = client.health()
            health.wait("the first report of health", lambda watch: watch.messages or None)
            yield Scene(options, network, mesh, client, health, random.Random(options.seed))
            assert mesh.processes[COORDINATOR].poll() is None, "the coordinator ended"
        except BaseException:
            for process in mesh.processes:
                print(f"--- {process}\n{mesh.log(process)}", flush=True)
            raise


def bites(network: Network, source: str, target: str) -> None:
    """A cut is there: nothing gets through."""
    answered, _ = network.ping(source, target, 3)
    assert answered == 0, f"{source} and {target} are to be cut off, and {answered} of 3 packets were answered"


def heals(network: Network, source: str, target: str) -> None:
    """A cut is gone."""
    answered, _ = network.ping(source, target, 3)
    assert answered == 3, f"{source} and {target} are to be joined, and {answered} of 3 packets were answered"


def reset_connections(network: Network, end: str, other: str | None = None) -> int:
    """Break the TCP connections of an end, all or those with another one, as a middlebox may; return how many."""
    filter_ = ["state", "established", "src", network.address[end]]
    if other:
        filter_ += ["dst", network.address[other]]
    listed = network.command(end, ["ss", "-H", "-t", "-n", *filter_])
    before = subprocess.run(listed, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    kill = network.command(end, ["ss", "-K", "-H", "-t", "-n", *filter_])
    subprocess.run(kill, capture_output=True, timeout=20, check=True)
    return len(before)
