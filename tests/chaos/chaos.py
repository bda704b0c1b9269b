#!/usr/bin/env python3
"""Real processes and real linters under injected faults. Run by .ci/chaos, as root.

    chaos.py                       # everything
    chaos.py killed flip-flop      # some scenarios

Each scenario is a process of its own with network namespaces of its own. Those that mostly wait run together.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# No scenario takes as long as this; one that does hangs.
SCENARIO_SECONDS = 420

# It measures the emulated network itself, before anything else runs.
MEASURING = ["emulator"]
# They wait, so they run beside each other.
WAITING = ["flip-flop", "lossy-node", "one-way", "coordinator-stopped"]
# They measure how work goes on, so they run alone.
WORKING = [
    "killed",
    "frozen",
    "full-disk",
    "mute",
    "half-closed",
    "resets",
    "reconnects",
    "loss",
    "cut-from-all",
    "cut-from-coordinator",
    "partition",
    "coordinator-killed",
    "coordinator-disk-full",
    "coordinator-read-only",
]


def perform(name: str, chosen: argparse.Namespace) -> int:
    """Run one scenario in this process."""
    # Ended from outside, it must still remove what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    import faults_of_coordinators
    import faults_of_links
    import faults_of_processes
    from scene import Options

    found = [
        getattr(module, name.replace("-", "_"))
        for module in (faults_of_coordinators, faults_of_links, faults_of_processes)
        if hasattr(module, name.replace("-", "_"))
    ]
    options = Options(chosen.binary, chosen.scratch, chosen.tree, chosen.toolchain, chosen.seed)
    found[0](options)
    return 0


def main() -> int:
    """Run the scenarios; the exit code says whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(MEASURING + WAITING + WORKING))
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/lintmesh")
    parser.add_argument("--tree", type=Path, default=ROOT / "target/ci/flask", help="flask's source archive, unpacked")
    parser.add_argument("--toolchain", default="managed", help="where the linters come from, as for `lintmesh lint`")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if unknown := set(chosen.scenarios) - {*MEASURING, *WAITING, *WORKING}:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; choose from {', '.join(MEASURING + WAITING + WORKING)}")
    chosen.binary, chosen.tree = chosen.binary.resolve(strict=True), chosen.tree.resolve(strict=True)
    if chosen.here:
        return perform(chosen.scenarios[0], chosen)
    print(f"seed {chosen.seed}", flush=True)
    wanted = chosen.scenarios or [*MEASURING, *WAITING, *WORKING]
    with tempfile.TemporaryDirectory(prefix="lintmesh-chaos-") as scratch:
        chosen.scratch = chosen.scratch or Path(scratch)
        failed = together([name for name in wanted if name in MEASURING], chosen)
        failed += together([name for name in wanted if name in WAITING], chosen)
        for name in wanted:
            if name in WORKING:
                failed += together([name], chosen)
    if failed:
        print(f"chaos: FAILED: {', '.join(failed)} (seed {chosen.seed})")
        return 1
    print(f"chaos: all {len(wanted)} scenarios passed")
    return 0


def together(names: list[str], chosen: argparse.Namespace) -> list[str]:
    """Run scenarios beside each other, each in a process of its own; return those that failed."""
    running = {}
    for name in names:
        command = [sys.executable, __file__, name, "--here", "--binary", chosen.binary, "--tree", chosen.tree]
        command += ["--toolchain", chosen.toolchain, "--seed", str(chosen.seed), "--scratch", chosen.scratch]
        output = (chosen.scratch / f"{name}.out").open("w+", encoding="utf-8")
        running[name] = (time.monotonic(), subprocess.Popen(command, stdout=output, stderr=output), output)
    failed = []
    try:
        for name, (began, process, output) in running.items():
            try:
                process.wait(max(1.0, began + SCENARIO_SECONDS - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(60)
            verdict = "passed" if process.returncode == 0 else "FAILED"
            output.seek(0)
            print(f"{name}: {verdict} in {time.monotonic() - began:.0f} s\n{output.read()}", end="", flush=True)
            if process.returncode != 0:
                failed.append(name)
    finally:
        for _, process, output in running.values():
            output.close()
            if process.poll() is None:
                process.terminate()
                process.wait(60)
    return failed


if __name__ == "__main__":
    sys.exit(main())
