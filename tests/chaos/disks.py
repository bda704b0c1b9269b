"""File systems that become read-only under a coordinator."""

import contextlib
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from mesh import COORDINATOR
from scene import Scene

SIZE = 96 << 20
SECONDS = 60


@dataclass
class LoopDisk:
    """An ext4 of its own on a loop device, mounted in the mount namespace of the coordinator, so that it goes with it."""

    image: Path
    disk: Path
    name: str = "an ext4 of its own"
    writable: list = field(init=False)
    read_only: list = field(init=False)

    def __post_init__(self) -> None:
        """The commands that mount it and become the coordinator."""
        mounted = ["sh", "-c", 'mount -o "loop,errors=remount-ro$0" "$1" "$2" && shift 2 && exec "$@"']
        self.writable = [*mounted, "", self.image, self.disk]
        self.read_only = [*mounted, ",ro", self.image, self.disk]

    def fail(self, at: Scene) -> None:
        """It becomes read-only under the coordinator, which says so and ends, or refuses new runs."""
        process = at.mesh.processes[COORDINATOR]
        inside = Path(f"/proc/{process.pid}/root{self.disk}")
        abort = ["nsenter", "-t", str(process.pid), "-m", "mount", "-o", "remount,abort", self.disk]
        subprocess.run(abort, capture_output=True, timeout=20, check=False)
        try:
            (inside / "more").write_bytes(b"x")
            raise AssertionError("the file system is not read-only")
        except OSError as error:
            at.say(f"writing says: {error.strerror}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        if process.poll() is None:
            at.refused("RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION")
            at.mesh.kill(COORDINATOR)
        else:
            said = at.mesh.log(COORDINATOR).strip().splitlines()[-1]
            at.say(f"the coordinator ended with {process.returncode} and said: {said}")
            assert process.returncode != 0 and "read-only" in said.lower() and str(self.disk) in said, said

    def make_read_only(self) -> None:
        """Its next mount may be a read-only one."""
        self.released()
        checked = subprocess.run(
            ["e2fsck", "-p", self.image], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert checked.returncode <= 1, checked.stdout

    def make_writable(self) -> None:
        """Its next mount may be a writable one."""
        self.released()

    def released(self) -> None:
        """Wait until the system has given up the file system of a process that ended."""
        deadline = time.monotonic() + SECONDS
        while subprocess.run(["losetup", "-j", self.image], capture_output=True, timeout=20, check=True).stdout:
            assert time.monotonic() < deadline, f"{self.image} is still mounted"
            time.sleep(0.05)


@dataclass
class MemoryDisk:
    """A tmpfs, where there are no loop devices: no process may write to it when it becomes read-only, so the coordinator
    is killed first.
    """

    disk: Path
    name: str = "a tmpfs, for want of loop devices"
    writable: list = field(default_factory=list)
    read_only: list = field(default_factory=list)

    def fail(self, at: Scene) -> None:
        """The coordinator is killed with the run under way."""
        at.mesh.kill(COORDINATOR)

    def make_read_only(self) -> None:
        """From now on nothing can be written."""
        mount(self.disk, "remount,ro")

    def make_writable(self) -> None:
        """From now on it can be written again."""
        mount(self.disk, "remount,rw")


def loop_disk(image: Path, disk: Path) -> LoopDisk | None:
    """A file system on a loop device; none where this machine gives no such device."""
    for name, kind in [("loop-control", ("c", "10", "237")), *((f"loop{n}", ("b", "7", str(n))) for n in range(8))]:
        if not Path("/dev", name).exists():
            subprocess.run(["mknod", f"/dev/{name}", *kind], capture_output=True, timeout=20, check=False)
    if subprocess.run(["losetup", "-f"], capture_output=True, timeout=20, check=False).returncode != 0:
        return None
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], timeout=SECONDS, check=True)
    found = LoopDisk(image, disk)
    tried = subprocess.run(
        ["unshare", "-m", *found.writable, "true"], capture_output=True, timeout=SECONDS, check=False
    )
    if tried.returncode != 0:
        return None
    found.released()
    return found


def memory_disk(disk: Path, stack: contextlib.ExitStack) -> MemoryDisk:
    """A tmpfs that goes with the stack."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "chaos", disk], timeout=20, check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", disk], timeout=20, check=False)
    return MemoryDisk(disk)


def mount(disk: Path, options: str) -> None:
    """Mount anew what is mounted there."""
    subprocess.run(["mount", "-o", options, disk], timeout=20, check=True)
