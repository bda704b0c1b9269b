#!/usr/bin/env python3
"""Kill the coordinator of a real mesh at random moments, and measure what its restart loses and how long it takes.

    cargo build --release
    tests/chaos/prepare                                     # Python packages, stubs and flask, into target/ci
    target/ci/python/bin/python benches/crash.py            # all figures; exit code 1 if a promise is broken
    target/ci/python/bin/python benches/crash.py restarts   # or some

`lintmesh serve` launches four nodes, and runs of flask use all five linters. Every linter process is counted, as the
system shows it. Needs root only for that: to be served before the linters it counts.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "tests/chaos"), str(ROOT / "target/ci/stubs")]

from client import ALL_TOOLS, RUN_SECONDS, Client, Follower  # noqa: E402
from faults import percentile  # noqa: E402
from figures import machine  # noqa: E402
from lintmesh.v1 import lint_pb2, workspace_pb2  # noqa: E402
from mesh import NODES  # noqa: E402

# The shortest linter of flask, ruff, takes ten times as long.
LOOK_SECONDS = 0.01
# How long a process may take to become what it was started as.
BECOMES_SECONDS = 2.0
READY_SECONDS = 60


def main() -> int:
    """Measure what is asked; the exit code says whether all promises hold."""
    figures = {"kills": kills, "restarts": restarts, "stops": stops}
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(figures))
    arguments.add_argument("--lintmesh", type=Path, default=ROOT / "target/release/lintmesh")
    arguments.add_argument(
        "--tree", type=Path, default=ROOT / "target/ci/flask", help="flask's source archive, unpacked"
    )
    arguments.add_argument("--toolchain", default="managed", help="where the linters come from, as for `lintmesh lint`")
    arguments.add_argument("--seed", type=int, default=int(time.time()))
    arguments.add_argument("--kills", type=int, default=50, help="runs with one kill each")
    arguments.add_argument("--restarts", type=int, default=10, help="kills in one run")
    arguments.add_argument("--stops", type=int, default=5, help="runs with one orderly stop each")
    arguments.add_argument("--watch-processes", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.watch_processes:
        return watch_processes(chosen.watch_processes)
    if unknown := set(chosen.figures) - set(figures):
        arguments.error(f"no such figure: {', '.join(sorted(unknown))}; choose from {', '.join(figures)}")
    chosen.lintmesh, chosen.tree = chosen.lintmesh.resolve(strict=True), chosen.tree.resolve(strict=True)
    machine(chosen.lintmesh)
    print(f"seed      {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="lintmesh-crash-") as scratch:
        held = [figures[name](chosen, Path(scratch) / name) for name in chosen.figures or figures]
    return 0 if all(held) else 1


def kills(chosen: argparse.Namespace, home: Path) -> bool:
    """SIGKILL of the coordinator at a random moment of a run, and a restart at once, once a run."""
    chance, story = random.Random(chosen.seed), Story()
    with Service(chosen, home) as service:
        trees = [by_path(chosen.tree), inline(chosen.tree)]
        usual = [undisturbed(service, tree, story) for tree in trees]
        number = 0
        while number < chosen.kills:
            # A tree that the nodes read in place and one that only the coordinator has, by turns.
            tree, (seconds, linters) = trees[number % 2], usual[number % 2]
            moment = chance.random() * seconds
            run = Case(service, tree, linters)
            time.sleep(max(0.0, run.began + moment - time.monotonic()))
            if run.follower.ended:
                print(f"  a run ended within {moment:.2f} s, before its kill: once more", flush=True)
                run.ends(story)
                continue
            number += 1
            run.kill(story)
            run.ends(story)
            print(f"  {number:2}: killed after {moment:5.2f} s, {run.told()}", flush=True)
    return story.tell(f"kills: {chosen.kills} runs of flask, all linters, coordinator killed at a random moment")


def restarts(chosen: argparse.Namespace, home: Path) -> bool:
    """One run after the other until the coordinator was killed so often, as soon as the mesh is whole again."""
    chance, story, number, most = random.Random(chosen.seed), Story(), 0, 0
    with Service(chosen, home) as service:
        tree = by_path(chosen.tree)
        _, linters = undisturbed(service, tree, story)
        while number < chosen.restarts:
            run = Case(service, tree, linters)
            while number < chosen.restarts:
                time.sleep(chance.random())
                if run.follower.ended:
                    break
                number += 1
                run.kill(story)
            run.ends(story)
            most = max(most, len(run.kills))
            print(f"  {len(run.kills)} kills in a run, {run.told()}", flush=True)
    return story.tell(f"restarts: {number} kills, up to {most} in one run")


def stops(chosen: argparse.Namespace, home: Path) -> bool:
    """SIGTERM at a random moment of a run, without the time to end it, and a restart at once. The nodes that it launched
    end with the coordinator, so their linters are run again.
    """
    chance, story = random.Random(chosen.seed), Story(linters_end=True)
    with Service(chosen, home, "[server]\ndrain_timeout = 0\n") as service:
        tree = inline(chosen.tree)
        seconds, linters = undisturbed(service, tree, story)
        for number in range(chosen.stops):
            moment = chance.random() * seconds
            run = Case(service, tree, linters)
            time.sleep(max(0.0, run.began + moment - time.monotonic()))
            run.kill(story, signal.SIGTERM)
            run.ends(story)
            print(f"  {number + 1:2}: stopped after {moment:5.2f} s, {run.told()}", flush=True)
    return story.tell(f"stops: {chosen.stops} runs of flask, all linters, coordinator stopped in order")


# What is run, and what must come of it.


def by_path(tree: Path) -> tuple[str, workspace_pb2.Workspace]:
    """The tree by its place on this machine."""
    return "by path", workspace_pb2.Workspace(path=workspace_pb2.PathSource(root=str(tree), paths=["src"]))


def inline(tree: Path) -> tuple[str, workspace_pb2.Workspace]:
    """The tree in the request: nobody else has its files."""
    names = [path for path in sorted(tree.rglob("*.py")) if path.is_relative_to(tree / "src")]
    names += [path for path in [tree / "pyproject.toml"] if path.exists()]
    files = [workspace_pb2.InlineFile(path=str(path.relative_to(tree)), data=path.read_bytes()) for path in names]
    return "inline", workspace_pb2.Workspace(inline=workspace_pb2.InlineSource(files=files))


def undisturbed(service: "Service", tree: tuple, story: "Story") -> tuple[float, collections.Counter]:
    """What a run takes when nothing happens, and the linter processes it starts, by linter."""
    run = Case(service, tree, None)
    run.ends(story)
    story.undisturbed[tree[0]] = run.digest
    assert run.follower.result()[0] == "FINDINGS", run.follower.result()
    seconds = run.ended - run.began
    print(f"  undisturbed, tree {tree[0]}: {seconds:.1f} s, {run.told()}, result {run.digest[:16]}", flush=True)
    assert len(run.linters) == len(ALL_TOOLS), f"linters were missed by whoever counts: {dict(run.linters)}"
    return seconds, run.linters


@dataclass
class Story:
    """What came of all runs."""

    undisturbed: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    # Whether nodes and linters end with the coordinator.
    linters_end: bool = False
    runs: int = 0
    events: int = 0
    resumed: int = 0
    accepted_before: int = 0
    running_before: int = 0
    unanswered: int = 0
    tasks: int = 0
    attempts: int = 0
    faults: collections.Counter = field(default_factory=collections.Counter)
    processes: int = 0
    expected: int = 0
    to_end: list[float] = field(default_factory=list)
    to_answer: list[float] = field(default_factory=list)
    to_active: list[float] = field(default_factory=list)

    def tell(self, title: str) -> bool:
        """Print it; whether all promises hold."""
        print(title)
        print(f"  at the kills: {self.running_before} linters ran, {self.accepted_before} tasks had been accepted,")
        print(f"    {self.unanswered} requests for a run had no answer yet")
        print(f"  {self.runs} runs, {self.events} recorded events, {self.resumed} streams taken up again")
        print(
            f"  {self.tasks} LINT tasks, {self.attempts} attempts, {self.processes} linter processes, {self.expected} expected"
        )
        if self.faults:
            print(f"  faults told: {', '.join(f'{name} {count}' for name, count in sorted(self.faults.items()))}")
        spread("kill to the end of its run", self.to_end)
        spread("restart to the first answer", self.to_answer)
        spread("restart to all nodes ACTIVE and linked", self.to_active)
        for what in self.wrong:
            print(f"  BROKEN: {what}")
        promise = "nothing lost, nothing twice" + ("" if self.linters_end else ", no linter again")
        print(f"  {promise}: {'BROKEN' if self.wrong else 'holds'}", flush=True)
        return not self.wrong


class Case:
    """One run under kills."""

    def __init__(self, service: "Service", tree: tuple, usual: collections.Counter | None):
        """Start it."""
        self.service, self.tree, self.usual = service, tree[0], usual
        self.first = len(service.processes.seen)
        self.began = time.monotonic()
        self.kills: list[float] = []
        self.follower = Follower(service.client, tree[1], ALL_TOOLS)

    def kill(self, story: Story, by: signal.Signals = signal.SIGKILL) -> None:
        """End the coordinator, start it again, and wait until the mesh is whole."""
        story.running_before += self.service.processes.running()
        story.accepted_before += len(self.follower.events("task_accepted"))
        story.unanswered += not self.follower.run_id
        self.kills.append(self.service.kill(by))
        answer, active = self.service.restart()
        story.to_answer.append(answer)
        story.to_active.append(active)

    def ends(self, story: Story) -> None:
        """Wait for the end and check everything."""
        label = f"run {story.runs + 1}, tree {self.tree}"
        story.runs += 1
        try:
            outcome, self.digest = self.follower.result(RUN_SECONDS)
        except AssertionError as error:
            story.wrong.append(f"{label} does not end: {error}")
            self.digest, self.ended, self.linters = "", time.monotonic(), collections.Counter()
            return
        self.ended = self.follower.messages[-1][0]
        if self.kills:
            story.to_end.append(self.ended - self.kills[-1])
        # So that the last linter's end is seen.
        time.sleep(5 * LOOK_SECONDS)
        self.linters = self.service.processes.linters(self.first)
        story.wrong += [f"{label}: {what}" for what in self.wrong(outcome, story)]
        if not story.linters_end:
            story.wrong += [f"{label}: {what}" for what in self.service.wrong()]

    def wrong(self, outcome: str, story: Story) -> Iterator[str]:
        """What a run must not have."""
        follower = self.follower
        wanted = story.undisturbed.get(self.tree, self.digest)
        if outcome != "FINDINGS" or self.digest != wanted:
            yield f"it ended {outcome} with the result {self.digest}, undisturbed {wanted}"
        if hashlib.sha256(follower.report()).hexdigest() != self.digest:
            yield "the report that is downloaded is not the one that was told"
        seen, kept = follower.recorded(), follower.again()
        if seen != kept:
            yield f"{len(seen)} recorded events were seen, and {len(kept)} others are kept"
        accepted = collections.Counter(event.task.task_id for _, event in follower.events("task_accepted"))
        if twice := [task for task, times in accepted.items() if times > 1]:
            yield f"tasks {twice} were accepted more than once"
        given = [event for _, event in follower.events("task_assigned")]
        if lost := {event.task.task_id for event in given} - set(accepted):
            yield f"tasks {sorted(lost)} were given to nodes and never accepted"
        attempts = collections.Counter(event.attempt for event in given)
        if again := [attempt for attempt, times in attempts.items() if times > 1]:
            yield f"attempts {again} were used twice"
        faults = [event for _, event in follower.events("fault")]
        lint = [event for event in given if event.task.stage == lint_pb2.STAGE_LINT]
        tasks, processes = len({event.task.task_id for event in lint}), self.linters.total()
        if failed := sum(fault.cause == "ATTEMPT_FAILED" for fault in faults):
            yield f"{failed} attempts failed: {sorted({fault.detail for fault in faults})}"
        # Of a linter that ended at once, on a busy machine, only its shim may have been seen.
        others = self.linters - (self.usual or self.linters) - collections.Counter(unknown=self.linters["unknown"])
        differ = self.usual is not None and (others or self.linters.total() != self.usual.total())
        if differ and not story.linters_end:
            yield f"the linters that ran are {dict(self.linters)}, undisturbed {dict(self.usual)}"
        story.events += len(seen)
        story.resumed += len(follower.broken)
        story.tasks += tasks
        story.attempts += len(lint)
        story.faults.update(fault.cause for fault in faults)
        story.processes += processes
        story.expected += (self.usual or self.linters).total()

    def told(self) -> str:
        """In a line."""
        given = len(self.follower.events("task_assigned"))
        after = f"ended {self.ended - self.kills[-1]:.1f} s after the kill, " if self.kills else ""
        return f"{after}{given} attempts, {self.linters.total()} linters, {len(self.follower.recorded())} events"


def spread(what: str, values: list[float]) -> None:
    """Print percentiles."""
    if values:
        ranks = ", ".join(f"p{round(share * 100)} {percentile(values, share):.3f}" for share in (0.5, 0.9, 0.99))
        print(f"  {what}: {len(values)} measured, {ranks}, most {max(values):.3f} s")


# What is killed.


class Service:
    """`lintmesh serve`, which keeps its state, and the nodes it launches."""

    def __init__(self, chosen: argparse.Namespace, home: Path, settings: str = ""):
        """Only names things; see __enter__."""
        self.home = home
        # A copy, so that every process of this program is known by its path.
        self.program = home / "bin/lintmesh"
        self.program.parent.mkdir(parents=True)
        shutil.copy2(chosen.lintmesh, self.program)
        self.log = home / "log"
        config = home / "lintmesh.toml"
        config.write_text(
            f'{settings}[workspace]\nallowed_roots = ["/"]\n[toolchain]\nmode = "{chosen.toolchain}"\n',
            encoding="utf-8",
        )
        api, admin = free_addresses(2)
        self.api = api
        self.command = [self.program, "serve", "--config", config, "--state-dir", home / "state"]
        self.command += ["--listen", api, "--admin-listen", admin]
        self.nodes: dict[str, tuple[int, str]] = {}

    def __enter__(self) -> Self:
        """Start it and wait until all its nodes are linked."""
        with contextlib.ExitStack() as stack:
            self.client = stack.enter_context(Client(self.api, None))
            self.processes = stack.enter_context(Processes(self.program))
            stack.callback(self.end)
            self.start()
            # The first start may install the linters.
            self.ready(600)
            statuses = self.client.status().node_statuses
            self.nodes = {node: identity(status.process_id) for node, status in statuses.items()}
            assert sorted(self.nodes) == sorted(NODES), self.nodes
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        """End it, and show what it logged if something went wrong."""
        self.stack.close()
        if failure[0]:
            print(self.log.read_text(encoding="utf-8", errors="replace")[-5000:], flush=True)

    def start(self) -> None:
        """Start the coordinator."""
        with self.log.open("ab") as log:
            self.coordinator = subprocess.Popen(
                self.command, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.started = time.monotonic()

    def kill(self, by: signal.Signals) -> float:
        """Send the coordinator, and nothing else, a signal that ends it; return when. Shown to bite: it is gone."""
        at = time.monotonic()
        assert self.coordinator.poll() is None, f"it ended by itself with {self.coordinator.returncode}"
        self.coordinator.send_signal(by)
        ended = self.coordinator.wait(60)
        assert ended == (0 if by is signal.SIGTERM else -by), f"it ended with {ended}"
        return at

    def restart(self) -> tuple[float, float]:
        """Start the coordinator again; return the seconds until it answers, and until its mesh is whole."""
        self.start()
        # Another connection: that of the run's follower has its own pauses.
        with Client(self.api, None) as client:
            client.status()
            answer = time.monotonic() - self.started
            client.ready(READY_SECONDS)
            return answer, time.monotonic() - self.started

    def ready(self, seconds: float) -> None:
        """Wait until all nodes are linked."""
        deadline = time.monotonic() + seconds
        with Client(self.api, None) as client:
            while True:
                assert self.coordinator.poll() is None, f"the coordinator ended with {self.coordinator.returncode}"
                with contextlib.suppress(Exception):
                    client.ready(5)
                    return
                assert time.monotonic() < deadline, f"not ready after {seconds} s"

    def wrong(self) -> Iterator[str]:
        """What the mesh must not have become."""
        statuses = self.client.status().node_statuses
        for node, was in self.nodes.items():
            now = identity(statuses[node].process_id)
            if now != was:
                yield f"{node} is process {now}, and was {was}"
        if len(self.processes.nodes) != len(self.nodes):
            yield f"{len(self.processes.nodes)} node processes were started: {sorted(self.processes.nodes)}"

    def end(self) -> None:
        """End the coordinator, which ends its nodes."""
        if self.coordinator.poll() is None:
            self.coordinator.send_signal(signal.SIGTERM)
            try:
                self.coordinator.wait(60)
            except subprocess.TimeoutExpired:
                self.coordinator.kill()
                self.coordinator.wait()


# Who counts the processes.


class Processes:
    """The processes of a program, as the system shows them: what `watch_processes` prints in a process of its own."""

    def __init__(self, program: Path):
        """Only names it."""
        self.program = program
        self.seen: list[dict] = []
        self.alive: set[tuple[int, str]] = set()
        self.nodes: set[tuple[int, str]] = set()
        self.changed = threading.Condition()

    def __enter__(self) -> Self:
        """Begin."""
        command = [sys.executable, __file__, "--watch-processes", self.program]
        self.watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        return self

    def __exit__(self, *failure: object) -> None:
        """End."""
        self.watcher.terminate()
        self.watcher.wait(10)
        self.reader.join(10)

    def read(self) -> None:
        """Keep what the watcher prints."""
        for line in self.watcher.stdout:
            seen = json.loads(line)
            process = (seen["pid"], seen["started"])
            with self.changed:
                if seen["what"] == "node":
                    self.nodes.add(process)
                elif seen["what"] == "linter":
                    self.seen.append(seen)
                    self.alive.add(process)
                elif seen["what"] == "end":
                    self.alive.discard(process)

    def linters(self, first: int) -> collections.Counter:
        """How many linter processes were started since, by linter."""
        with self.changed:
            return collections.Counter(seen["linter"] for seen in self.seen[first:])

    def running(self) -> int:
        """How many linters run now."""
        assert self.watcher.poll() is None, "nobody watches the processes"
        return len(self.alive)


def watch_processes(program: Path) -> int:
    """Look at all processes again and again; print each node and each linter of a program once, and linters' ends."""
    with contextlib.suppress(OSError):
        os.nice(-10)
    known: set[int] = set()
    # What a process is may show only after a while: a fork is its parent until it executes something.
    young: dict[int, tuple[float, str]] = {}
    nodes: set[int] = set()
    linters: dict[int, str] = {}
    while True:
        began = time.monotonic()
        now = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
        for pid in now - known:
            young[pid] = (began + BECOMES_SECONDS, "")
        known = now
        for pid, (until, shim) in list(young.items()):
            if pid not in now or began > until:
                # A shim whose linter nobody saw counts all the same.
                if shim:
                    told("linter", pid, shim, linter="unknown")
                del young[pid]
                continue
            with contextlib.suppress(OSError, ValueError):
                if os.readlink(f"/proc/{pid}/exe") != str(program):
                    # No process of the program, and its children are not either. What it will be is seen later.
                    continue
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                parent, started = origin(pid)
                role = words[1].decode() if len(words) > 1 else ""
                if role == "node" and parent not in nodes:
                    nodes.add(pid)
                    told("node", pid, started)
                    del young[pid]
                elif role == "exec" and parent in nodes:
                    if not shim:
                        linters[pid] = started
                    young[pid] = (until, started)
                    linter = linter_of(pid)
                    if linter:
                        told("linter", pid, started, linter=linter)
                        del young[pid]
        for pid in linters.keys() - now:
            told("end", pid, linters.pop(pid))
        nodes &= now
        time.sleep(max(0.0, began + LOOK_SECONDS - time.monotonic()))


def told(what: str, pid: int, started: str, **more: str) -> None:
    """Print it in a line."""
    print(json.dumps({"what": what, "pid": pid, "started": started, **more}), flush=True)


def origin(pid: int) -> tuple[int, str]:
    """A process's parent, and the time of its start in ticks of the system, which tells it from others of its number."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return int(fields[1]), fields[19]


def identity(pid: int) -> tuple[int, str]:
    """A process that is never mistaken for another."""
    return pid, origin(pid)[1]


def linter_of(shim: int) -> str | None:
    """The linter that a shim runs, if it runs yet."""
    for child in Path(f"/proc/{shim}/task/{shim}/children").read_text(encoding="utf-8").split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace").split("\0")
        for word in words:
            if Path(word).name in ALL_TOOLS:
                return Path(word).name
    return None


def free_addresses(count: int) -> list[str]:
    """Addresses of this machine where nobody listens."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in held]
    for listener in held:
        listener.close()
    return addresses


if __name__ == "__main__":
    sys.exit(main())
