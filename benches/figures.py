#!/usr/bin/env python3
"""Measure what lintmesh promises in time and memory, against a release build.

    cargo build --release
    benches/figures.py            # all figures; exit code 1 if a promise is broken
    benches/figures.py overhead   # or some of: overhead, idle, report, projects

Needs Python 3.11 and xargs; `report` and `projects` fetch pinned source archives with pip.
Measure on a machine that does nothing else: the load average is printed for a reason.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OVERHEAD_SECONDS = 0.4
IDLE_MIB = 50
REPORT_MIB = 300
REPORT_DIAGNOSTICS = 25_000

ONE_FILE = '''"""An example of one file."""

import os
import sys


def run(command: str) -> int:
    """Run a command."""
    password = "secret"
    return eval(command)
'''

# Longest first, so that the direct start of two at a time is as good as it can be.
DIRECT_ORDER = ["pylint", "mypy", "bandit", "flake8", "ruff"]

ARCHIVES = {
    "django": ("Django==5.2", "1a47f7a7a3d43ce64570d350e008d2949abe8c7e21737b351b6a1611277c6d89"),
    "flask": ("flask==3.1.1", "284c7b8f2f58cb737f0cf1c30fd7eaf0ccfcde196099d24ecede3fc2005aa59e"),
    "requests": ("requests==2.32.4", "27d0316682c8a29834d3264820024b62a36942083d52caf2f14c0591336d3422"),
}


def main() -> int:
    """Measure what is asked; the exit code says whether all promises hold."""
    figures = {"overhead": overhead, "idle": idle, "report": report, "projects": projects}
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("figures", nargs="*", default=[], metavar="FIGURE", help=", ".join(figures))
    arguments.add_argument("--lintmesh", type=Path, default=ROOT / "target/release/lintmesh")
    arguments.add_argument("--repetitions", type=int, default=10)
    arguments.add_argument("--idle-seconds", type=float, default=30)
    chosen = arguments.parse_args()
    if unknown := set(chosen.figures) - set(figures):
        arguments.error(f"no such figure: {', '.join(sorted(unknown))}; choose from {', '.join(figures)}")
    chosen.lintmesh = chosen.lintmesh.resolve(strict=True)
    machine(chosen.lintmesh)
    with tempfile.TemporaryDirectory(prefix="lintmesh-figures-") as scratch:
        held = [figures[name](chosen, Path(scratch)) for name in chosen.figures or figures]
    return 0 if all(held) else 1


def machine(binary: Path) -> None:
    """Print what was measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    memory = Path("/proc/meminfo").read_text().split()[1]
    print(f"machine   {os.cpu_count()} x {model}, {int(memory) // 1024} MiB, {platform.system()} {platform.release()}")
    print(f"load      {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    print(f"binary    {printed([binary, '--version']).strip()}, {binary.stat().st_size / 2**20:.1f} MiB")


def overhead(chosen: argparse.Namespace, scratch: Path) -> bool:
    """One file: the mesh against the same five commands, two at a time."""
    tree = scratch / "one-file"
    tree.mkdir()
    (tree / "example.py").write_text(ONE_FILE, encoding="utf-8")
    mesh, direct = compared(chosen.lintmesh, tree, ["example.py"], chosen.repetitions)
    difference = median(mesh) - median(direct)
    return verdict("overhead", difference, OVERHEAD_SECONDS, "s")


def projects(chosen: argparse.Namespace, scratch: Path) -> bool:
    """Two real projects, for information."""
    for name, folder in (("requests", "src/requests"), ("flask", "src/flask")):
        tree = unpacked(name, scratch)
        files = sorted(str(path.relative_to(tree)) for path in (tree / folder).rglob("*.py"))
        compared(chosen.lintmesh, tree, files, max(3, chosen.repetitions // 3))
    return True


def compared(binary: Path, tree: Path, files: list[str], repetitions: int) -> tuple[list, list]:
    """Time `lintmesh lint` and its own five commands by turns, so that both meet the same machine."""
    lint = [binary, "lint", "--no-progress", "--format", "json", *files]
    # The first run installs the linters if need be, and tells their commands.
    made = json.loads(printed(lint, tree))
    commands = []
    for tool in DIRECT_ORDER:
        about = made["result"]["tools"][tool]
        assert about["files"] == len(files), f"{tool} got {about['files']} of {len(files)} files"
        program = made["execution"]["tools"][tool]["executable"]
        commands.append([program, *about["arguments"], *(f"./{file}" for file in files)])
    mesh, direct = [], []
    for _ in range(repetitions):
        direct.append(timed(lambda: two_at_a_time(commands, tree)))
        mesh.append(timed(lambda: printed(lint, tree)))
    print(
        f"{tree.name}: {len(files)} files, {made['result']['summary']['diagnostics']} diagnostics, {repetitions} repetitions"
    )
    print(f"  five tools, two at a time  {spread(direct)}")
    print(f"  lintmesh lint              {spread(mesh)}")
    return mesh, direct


def two_at_a_time(commands: list[list[str]], tree: Path) -> None:
    """Start the commands in their order, at most two at a time."""
    scripts = []
    for number, command in enumerate(commands):
        script = tree.parent / f"{tree.name}-{number}.sh"
        # A linter that has findings is no failure.
        script.write_text(f"{shlex.join(command)} > {script}.out 2>&1 || true\n", encoding="utf-8")
        scripts.append(str(script))
    subprocess.run(["xargs", "-P2", "-n1", "sh"], input="\n".join(scripts), text=True, cwd=tree, check=True)


def idle(chosen: argparse.Namespace, scratch: Path) -> bool:
    """The coordinator while its four nodes wait for work."""
    with serve(chosen.lintmesh, scratch / "idle") as (_, pid, _):
        time.sleep(chosen.idle_seconds)
        nodes = [memory(child, "VmRSS") for child in children(pid)]
        assert len(nodes) == 4, f"{len(nodes)} nodes"
        used = memory(pid, "VmRSS")
        print(
            f"idle: {chosen.idle_seconds:.0f} s after the start, nodes {', '.join(f'{node:.1f}' for node in nodes)} MiB"
        )
        return verdict("resident", used, IDLE_MIB, "MiB")


def report(chosen: argparse.Namespace, scratch: Path) -> bool:
    """A large report, streamed and downloaded: the coordinator's peak."""
    tree = unpacked("django", scratch)
    with serve(chosen.lintmesh, scratch / "report") as (url, pid, _):
        client = [chosen.lintmesh]
        lint = [*client, "lint", "--server", url, "--no-progress", "--format", "json", "--select-tools", "ruff"]
        start = time.monotonic()
        made = json.loads(printed([*lint, "--option", "ruff.select=ALL", "django"], tree))
        seconds, after_lint = time.monotonic() - start, memory(pid, "VmHWM")
        run, total = made["execution"]["run_id"], made["result"]["summary"]["diagnostics"]
        sarif = printed([*client, "report", run, "--server", url, "--format", "sarif"], tree)
        canonical = printed([*client, "report", run, "--server", url, "--result"], tree)
        # Other watchers: one beside the other.
        watch = [*client, "watch", run, "--server", url]
        watchers = [subprocess.Popen(watch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
        for watcher in watchers:
            watcher.wait()
        peak = memory(pid, "VmHWM")
        results = len(json.loads(sarif)["runs"][0]["results"])
        print(
            f"report: {total} diagnostics, result {len(canonical) / 2**20:.1f} MiB, run with download {seconds:.1f} s"
        )
        print(f"  after the run and its download {after_lint:.1f} MiB; SARIF has {results} results")
        enough = verdict("diagnostics", -total, -REPORT_DIAGNOSTICS, "")
        return verdict("peak", peak, REPORT_MIB, "MiB") and enough


@contextlib.contextmanager
def serve(binary: Path, home: Path, flags: Sequence[str] = (), page: str = "readyz") -> Iterator[tuple[str, int, str]]:
    """Run `lintmesh serve` on free ports until an admin page, by default readiness, answers; give the API's address,
    its process, and the address where nodes join.
    """
    home.mkdir()
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    api, admin, nodes = (f"127.0.0.1:{listener.getsockname()[1]}" for listener in held)
    for listener in held:
        listener.close()
    flags = [*flags, "--listen", api, "--admin-listen", admin, "--node-listen", nodes]
    flags += ["--state-dir", str(home / "state")]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([binary, "serve", *flags], cwd=home, stdout=log, stderr=log)
    try:
        for _ in range(6000):
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://{admin}/{page}", timeout=2).close()
                break
            assert process.poll() is None, (home / "log").read_text()
            time.sleep(0.1)
        yield f"http://{api}", process.pid, f"http://{nodes}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def unpacked(name: str, scratch: Path) -> Path:
    """The project's pinned source archive."""
    pinned, digest = ARCHIVES[name]
    wanted = scratch / f"{name}.txt"
    wanted.write_text(f"{pinned} --hash=sha256:{digest}\n", encoding="utf-8")
    folder = scratch / f"{name}-archive"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--require-hashes", "-r", wanted, "-d", folder], check=True)
    (archive,) = folder.iterdir()
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    archive.unlink()
    (tree,) = folder.iterdir()
    return tree


def printed(command: list, folder: Path = ROOT) -> str:
    """What a command prints; findings are no failure."""
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode in (0, 1), f"{command[:2]} ended with {done.returncode}: {done.stderr.decode()}"
    return done.stdout.decode()


def timed(action) -> tuple[float, float]:
    """Elapsed seconds, and CPU seconds of all processes, which another load on the machine hardly changes."""
    start, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    ended, used_now = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended - start, used_now.ru_utime - used.ru_utime + used_now.ru_stime - used.ru_stime


def memory(pid: int, field: str) -> float:
    """A figure of a process's memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def children(pid: int) -> list[int]:
    """The children of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def spread(taken: list[tuple[float, float]]) -> str:
    """Median and range."""
    seconds = [elapsed for elapsed, _ in taken]
    used = statistics.median(cpu for _, cpu in taken)
    return f"median {median(taken):.3f} s, {min(seconds):.3f} to {max(seconds):.3f} s, CPU {used:.3f} s"


def median(taken: list[tuple[float, float]]) -> float:
    """The median of the elapsed seconds."""
    return statistics.median(elapsed for elapsed, _ in taken)


def verdict(what: str, value: float, most: float, unit: str) -> bool:
    """Print a figure beside its promise."""
    holds = value <= most
    bound, value = ("at least", -value) if most < 0 else ("at most", value)
    print(f"  {what} {value:.2f} {unit}, promised {bound} {abs(most)} {unit}: {'holds' if holds else 'BROKEN'}")
    return holds


if __name__ == "__main__":
    sys.exit(main())
