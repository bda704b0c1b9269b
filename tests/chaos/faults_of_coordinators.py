"""A coordinator that is killed, stopped, or cannot write what it must keep."""

import contextlib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator

import grpc
from client import ALL_TOOLS, SECONDS, Client, Follower
from disks import loop_disk, memory_disk
from faults_of_processes import fill
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lintmesh.v1 import coordinator_pb2 as pb
from mesh import ADMIN, COORDINATOR
from scene import QUICK_TOOLS, Options, Scene, scene

MIB = 1 << 20
# The disk of the state, and the part of it that must be free for a new run.
DISK_BYTES, MIN_FREE_BYTES = 96 * MIB, 16 * MIB
DISK_SETTINGS = f"[state]\nmin_free_bytes = {MIN_FREE_BYTES}\n"
# How long the coordinator is away while its nodes work on.
AWAY_SECONDS = 5.0
STOPPED_SECONDS = 25.0
# An assignment that was decided so shortly before a kill may never have left.
ON_ITS_WAY_SECONDS = 1.0
# Health is answered within this on a busy machine, whatever the disk does.
ANSWER_SECONDS = 10.0
# How long after room is made new runs must be taken.
ROOM_SECONDS = 15.0


def coordinator_killed(options: Options) -> None:
    """Killed in a run and started at once, then killed in another and started later: its nodes work on, and nobody does
    anything twice.
    """
    with scene(options, "coordinator-killed") as at:
        at.expect(ALL_TOOLS)
        for away in (0.0, AWAY_SECONDS):
            run = at.follow(ALL_TOOLS)
            at.assigned(run, "backend-dev")
            # So that the linters of the nodes run.
            time.sleep(ON_ITS_WAY_SECONDS)
            assert not run.ended, "the run ended before its coordinator was killed"
            killed = restarted(at, away)
            at.same_result(run, ALL_TOOLS)
            nobody_failed(at)
            nothing_twice(run, [killed])
            at.say(f"killed in a run, away for {away:.0f} s: the same result; {told(run)}")
        at.whole()


def restarted(at: Scene, away: float) -> float:
    """Kill the coordinator and start it again: nobody is FAILED for it. When it was killed."""
    nobody_failed(at)
    died = at.mesh.kill(COORDINATOR)
    at.health.close()
    time.sleep(away)
    at.mesh.start_coordinator()
    began = time.monotonic()
    at.health = at.client.health()
    at.client.ready()
    at.say(f"all nodes ACTIVE and linked {time.monotonic() - began:.2f} s after the start")
    return died


def nobody_failed(at: Scene) -> None:
    """No node is or was FAILED since the stream of health began."""
    for node in at.mesh.nodes:
        story = at.health.statuses(node)
        assert all(status != "FAILED" for _, status, _ in story), f"{node}: {story}"


def nothing_twice(run: Follower, kills: list[float]) -> None:
    """No task was given twice, but for assignments that a kill may have held up, and none accepted twice; the events that
    were seen are those that are kept.
    """
    first: dict[int, tuple[float, int]] = {}
    for at, event in run.events("task_assigned"):
        assert not event.second, f"a second attempt of {event.task}"
        epoch = int(event.attempt.partition(".")[0])
        begun, under = first.setdefault(event.task.task_id, (at, epoch))
        # An assignment that was stored when the coordinator was killed is told by the next one, but never left.
        held_up = epoch > under and any(begun >= kill - ON_ITS_WAY_SECONDS for kill in kills)
        assert (begun, under) == (at, epoch) or held_up, f"given again: {event}"
    accepted = Counter(event.task.task_id for _, event in run.events("task_accepted"))
    assert set(accepted.values()) == {1}, f"accepted twice: {accepted}"
    assert run.recorded() == run.again(), "the events that were seen are not those that are kept"


def told(run: Follower) -> str:
    """What a follower went through."""
    return f"{len(run.recorded())} events, taken up again {len(run.broken)} times"


def coordinator_stopped(options: Options) -> None:
    """The coordinator is stopped in a run, shorter than message_timeout, and goes on: it suspects nobody but itself."""
    with scene(options, "coordinator-stopped") as at:
        at.expect()
        run = at.follow(QUICK_TOOLS)
        at.assigned(run, "backend-dev")
        stopped = at.mesh.freeze(COORDINATOR)
        time.sleep(STOPPED_SECONDS)
        at.mesh.resume(COORDINATOR)
        at.same_result(run)
        at.whole(30)
        nobody_failed(at)
        for node in at.mesh.nodes:
            at.say(f"{node}: {at.story(node, stopped) or 'no change'}")
        accepted = Counter(event.task.task_id for _, event in run.events("task_accepted"))
        assert set(accepted.values()) == {1}, f"accepted twice: {accepted}"
        at.say(f"stopped for {STOPPED_SECONDS:.0f} s: the same result; {told(run)}")


def coordinator_disk_full(options: Options) -> None:
    """The disk of the coordinator's state is full: new runs are refused, the one that runs ends, health is answered."""
    disk = options.scratch / "coordinator-disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", disk], timeout=20, check=True)
    try:
        with scene(options, "coordinator-disk-full", DISK_SETTINGS, state=disk / "state") as at:
            at.expect(ALL_TOOLS)
            at.expect()
            run = at.follow(ALL_TOOLS)
            at.assigned(run, "backend-dev")
            with answering(at) as answers:
                fill(disk / "ballast")
                full = time.monotonic()
                at.refused("RESOURCE_EXHAUSTED")
                at.same_result(run, ALL_TOOLS)
                at.refused("RESOURCE_EXHAUSTED")
                at.say("full to the last byte in a run: new runs are refused, it ended with the same result")
                (disk / "ballast").unlink()
                freed = time.monotonic()
                taken(at, freed)
            at.say(f"{len(answers)} answers about health, the slowest after {max(answers):.2f} s")
            assert max(answers) <= ANSWER_SECONDS
            at.others_undisturbed([], full)
            nothing_twice(run, [])
            # What was written while there was no room is there after a restart.
            restarted(at, 0.0)
            nobody_failed(at)
            assert run.recorded() == run.again()
            at.whole()
    finally:
        subprocess.run(["umount", "--lazy", disk], timeout=20, check=True)


def taken(at: Scene, since: float) -> None:
    """New runs are taken again."""
    while True:
        try:
            run = at.lint(QUICK_TOOLS)
            run.wait("the run begins", lambda watch: watch.messages or None)
            break
        except AssertionError:
            assert time.monotonic() < since + ROOM_SECONDS, f"refused {ROOM_SECONDS:.0f} s after room was made"
            time.sleep(0.2)
    at.say(f"a new run was taken {time.monotonic() - since:.1f} s after room was made")
    at.same_result(run)


@contextlib.contextmanager
def answering(at: Scene) -> Iterator[list[float]]:
    """Ask for health all the time, in both ways: the seconds that each answer took."""
    answers: list[float] = []
    failures: list[str] = []
    over = threading.Event()

    def ask(call: object, request: object) -> None:
        while not over.wait(0.1):
            began = time.monotonic()
            try:
                call(request, timeout=SECONDS)
            except grpc.RpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
            answers.append(time.monotonic() - began)

    with grpc.insecure_channel(ADMIN, [("grpc.enable_http_proxy", 0)]) as admin, Client(*at.api()) as client:
        check = health_pb2_grpc.HealthStub(admin).Check
        asked = [
            (check, health_pb2.HealthCheckRequest(service="readiness")),
            (check, health_pb2.HealthCheckRequest(service="liveness")),
            (client.stub.GetMeshStatus, pb.GetMeshStatusRequest()),
        ]
        threads = [threading.Thread(target=ask, args=one) for one in asked]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert not failures, f"{len(failures)} questions about health failed, first {failures[0]}"


def coordinator_read_only(options: Options) -> None:
    """The file system of the coordinator's state becomes read-only in a run, as a disk that fails makes it: what was
    promised is there when it can be written again.
    """
    folder = options.scratch / "coordinator-read-only-disk"
    disk = folder / "disk"
    disk.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        medium = loop_disk(folder / "image", disk) or memory_disk(disk, stack)
        settings = {"state": disk / "state", "prefix": medium.writable}
        at = stack.enter_context(scene(options, "coordinator-read-only", DISK_SETTINGS, **settings))
        at.say(f"the state is on {medium.name}")
        at.expect(ALL_TOOLS)
        before = at.follow(QUICK_TOOLS)
        at.expect()
        at.same_result(before)
        run = at.follow(ALL_TOOLS)
        at.assigned(run, "backend-dev")
        medium.fail(at)

        medium.make_read_only()
        at.mesh.start_coordinator(medium.read_only)
        process = at.mesh.processes[COORDINATOR]
        assert process.wait(SECONDS) not in (0, None)
        said = at.mesh.log(COORDINATOR).strip().splitlines()[-1]
        at.say(f"started on a read-only file system it says: {said}")
        assert "read-only" in said.lower() and str(disk) in said, said

        medium.make_writable()
        at.mesh.start_coordinator(medium.writable)
        at.health = at.client.health()
        at.same_result(run, ALL_TOOLS)
        assert run.recorded() == run.again() and before.recorded() == before.again()
        at.say(f"writable again: everything is there, and the run ended with the same result; {told(run)}")
        at.whole(30)
