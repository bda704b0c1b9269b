"""Network namespaces, one for each end, joined by the links of links.py.

Everything made here is removed at the end of the `with` block, also after a failure. What a rig that was killed left
behind is removed by the next one.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
PREFIX = "lintmesh-chaos-"
CLONE_NEWNET = 0x40000000
SECONDS = 20


def ip(*arguments: str) -> str:
    """Run `ip`."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout


def enter(namespace: Path) -> None:
    """Move this thread, and whatever it starts from now on, into a network namespace."""
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    finally:
        os.close(descriptor)


def remove(namespace: str) -> None:
    """End what still runs in a namespace, each process by its id, and remove it."""
    for pid in ip("netns", "pids", namespace).split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    ip("netns", "del", namespace)


def remove_leftovers() -> None:
    """Remove the namespaces of rigs whose process is gone."""
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(PREFIX) and not Path(f"/proc/{name.removeprefix(PREFIX).partition('-')[0]}").exists():
            remove(name)


class Network:
    """Ends that reach each other by emulated links.

    This process is in the namespace of the first end while the network exists: its clients call from there. gRPC's
    threads stay in the namespace where they were started, so a process uses one network in its life.
    """

    def __init__(self, ends: list[str], seed: int):
        """Only names them; see __enter__."""
        self.ends = ends
        self.seed = seed
        self.address = {name: f"10.77.{number // 200}.{number % 200 + 1}" for number, name in enumerate(ends)}
        self.namespace = {name: f"{PREFIX}{os.getpid()}-{number}" for number, name in enumerate(ends)}
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Make the namespaces and join them."""
        remove_leftovers()
        with contextlib.ExitStack() as stack:
            home = Path(f"/proc/{os.getpid()}/ns/net")
            device = {name: f"lm{os.getpid()}n{number}" for number, name in enumerate(self.ends)}
            arguments = [f"{name}={device[name]}={self.address[name]}" for name in self.ends]
            self.emulator = subprocess.Popen(
                [sys.executable, HERE / "links.py", str(self.seed), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(self.end_emulator)
            assert self.answer() == {"ready": len(self.ends)}
            for name in self.ends:
                namespace = self.namespace[name]
                ip("netns", "add", namespace)
                stack.callback(remove, namespace)
                ip("link", "set", device[name], "netns", namespace)
                ip("-n", namespace, "address", "add", f"{self.address[name]}/16", "dev", device[name])
                ip("-n", namespace, "link", "set", device[name], "up", "txqueuelen", "5000")
                ip("-n", namespace, "link", "set", "lo", "up")
            kept = os.open(home, os.O_RDONLY)
            stack.callback(os.close, kept)
            stack.callback(enter, Path(f"/proc/self/fd/{kept}"))
            enter(Path("/run/netns") / self.namespace[self.ends[0]])
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        """Remove everything."""
        self.stack.close()

    def end_emulator(self) -> None:
        """End the emulator; its devices go with it."""
        self.emulator.stdin.close()
        try:
            self.emulator.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.emulator.kill()
            self.emulator.wait()
        self.emulator.stdout.close()

    def command(self, name: str, arguments: Iterable[str | Path]) -> list[str | Path]:
        """The command that runs another one at an end. It replaces itself by it, so its pid is the program's."""
        return ["ip", "netns", "exec", self.namespace[name], *arguments]

    def answer(self) -> dict:
        """The emulator's next answer."""
        assert select.select([self.emulator.stdout], [], [], SECONDS)[0], "the link emulator does not answer"
        line = self.emulator.stdout.readline()
        assert line, "the link emulator ended"
        return json.loads(line)

    def ask(self, command: dict) -> dict:
        """Have the emulator do something."""
        self.emulator.stdin.write(json.dumps(command).encode() + b"\n")
        self.emulator.stdin.flush()
        return self.answer()

    def set(self, pairs: Iterable[tuple[str, str]], **rule: float | bool) -> None:
        """Put a rule on some directions: `cut`, `loss` (0 to 1), `delay`, `jitter` (seconds). No rule: undisturbed."""
        self.ask({"set": [list(pair) for pair in pairs], "rule": rule})

    def all_pairs(self) -> list[tuple[str, str]]:
        """Every direction."""
        return [(a, b) for a in self.ends for b in self.ends if a != b]

    def into(self, name: str) -> list[tuple[str, str]]:
        """Every direction that ends there."""
        return [(other, name) for other in self.ends if other != name]

    def out_of(self, name: str) -> list[tuple[str, str]]:
        """Every direction that begins there."""
        return [(name, other) for other in self.ends if other != name]

    def between(self, some: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
        """Both directions between two groups."""
        return [pair for a in some for b in others for pair in ((a, b), (b, a))]

    def counts(self) -> dict[tuple[str, str], dict[str, int]]:
        """What became of the packets so far, by direction."""
        return {tuple(key.split(" ")): count for key, count in self.ask({"count": True}).items()}

    def ping(self, source: str, target: str, packets: int = 20, interval: float = 0.02) -> tuple[int, float | None]:
        """Echo requests: how many were answered, and their median round trip in seconds."""
        probe = [sys.executable, HERE / "echo.py", self.address[target], str(packets), str(interval)]
        done = subprocess.run(
            self.command(source, probe),
            capture_output=True,
            text=True,
            timeout=SECONDS + packets * interval,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answered, median = json.loads(done.stdout)
        return answered, median

    def connects(self, source: str, target: str, port: int, seconds: float) -> bool:
        """Whether a TCP connection comes about."""
        code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))"
        probe = [sys.executable, "-c", code, self.address[target], str(port), str(seconds)]
        began = time.monotonic()
        done = subprocess.run(self.command(source, probe), capture_output=True, timeout=SECONDS + seconds, check=False)
        assert done.returncode == 0 or b"Error" in done.stderr, (done.stderr, time.monotonic() - began)
        return done.returncode == 0
