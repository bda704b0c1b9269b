"""Processes that die, stop, run out of disk, or do not answer."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

from client import ALL_TOOLS
from mesh import COORDINATOR, NODE_PORT
from scene import QUICK_TOOLS, SHORT_TIMEOUT, Options, Scene, reset_connections, scene

DISK_BYTES = 1 << 20
RECONNECTS = 1000
# A killed node is FAILED within this; when its work is with another depends on whose core is free.
GONE_SECONDS = 2.0
# The longest time for which the coordinator holds back a node that came and went often, see docs/operations.md.
LONGEST_HOLD = 60.0
# Longer than a heartbeat and shorter than message_timeout.
STOPPED_SECONDS = 12


def killed(options: Options) -> None:
    """A node is killed while it lints, another at a random moment of a run, then two of four."""
    with scene(options, "killed", SHORT_TIMEOUT) as at:
        usual = at.expect(ALL_TOOLS)
        at.settle()
        run = at.lint(ALL_TOOLS)
        at.assigned(run, "backend-dev")
        died = at.mesh.kill("backend-dev")
        failed = at.health.reaches("backend-dev", "FAILED", died, 30) - died
        second = at.second_attempt(run, "backend-dev", died)
        at.say(f"killed while it linted: FAILED after {failed:.2f} s, its task with another after {second:.2f} s")
        assert failed <= GONE_SECONDS
        at.same_result(run, ALL_TOOLS)
        at.others_undisturbed(["backend-dev"], died)
        at.mesh.start_node("backend-dev")
        at.whole(30)

        run = at.lint(ALL_TOOLS)
        moment = at.chance.random() * usual
        time.sleep(moment)
        at.mesh.kill("integration-specialist")
        at.same_result(run, ALL_TOOLS)
        at.say(f"killed {moment:.2f} s after the start of a run of usually {usual:.2f} s: the same result")
        at.mesh.start_node("integration-specialist")
        at.whole(30)

        run = at.lint(ALL_TOOLS)
        at.assigned(run, "backend-dev")
        at.mesh.kill("backend-dev")
        at.mesh.kill("api-docs")
        at.same_result(run, ALL_TOOLS)
        at.say("two of four killed: the same result")


def frozen(options: Options) -> None:
    """A node is stopped while it lints: its connections stand, and nothing answers. Then it goes on."""
    with scene(options, "frozen") as at:
        at.expect(ALL_TOOLS)
        run = at.lint(ALL_TOOLS)
        at.assigned(run, "backend-dev")
        stopped = at.mesh.freeze("backend-dev")
        # It accepts connections, since the system does that for it, and never answers.
        at.degraded("backend-dev", stopped)
        second = at.second_attempt(run, "backend-dev", stopped)
        at.say(f"its task got a second attempt elsewhere after {second:.2f} s")
        at.stays(max(0.0, stopped + STOPPED_SECONDS - time.monotonic()))
        at.mesh.resume("backend-dev")
        went_on = time.monotonic()
        at.active("backend-dev", went_on, 20)
        at.same_result(run, ALL_TOOLS)
        at.say("the same result")
        at.at_most(2, "backend-dev", stopped)
        at.others_undisturbed(["backend-dev"], stopped)
        at.whole()


def full_disk(options: Options) -> None:
    """The disk of a node's work folder is full: its tasks fail there and are done elsewhere."""
    with scene(options, "full-disk") as at:
        at.expect()
        at.mesh.kill("backend-dev")
        disk = at.mesh.scratch / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", disk], timeout=20, check=True)
        try:
            at.mesh.start_node("backend-dev", disk)
            at.whole(30)
            fill(disk / "ballast")
            since = time.monotonic()
            run = at.lint(QUICK_TOOLS)
            at.same_result(run)
            causes = {fault.detail for _, fault in run.events("fault") if fault.node_id == "backend-dev"}
            assert causes, "the full disk did not bite: no attempt of that node failed"
            at.say(f"the same result; the node's attempts failed: {sorted(causes)[0]}")
            at.others_undisturbed(["backend-dev"], since)
            (disk / "ballast").unlink()
            at.same_result(at.lint(QUICK_TOOLS))
            at.mesh.kill("backend-dev")
        finally:
            subprocess.run(["umount", "--lazy", disk], timeout=20, check=True)


def fill(file: Path) -> None:
    """Fill a disk; shown to bite: nothing more can be written."""
    with file.open("wb", buffering=0) as ballast:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError as error:
                assert error.errno == 28, error
    try:
        (file.parent / "more").write_bytes(b"x")
    except OSError:
        return
    raise AssertionError("the disk is not full")


class Mute:
    """A listener that accepts and never answers."""

    def __init__(self, address: tuple[str, int]):
        """Listen."""
        self.listener = socket.create_server(address)
        self.accepted: list[socket.socket] = []
        self.times: list[float] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Take connections until closed."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.times.append(time.monotonic())
            self.accepted.append(connection)

    def close(self) -> None:
        """Close everything."""
        # Wakes the thread that accepts, which closing does not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.accepted:
            connection.close()


def mute(options: Options) -> None:
    """In the coordinator's place something accepts and never answers: nodes give up in time and come again, and so do
    clients.
    """
    with scene(options, "mute") as at:
        network, mesh = at.network, at.mesh
        at.expect()
        mesh.kill(COORDINATOR)
        api, nodes = Mute(("127.0.0.1", 50051)), Mute((network.address[COORDINATOR], NODE_PORT))
        try:
            command = [options.binary, "status", "--server", "https://127.0.0.1:50051", "--ca", mesh.authority]
            began = time.monotonic()
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
            assert done.returncode == 2, (done.returncode, done.stderr)
            at.say(f"a client gave up after {time.monotonic() - began:.1f} s")
            deadline = time.monotonic() + 60
            while len(nodes.times) < 2 * len(mesh.nodes):
                assert time.monotonic() < deadline, f"only {len(nodes.times)} connections in 60 s: nodes hang"
                time.sleep(0.1)
            at.say(f"{len(nodes.times)} connections of {len(mesh.nodes)} nodes to a mute coordinator")
        finally:
            api.close()
            nodes.close()
        assert all(mesh.processes[node].poll() is None for node in mesh.nodes), "a node ended"
        mesh.start_coordinator()
        began = time.monotonic()
        at.client.ready(60)
        at.say(f"all nodes joined {time.monotonic() - began:.1f} s after a coordinator was there")
        at.health = at.client.health()
        at.same_result(at.lint(QUICK_TOOLS))


def half_closed(options: Options) -> None:
    """Clients that close half of their connection, and a node whose old connection stands without it."""
    with scene(options, "half-closed") as at:
        at.expect()
        since = time.monotonic()
        address = (at.network.address[COORDINATOR], NODE_PORT)
        halves = [socket.create_connection(address, 10) for _ in range(100)]
        for half in halves:
            half.shutdown(socket.SHUT_WR)
        at.same_result(at.lint(QUICK_TOOLS))
        for half in halves:
            half.settimeout(30)
            # An orderly end or a reset, not silence.
            with contextlib.suppress(ConnectionResetError):
                assert half.recv(1) == b""
            half.close()
        at.say("100 half-closed connections were closed by the coordinator, beside a run")
        at.others_undisturbed([], since)

        # The node dies while nobody can hear it: the coordinator's end of its session stands.
        ends = at.network.into("backend-dev") + at.network.out_of("backend-dev")
        at.network.set(ends, cut=True)
        at.mesh.kill("backend-dev")
        at.network.set(ends)
        assert established(at, "backend-dev") > 0, "the fault did not bite: the coordinator's end is closed"
        began = time.monotonic()
        at.mesh.start_node("backend-dev")
        deadline = began + 30
        old = at.client.status().node_statuses["backend-dev"].incarnation
        while True:
            info = at.client.status().node_statuses["backend-dev"]
            if info.incarnation != old and info.status == 2:
                break
            assert time.monotonic() < deadline, "the new process is not ACTIVE after 30 s"
            time.sleep(0.05)
        at.say(f"a new process took the half-open session's place after {time.monotonic() - began:.2f} s")
        at.same_result(at.lint(QUICK_TOOLS))
        at.whole()


def established(at: Scene, node: str) -> int:
    """The coordinator's connections to a node's address."""
    command = ["ss", "-H", "-t", "-n", "state", "established", "dst", at.network.address[node]]
    return len(subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines())


def resets(options: Options) -> None:
    """Connections of a node are reset during runs: those with the coordinator again and again, then all at once."""
    with scene(options, "resets") as at:
        at.expect(ALL_TOOLS)
        since = time.monotonic()
        run, broken = at.lint(ALL_TOOLS), 0
        for _ in range(5):
            time.sleep(at.chance.random())
            broken += reset_connections(at.network, "backend-dev", COORDINATOR)
        assert broken >= 3, f"the fault did not bite: {broken} connections were broken"
        at.same_result(run, ALL_TOOLS)
        at.say(f"{broken} connections reset during a run: the same result; {at.story('backend-dev', since)}")
        # Its peers see it all the time.
        assert "FAILED" not in {status for _, status, _ in at.health.changes("backend-dev", since)}
        at.others_undisturbed(["backend-dev"], since)
        at.whole(LONGEST_HOLD + 15)

        run = at.lint(ALL_TOOLS)
        at.assigned(run, "backend-dev")
        since = time.monotonic()
        broken = reset_connections(at.network, "backend-dev")
        assert broken >= len(at.mesh.nodes), f"the fault did not bite: {broken} connections were broken"
        # For a moment nobody can tell this from its death.
        at.same_result(run, ALL_TOOLS)
        at.say(f"all {broken} connections reset at once: the same result; {at.story('backend-dev', since)}")
        at.others_undisturbed(["backend-dev"], since)
        at.whole(LONGEST_HOLD + 15)


def reconnects(options: Options) -> None:
    """A node that joins and goes 1,000 times costs nothing that stays, and disturbs nobody."""
    from joining import Visitor

    with scene(options, "reconnects") as at:
        at.expect()
        since = time.monotonic()
        visitor = Visitor(at.network.address[COORDINATOR], NODE_PORT, at.mesh.authority, at.mesh.secret_file)
        for _ in range(50):
            visitor.visit()
        memory, descriptors = resident(at), open_files(at)
        began = time.monotonic()
        for _ in range(RECONNECTS):
            visitor.visit()
        took = time.monotonic() - began
        deadline = time.monotonic() + 30
        while open_files(at) > descriptors + 4:
            assert time.monotonic() < deadline, f"{open_files(at)} open files, before {descriptors}"
            time.sleep(0.1)
        grown = resident(at) - memory
        at.say(f"{RECONNECTS} joins in {took:.1f} s; memory {grown:+.1f} MiB")
        at.say(f"open files: {descriptors} before, {open_files(at)} after")
        assert grown <= 16, f"the coordinator has grown by {grown:.1f} MiB"
        at.others_undisturbed([], since)
        at.same_result(at.lint(QUICK_TOOLS))


def open_files(at: Scene) -> int:
    """Open files of the coordinator."""
    return len(os.listdir(f"/proc/{at.mesh.processes[COORDINATOR].pid}/fd"))


def resident(at: Scene) -> float:
    """Resident memory of the coordinator in MiB."""
    status = Path(f"/proc/{at.mesh.processes[COORDINATOR].pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
