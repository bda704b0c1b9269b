#!/usr/bin/env python3
"""Measure how fast a real mesh finds faults and gets over them, against a release build, as root.

    cargo build --release
    tests/chaos/prepare                                     # Python packages, stubs and flask, into target/ci
    target/ci/python/bin/python benches/faults.py           # all figures; exit code 1 if a promise is broken
    target/ci/python/bin/python benches/faults.py kill cut  # or some

Measure on a machine that does nothing else: the load average is printed for a reason.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import resource
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "tests/chaos"), str(ROOT / "target/ci/stubs")]

from client import ALL_TOOLS, Client, Watch  # noqa: E402
from figures import machine, memory, serve  # noqa: E402
from mesh import API, COORDINATOR, NODES, Mesh  # noqa: E402
from network import Network  # noqa: E402

SUSPECTED, GIVEN = {"idle": 0.3, "busy": 1.0}, {"idle": 1.0, "busy": 2.0}
DEGRADED = 4.0
MESSAGE_TIMEOUT = 30.0
# The core looks at its deadlines at least once a second.
TIMEOUT_SLACK = 2.0
RETURNED = 3.0
TRAFFIC = 1024.0
NODES_CPU, NODES_MIB = 0.30, 300.0
# A linter that uses no time of the machine: the figure is about the mesh.
WAITING_RUFF = """#!/bin/sh
[ "$1" = --version ] && echo 'ruff 1.0.0' && exit
sleep 60
echo '[]'
"""
# A node that is back at once would hide from a watcher that its peers lost it.
NO_RESTARTS = "[nodes]\nrestart_budget = 0\n"


def main() -> int:
    """Measure what is asked; the exit code says whether all promises hold."""
    figures = {
        "kill": kill,
        "cut": cut,
        "flask-faults": flask_faults,
        "return": returned,
        "traffic": traffic,
        "nodes": many_nodes,
    }
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(figures))
    arguments.add_argument("--lintmesh", type=Path, default=ROOT / "target/release/lintmesh")
    arguments.add_argument(
        "--tree", type=Path, default=ROOT / "target/ci/flask", help="flask's source archive, unpacked"
    )
    arguments.add_argument("--seed", type=int, default=int(time.time()))
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--cuts", type=int, default=20)
    arguments.add_argument("--timeouts", type=int, default=3, help="cuts that last until FAILED")
    arguments.add_argument("--runs", type=int, default=20, help="runs of flask-faults with one node killed")
    arguments.add_argument("--returns", type=int, default=20)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16, 31], help="nodes for traffic")
    arguments.add_argument("--idle-seconds", type=float, default=60)
    arguments.add_argument("--simulated", type=int, default=1000, help="nodes for nodes")
    arguments.add_argument("--load", choices=["idle", "busy"], help="only this part of kill")
    arguments.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if unknown := set(chosen.figures) - set(figures):
        arguments.error(f"no such figure: {', '.join(sorted(unknown))}; choose from {', '.join(figures)}")
    chosen.lintmesh, chosen.tree = chosen.lintmesh.resolve(strict=True), chosen.tree.resolve(strict=True)
    if chosen.scratch:
        # A process for each figure: gRPC's threads stay in the network namespace where they began.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
        [name] = chosen.figures
        return 0 if figures[name](chosen) else 1
    machine(chosen.lintmesh)
    print(f"seed      {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="lintmesh-figures-") as scratch:
        own = [argument for argument in sys.argv[1:] if argument not in figures]
        common = [sys.executable, __file__, *own, "--seed", str(chosen.seed), "--scratch", scratch]
        sizes = [["--sizes", str(size)] for size in chosen.sizes]
        parts = [(name, part) for name in chosen.figures or figures for part in (sizes if name == "traffic" else [[]])]
        held = [subprocess.run([*common, name, *part], check=False).returncode == 0 for name, part in parts]
    return 0 if all(held) else 1


# Figures. Each is measured from the act to the arrival of the news at a client, so the true times are shorter.


def kill(chosen: argparse.Namespace) -> bool:
    """SIGKILL of a node at a random moment: until every survivor's own link to it is down, and until its task is with
    another node.
    """
    return all([killed(chosen, load) for load in ([chosen.load] if chosen.load else ["idle", "busy"])])


def killed(chosen: argparse.Namespace, load: str) -> bool:
    """One load."""
    chance, suspected, given = random.Random(chosen.seed), [], []
    home = chosen.scratch / f"kill-{load}"
    with local_mesh(chosen, home, settings=NO_RESTARTS + waiting_tool(chosen.scratch)) as client:
        health = client.health(0.5)
        busy = busy_cores(chosen) if load == "busy" else contextlib.nullcontext()
        with busy:
            for number in range(chosen.kills):
                linked(client, 60)
                run = client.lint(chosen.tree, ["ruff"], ["src/flask/app.py"])
                victim, task, attempt = run.wait("a node has the task", lint_task, 60)
                time.sleep(chance.random() * 2)
                process = client.status().node_statuses[victim].process_id
                at = time.monotonic()
                os.kill(process, signal.SIGKILL)
                others = [node for node in NODES if node != victim]
                seen = [suspicion(health, observer, victim, at) for observer in others]
                suspected.append(max(seen) - at)
                moved = run.wait(
                    "its task is with another", lambda watch, was=(task, attempt): reassigned(watch, *was), 60
                )
                given.append(moved - at)
                client.cancel(run)
                client.recover(victim)
                if number % 20 == 19:
                    print(f"  kill, {load}: {number + 1} of {chosen.kills}", flush=True)
    print(f"kill: {chosen.kills} SIGKILLs at random moments, {load}")
    first = promised(f"suspected by every survivor, {load}", suspected, SUSPECTED[load])
    return promised(f"task with another, {load}", given, GIVEN[load]) and first


def cut(chosen: argparse.Namespace) -> bool:
    """A node with a task is cut off from all in silence: until DEGRADED, until the second attempt, until FAILED."""
    chance, degraded, second, failed = random.Random(chosen.seed), [], [], []
    with (
        Network([COORDINATOR, *NODES], chosen.seed) as network,
        Mesh(network, chosen.lintmesh, chosen.scratch / "cut", toolchain=waiting_folder(chosen.scratch)) as mesh,
        Client(API, mesh.authority) as client,
    ):
        health = client.health(0.5)
        for number in range(chosen.cuts):
            linked(client, 60)
            # No verdict of silence counts in the grace after a start.
            if number == 0:
                time.sleep(MESSAGE_TIMEOUT)
            run = client.lint(chosen.tree, ["ruff"], ["src/flask/app.py"])
            victim, task, attempt = run.wait("a node has the task", lint_task, 60)
            time.sleep(chance.random() * 5)
            at = time.monotonic()
            network.set(network.into(victim) + network.out_of(victim), cut=True)
            answered, _ = network.ping(COORDINATOR, victim, 1)
            assert answered == 0, "the cut does not bite"
            degraded.append(health.reaches(victim, "DEGRADED", at, 60) - at)
            moved = run.wait("a second attempt", lambda watch, was=(task, attempt): reassigned(watch, *was), 60)
            second.append(moved - at)
            if number < chosen.timeouts:
                failed.append(health.reaches(victim, "FAILED", at, 60) - at)
            client.cancel(run)
            # A new process starts without the old one's history.
            mesh.kill(victim)
            network.set(network.all_pairs())
            mesh.start_node(victim)
            health.wait(f"{victim} is back", lambda watch, who=victim: watch.statuses(who)[-1][1] == "ACTIVE", 60)
    print(f"cut: {chosen.cuts} silent cuts at random moments, idle")
    held = [promised("DEGRADED", degraded, DEGRADED), promised("second attempt", second, DEGRADED)]
    if failed:
        held.append(promised("FAILED", failed, MESSAGE_TIMEOUT + TIMEOUT_SLACK))
        early = min(failed) < MESSAGE_TIMEOUT - TIMEOUT_SLACK
        print(f"  FAILED no earlier than {min(failed):.2f} s: {'BROKEN' if early else 'holds'}")
        held.append(not early)
    return all(held)


def flask_faults(chosen: argparse.Namespace) -> bool:
    """Runs of flask with all linters under faults: the `result` is the undisturbed one, byte by byte."""
    chance, equal = random.Random(chosen.seed), 0
    with (
        Network([COORDINATOR, *NODES], chosen.seed) as network,
        Mesh(network, chosen.lintmesh, chosen.scratch / "flask") as mesh,
        Client(API, mesh.authority) as client,
    ):
        linked(client, 60)
        began = time.monotonic()
        undisturbed = client.lint(chosen.tree, ALL_TOOLS, ["src"]).result()
        usual = time.monotonic() - began
        print(f"flask-faults: undisturbed {usual:.1f} s, {undisturbed}", flush=True)
        assert undisturbed[0] == "FINDINGS"

        def disturbed(what: str, victims: list[str], fault) -> bool:
            for _ in range(10):
                run = client.lint(chosen.tree, ALL_TOOLS, ["src"])
                moment = chance.random() * usual
                time.sleep(moment)
                if not run.events("finished"):
                    break
                print(f"  a run ended within {moment:.2f} s, before its fault: once more")
            else:
                raise AssertionError("every run ended before its fault")
            started = time.monotonic()
            fault()
            same = run.result() == undisturbed
            took = time.monotonic() - started + moment
            print(
                f"  {what} after {moment:.2f} s, ended after {took:.1f} s: {'equal' if same else 'DIFFERENT'}",
                flush=True,
            )
            network.set(network.all_pairs())
            for victim in victims:
                if mesh.processes[victim].poll() is not None:
                    mesh.start_node(victim)
            linked(client, 120)
            return same

        for _ in range(chosen.runs):
            node = chance.choice(NODES)
            equal += disturbed(f"{node} killed", [node], lambda node=node: mesh.kill(node))
        two = chance.sample(NODES, 2)
        pair = disturbed(f"{' and '.join(two)} killed", two, lambda: [mesh.kill(node) for node in two])

        def cut_off() -> None:
            network.set(network.between([COORDINATOR], ["backend-dev"]), cut=True)
            assert network.ping(COORDINATOR, "backend-dev", 1)[0] == 0, "the cut does not bite"

        apart = disturbed("coordinator cut off from backend-dev", ["backend-dev"], cut_off)
    print(f"  {equal} of {chosen.runs} equal with one killed; two killed {pair}; cut off {apart}")
    return equal == chosen.runs and pair and apart


def returned(chosen: argparse.Namespace) -> bool:
    """A killed local node: until it is ACTIVE again, as another process, and all 12 links are up."""
    chance, took = random.Random(chosen.seed), []
    for number in range(chosen.returns):
        # Each time a new mesh: restarts of one back off.
        with local_mesh(chosen, chosen.scratch / f"return-{number}") as client:
            linked(client, 60)
            health = client.health(0.5)
            victim = chance.choice(NODES)
            time.sleep(chance.random() * 2)
            before = client.status().node_statuses[victim]
            at = time.monotonic()
            os.kill(before.process_id, signal.SIGKILL)
            was = (victim, before.process_id, at)
            took.append(health.wait("it is back", lambda watch, was=was: whole_again(watch, *was), 60) - at)
            after = client.status().node_statuses[victim]
            assert after.incarnation > before.incarnation, "it was not started again"
    print(f"return: {chosen.returns} kills of a launched node")
    return promised("ACTIVE again with 12 links", took, RETURNED)


def traffic(chosen: argparse.Namespace) -> bool:
    """Payload of TCP, TLS included, that an idle mesh sends, by node and direction."""
    [size] = chosen.sizes
    nodes = NODES if size == len(NODES) else [f"node-{number}" for number in range(size)]
    home, tool = chosen.scratch / f"traffic-{size}", waiting_folder(chosen.scratch)
    with (
        Network([COORDINATOR, *nodes], chosen.seed) as network,
        Mesh(network, chosen.lintmesh, home, toolchain=tool, nodes=nodes) as mesh,
        Client(API, mesh.authority) as client,
    ):
        linked(client, 120)
        # What joining costs is not of interest here.
        time.sleep(10)
        before, began = network.counts(), time.monotonic()
        time.sleep(chosen.idle_seconds)
        after, seconds = network.counts(), time.monotonic() - began
        linked(client, 1)
    rate = {pair: (after[pair]["payload"] - before[pair]["payload"]) / seconds for pair in after}
    sent = [sum(rate[pair] for pair in network.out_of(node)) for node in nodes]
    received = [sum(rate[pair] for pair in network.into(node)) for node in nodes]
    peers = [sum(rate[pair] for pair in network.out_of(node) if pair[1] != COORDINATOR) for node in nodes]
    print(f"traffic: {size} nodes, idle for {seconds:.0f} s, bytes a second of a node")
    for what, figures in (("sent", sent), ("of it to peers", peers), ("received", received)):
        print(f"  {what:15} mean {statistics.mean(figures):7.0f}, most {max(figures):7.0f}", flush=True)
    return size != len(NODES) or verdict("most by node and direction", max(sent + received), TRAFFIC, "B/s")


def many_nodes(chosen: argparse.Namespace) -> bool:
    """Many nodes that only beat, on one coordinator, over real gRPC: what that costs the coordinator."""
    home = chosen.scratch / "nodes"
    home.mkdir()
    secret, config = external(home)
    # A connection for each node.
    resource.setrlimit(resource.RLIMIT_NOFILE, (chosen.simulated * 2 + 1000,) * 2)
    flags = ["--launch", "external", "--config", str(config)]
    with serve(chosen.lintmesh, home / "serve", flags, "livez") as (url, pid, node_url):
        command = [load_driver(chosen), node_url, secret, str(chosen.simulated)]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = load.stdout.readline()
            assert line.startswith("joined"), f"the driver says {line!r}"
            with Client(url.removeprefix("http://"), None) as client:
                active = client.status().metrics.active_nodes
                assert active == chosen.simulated, f"{active} of {chosen.simulated} nodes are ACTIVE"
                began, used = time.monotonic(), cpu_seconds(pid)
                time.sleep(chosen.idle_seconds)
                share = (cpu_seconds(pid) - used) / (time.monotonic() - began)
                active = client.status().metrics.active_nodes
                assert active == chosen.simulated, f"only {active} of {chosen.simulated} nodes are still ACTIVE"
        finally:
            load.terminate()
            load.wait(30)
        print(f"nodes: {chosen.simulated} ACTIVE nodes that beat, for {chosen.idle_seconds:.0f} s")
        first = verdict("share of one core", share, NODES_CPU, "")
        return verdict("peak of resident memory", memory(pid, "VmHWM"), NODES_MIB, "MiB") and first


def load_driver(chosen: argparse.Namespace) -> Path:
    """Build the program that plays the nodes, like the binary that is measured."""
    profile = ["--release"] if "release" in chosen.lintmesh.parts else []
    build = ["cargo", "build", *profile, "--locked", "--bench", "many_nodes", "--message-format=json"]
    built = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    programs = [made["executable"] for made in map(json.loads, built) if made.get("executable")]
    return next(Path(program) for program in programs if Path(program).name.startswith("many_nodes"))


# What the figures have in common.


@contextlib.contextmanager
def local_mesh(chosen: argparse.Namespace, home: Path, settings: str = "") -> Iterator[Client]:
    """`lintmesh serve` with the nodes it launches."""
    config = chosen.scratch / f"{home.name}.toml"
    config.write_text(f'{settings}\n[workspace]\nallowed_roots = ["/"]\n', encoding="utf-8")
    with (
        serve(chosen.lintmesh, home, ["--config", str(config)]) as (url, *_),
        Client(url.removeprefix("http://"), None) as client,
    ):
        client.ready()
        yield client


def waiting_folder(scratch: Path) -> str:
    """A toolchain whose only linter waits."""
    folder = scratch / "waiting"
    if not folder.exists():
        (folder / "bin").mkdir(parents=True)
        (folder / "pyvenv.cfg").write_text("version = 3.11.2\n", encoding="utf-8")
        for name, script in (("ruff", WAITING_RUFF), ("python", "#!/bin/sh\nexit 1\n")):
            (folder / "bin" / name).write_text(script, encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)
    return str(folder)


def waiting_tool(scratch: Path) -> str:
    """The setting that chooses it."""
    return f'[toolchain]\nmode = "{waiting_folder(scratch)}"\n'


@contextlib.contextmanager
def busy_cores(chosen: argparse.Namespace) -> Iterator[None]:
    """Real linters on every core, all the time."""
    managed = subprocess.run([chosen.lintmesh, "lint", "--format", "json", "src/flask/app.py", "--quiet"],
                             cwd=chosen.tree, capture_output=True, text=True, check=False, timeout=600)  # fmt: skip
    pylint = json.loads(managed.stdout)["execution"]["tools"]["pylint"]["executable"]
    loop = 'while :; do "$0" --disable=all --enable=all src > /dev/null 2>&1; done'
    running = [
        subprocess.Popen(["sh", "-c", loop, pylint], cwd=chosen.tree, start_new_session=True)
        for _ in range(os.cpu_count())
    ]
    try:
        time.sleep(3)
        used = cpu_share(1)
        assert used > 0.9, f"the cores are not busy: {used:.0%}"
        yield
    finally:
        for process in running:
            # The shell and the linter of the moment: the group that was made for them.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cpu_share(seconds: float) -> float:
    """The share of all cores in use."""

    def times() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text(encoding="utf-8").split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    (total, idle), _ = times(), time.sleep(seconds)
    total_now, idle_now = times()
    return 1 - (idle_now - idle) / (total_now - total)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def linked(client: Client, seconds: float) -> None:
    """Wait until all nodes are ACTIVE and all links are up."""
    client.ready(seconds)
    deadline = time.monotonic() + seconds
    while True:
        health = client.status().metrics
        size = health.total_nodes
        if health.active_nodes == size and health.connections == size * (size - 1):
            return
        assert time.monotonic() < deadline, f"{health.connections} links among {health.active_nodes} of {size} nodes"
        time.sleep(0.02)


def lint_task(watch: Watch) -> tuple[str, int, str] | None:
    """The node, the task and the attempt of the first LINT task that was assigned."""
    for _, event in watch.events("task_assigned"):
        if event.task.tool:
            return event.node_id, event.task.task_id, event.attempt
    return None


def reassigned(watch: Watch, task: int, attempt: str) -> float | None:
    """When the task was given to a node again."""
    given = watch.events("task_assigned")
    return next((at for at, event in given if event.task.task_id == task and event.attempt != attempt), None)


def suspicion(health: Watch, observer: str, subject: str, since: float) -> float:
    """When an observer said that its link to a subject is down, or has given it up as the subject is FAILED."""

    def found(watch: Watch) -> float | None:
        return next(
            (at for at, message in list(watch.messages) if at >= since and not sees(message, observer, subject)), None
        )

    return health.wait(f"{observer} suspects {subject}", found, 30)


def sees(message: object, observer: str, subject: str) -> bool:
    """Whether an observer's link to a subject is up, by its own word."""
    links = message.health.node_health[observer].links
    return any(link.peer_id == subject and link.state == 2 for link in links)


def whole_again(watch: Watch, victim: str, process: int, since: float) -> float | None:
    """When all was well again with another process of the victim. It may be back before anybody is told that it was gone."""
    for at, message in list(watch.messages):
        health = message.health
        is_new = health.node_health[victim].process_id not in (0, process)
        if at >= since and is_new and health.active_nodes == len(NODES) and health.connections == 12:
            return at
    return None


def external(home: Path) -> tuple[str, Path]:
    """A secret and the settings that know it."""
    secret = secrets.token_hex(16)
    config = home / "lintmesh.toml"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    config.write_text(f'[[nodes.secrets]]\nname = "figures"\nsha256 = "{digest}"\n', encoding="utf-8")
    return secret, config


def percentile(values: list[float], share: float) -> float:
    """The value that so many do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def promised(what: str, values: list[float], most: float) -> bool:
    """Print percentiles beside the promise, which is about the 99th."""
    ranks = ", ".join(f"p{round(share * 100)} {percentile(values, share):.3f}" for share in (0.5, 0.9, 0.99))
    print(f"  {what}: {len(values)} measured, {ranks}, most {max(values):.3f} s")
    return verdict(f"{what}, p99", percentile(values, 0.99), most, "s")


def verdict(what: str, value: float, most: float, unit: str) -> bool:
    """Print a figure beside its promise."""
    holds = value <= most
    print(
        f"  {what} {value:.2f} {unit}, promised at most {most:g} {unit}: {'holds' if holds else 'BROKEN'}", flush=True
    )
    return holds


if __name__ == "__main__":
    sys.exit(main())
