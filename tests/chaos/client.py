"""What a client sees of the mesh: its health as it is streamed, and runs, each message with its time of arrival."""

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Self

import grpc
from google.protobuf.duration_pb2 import Duration
from lintmesh.v1 import coordinator_pb2 as pb
from lintmesh.v1 import coordinator_pb2_grpc, lint_pb2, node_pb2, workspace_pb2

# The longest that a run may take on a busy machine, and anything else.
RUN_SECONDS = 240
SECONDS = 60
ALL_TOOLS = ["bandit", "flake8", "mypy", "pylint", "ruff"]


def status_name(status: int) -> str:
    """ACTIVE, DEGRADED, FAILED or INITIALIZING."""
    return node_pb2.NodeStatus.Name(status).removeprefix("NODE_STATUS_")


class Client:
    """Calls the API."""

    def __init__(self, address: str, authority: Path | None):
        """Connect, with TLS if there is an authority. A connection of its own, dialled anew without long pauses, so that
        what is measured is the server.
        """
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 64 << 20)]
        options += [("grpc.use_local_subchannel_pool", 1), ("grpc.min_reconnect_backoff_ms", 100)]
        options += [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        if authority:
            credentials = grpc.ssl_channel_credentials(authority.read_bytes())
            self.channel = grpc.secure_channel(address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(address, options)
        self.stub = coordinator_pb2_grpc.CoordinatorServiceStub(self.channel)

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Close the connection; its streams end."""
        self.channel.close()

    def ready(self, seconds: float = SECONDS) -> pb.InitializeMeshResponse:
        """Wait until all nodes are ACTIVE."""
        request = pb.InitializeMeshRequest(wait=duration(seconds))
        answer = self.stub.InitializeMesh(request, timeout=seconds + 10, wait_for_ready=True)
        states = {name: status_name(node.status) for name, node in answer.nodes.items()}
        assert answer.ready, f"not all nodes are ACTIVE after {seconds} s: {states}"
        return answer

    def status(self) -> pb.GetMeshStatusResponse:
        """The mesh as it is now."""
        return self.stub.GetMeshStatus(pb.GetMeshStatusRequest(), timeout=SECONDS, wait_for_ready=True)

    def health(self, interval: float = 1.0) -> "Watch":
        """Watch the health of the mesh."""
        return Watch(self.stub.StreamHealth(pb.StreamHealthRequest(interval=duration(interval)), wait_for_ready=True))

    def lint(self, tree: Path, tools: list[str], paths: list[str]) -> "Watch":
        """Start a run and watch it."""
        source = workspace_pb2.PathSource(root=str(tree), paths=paths)
        request = pb.CoordinateRequest(
            workspace=workspace_pb2.Workspace(path=source),
            tools=[lint_pb2.ToolSelection(tool=tool) for tool in tools],
        )
        return Watch(self.stub.Coordinate(request, timeout=RUN_SECONDS))

    def start(self, tree: Path, tools: list[str], paths: list[str]) -> pb.StartRunResponse:
        """Start a run."""
        source = workspace_pb2.PathSource(root=str(tree), paths=paths)
        request = pb.StartRunRequest(
            workspace=workspace_pb2.Workspace(path=source),
            tools=[lint_pb2.ToolSelection(tool=tool) for tool in tools],
        )
        return self.stub.StartRun(request, timeout=SECONDS)

    def follow(self, tree: Path, tools: list[str], paths: list[str]) -> "Follower":
        """Start a run and follow it to its end, whatever becomes of the coordinator meanwhile."""
        source = workspace_pb2.PathSource(root=str(tree), paths=paths)
        return Follower(self, workspace_pb2.Workspace(path=source), tools)

    def cancel(self, run: "Watch") -> None:
        """Cancel a run and see its end."""
        started = run.wait("the run starts", lambda watch: next(iter(watch.messages), None))
        self.stub.CancelRun(pb.CancelRunRequest(run_id=started[1].event.run_id), timeout=SECONDS)
        run.result()

    def recover(self, node: str) -> pb.HandleFaultResponse:
        """Bring a node back."""
        request = pb.HandleFaultRequest(node_id=node, action=pb.FAULT_ACTION_RECOVER)
        return self.stub.HandleFault(request, timeout=SECONDS)


class Watch:
    """A stream whose messages are kept with the time of their arrival."""

    def __init__(self, call: grpc.Call):
        """Read it in a thread of its own."""
        self.call = call
        self.messages: list[tuple[float, object]] = []
        self.changed = threading.Condition()
        self.ended = False
        self.failure: str | None = None
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Keep what arrives."""
        try:
            for message in self.call:
                with self.changed:
                    self.messages.append((time.monotonic(), message))
                    self.changed.notify_all()
        except grpc.RpcError as error:
            self.failure = f"{error.code().name}: {error.details()}"
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait(self, what: str, found: Callable[[Self], object], seconds: float = SECONDS) -> object:
        """Wait until `found` finds something in the messages, and return it."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                value = found(self)
                if value is not None and value is not False:
                    return value
                left = deadline - time.monotonic()
                assert not self.ended, f"{what}: the stream ended first ({self.failure})"
                assert left > 0, f"in vain for {seconds:.0f} s: {what}"
                self.changed.wait(left)

    def close(self) -> None:
        """End the stream."""
        self.call.cancel()

    # Of a stream of health.

    def statuses(self, node: str, since: float = 0.0) -> list[tuple[float, str, str]]:
        """The statuses of a node, each with the time at which it was first seen, and its cause. The first is the one
        that was in force at `since`.
        """
        seen: list[tuple[float, str, str]] = []
        for at, message in list(self.messages):
            if node not in message.health.node_health:
                continue
            health = message.health.node_health[node]
            status = status_name(health.status)
            if at < since:
                seen = [(at, status, health.cause)]
            elif not seen or seen[-1][1] != status:
                seen.append((at, status, health.cause))
        return seen

    def changes(self, node: str, since: float) -> list[tuple[float, str, str]]:
        """The changes of a node's status since then."""
        return self.statuses(node, since)[1:]

    def reaches(self, node: str, status: str, since: float, seconds: float) -> float:
        """Wait for a change of a node's status to this one; return when it was seen."""

        def found(watch: "Watch") -> float | None:
            return next((at for at, now, _ in watch.changes(node, since) if now == status), None)

        return self.wait(f"{node} becomes {status}", found, seconds)

    # Of a stream of a run.

    def events(self, kind: str) -> list[tuple[float, object]]:
        """The events of one kind."""
        return [
            (at, getattr(message.event, kind)) for at, message in list(self.messages) if message.event.HasField(kind)
        ]

    def result(self, seconds: float = RUN_SECONDS) -> tuple[str, str]:
        """Wait for the run's end: its outcome, and the digest of its result."""
        finished = self.wait(
            "the run ends", lambda watch: next((event for _, event in watch.events("finished")), None), seconds
        )
        return lint_pb2.Outcome.Name(finished.outcome).removeprefix("OUTCOME_"), finished.report_digest


class Follower(Watch):
    """A run that is followed over restarts of the coordinator: started by one request id, and watched on after the last
    recorded event that arrived. Events that repeat, leave a gap, or are not the run's are failures.
    """

    def __init__(self, client: Client, workspace: workspace_pb2.Workspace, tools: list[str]):
        """Begin, in a thread of its own."""
        self.client = client
        self.request = pb.StartRunRequest(
            request_id=uuid.uuid4().hex,
            workspace=workspace,
            tools=[lint_pb2.ToolSelection(tool=tool) for tool in tools],
        )
        self.run_id = ""
        self.last = 0
        # What broke off, for messages.
        self.broken: list[str] = []
        super().__init__(iter(()))

    def read(self) -> None:
        """Start and watch until the run has ended, again and again if the coordinator goes away."""
        deadline = time.monotonic() + RUN_SECONDS
        try:
            while not self.finished():
                try:
                    self.attempt(deadline - time.monotonic())
                except grpc.RpcError as error:
                    # The only one that says: try again. DEADLINE_EXCEEDED is the end of patience.
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    self.broken.append(error.details())
                    time.sleep(0.02)
        except grpc.RpcError as error:
            self.failure = f"{error.code().name}: {error.details()}"
        except AssertionError as error:
            self.failure = str(error)
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def attempt(self, seconds: float) -> None:
        """One call after the other, as long as they go well."""
        stub = self.client.stub
        if not self.run_id:
            answer = stub.StartRun(self.request, timeout=seconds, wait_for_ready=True)
            self.run_id = answer.run.run_id
        request = pb.WatchRunRequest(run_id=self.run_id, after_sequence=self.last)
        for message in stub.WatchRun(request, timeout=seconds, wait_for_ready=True):
            event = message.event
            assert event.run_id == self.run_id, f"an event of {event.run_id} while {self.run_id} is watched"
            if event.sequence:
                assert event.sequence == self.last + 1, f"event {event.sequence} came after event {self.last}"
                self.last = event.sequence
            with self.changed:
                self.messages.append((time.monotonic(), message))
                self.changed.notify_all()

    def finished(self) -> bool:
        """Whether the last event has come."""
        return bool(self.messages) and self.messages[-1][1].event.HasField("finished")

    def recorded(self) -> list[bytes]:
        """The recorded events so far, each as its bytes."""
        events = (message.event for _, message in list(self.messages))
        return [event.SerializeToString(deterministic=True) for event in events if event.sequence]

    def again(self) -> list[bytes]:
        """The recorded events as the coordinator has them now, of a run that has ended."""
        stream = self.client.stub.WatchRun(pb.WatchRunRequest(run_id=self.run_id), timeout=SECONDS, wait_for_ready=True)
        events = (message.event for message in stream)
        return [event.SerializeToString(deterministic=True) for event in events if event.sequence]

    def report(self) -> bytes:
        """The canonical result."""
        request = pb.DownloadReportRequest(run_id=self.run_id, format=pb.REPORT_FORMAT_RESULT)
        return b"".join(piece.data for piece in self.client.stub.DownloadReport(request, timeout=SECONDS))


def duration(seconds: float) -> Duration:
    """As protobuf has it."""
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
