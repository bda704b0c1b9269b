"""A real `lintmesh serve` on free loopback ports, for the time of a `with` block."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# A first start on a clean machine installs the linters.
START_SECONDS = 420
STOP_SECONDS = 30


@dataclass(frozen=True)
class Server:
    """Where a server listens, and its process."""

    api: str
    admin: str
    pid: int


def free_ports(count: int) -> list[int]:
    """Find ports that nothing listens on. All are held until all are found, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def processes() -> dict[int, tuple[int, str]]:
    """Return each living process: its parent, and its start, which tells it from a later one with the same id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = (int(fields[1]), fields[19])
    return found


def descendants(pid: int) -> dict[int, str]:
    """Return the processes beneath one, each with its start."""
    table, known = processes(), {pid}
    while True:
        more = {child for child, (parent, _) in table.items() if parent in known} - known
        if not more:
            return {child: table[child][1] for child in known - {pid} if child in table}
        known |= more


def answers(url: str) -> bool:
    """Whether a GET gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


@contextlib.contextmanager
def serve(binary: Path, scratch: Path, name: str, *, nodes: str = "local", more: str = "") -> Iterator[Server]:
    """Start a server with `more` settings, wait for it, and end it at the end; fail if it leaves a process or a file behind."""
    api, admin = free_ports(2)
    home = scratch / name
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    (home / "lintmesh.toml").write_text(
        f"""[server]
listen = "127.0.0.1:{api}"
admin_listen = "127.0.0.1:{admin}"

[nodes]
launch = "{nodes}"
{more}""",
        encoding="utf-8",
    )
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, "serve"],
            cwd=home,
            env=os.environ | {"TMPDIR": str(temporary), "XDG_STATE_HOME": str(home / "state")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    children: dict[int, str] = {}
    try:
        # Readiness is for nodes to make true; without nodes of its own a server is up when it lives.
        page = "readyz" if nodes == "local" else "livez"
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"http://127.0.0.1:{admin}/{page}"):
            if process.poll() is not None:
                raise AssertionError(f"the server ended with {process.returncode}:\n{log.read_text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the server is not ready after {START_SECONDS} s:\n{log.read_text()}")
            time.sleep(0.1)
        yield Server(f"127.0.0.1:{api}", f"127.0.0.1:{admin}", process.pid)
        assert process.poll() is None, f"the server ended by itself with {process.returncode}:\n{log.read_text()}"
        children = descendants(process.pid)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the server did not end within {STOP_SECONDS} s:\n{log.read_text()}") from None
    assert process.returncode == 0, f"the server ended with {process.returncode}:\n{log.read_text()}"
    assert children or nodes != "local", "the server had no nodes"
    deadline = time.monotonic() + STOP_SECONDS
    while left := {pid for pid, start in children.items() if processes().get(pid, (0, ""))[1] == start}:
        assert time.monotonic() < deadline, f"the server left the processes {sorted(left)}"
        time.sleep(0.1)
    files = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*"))
    assert not files, f"the server left files: {files}"
