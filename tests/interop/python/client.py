"""Lints a local tree on a lintmesh server, with nothing but the published protocol.

The stubs are generated from `proto/` by grpcio-tools; `run` puts them on PYTHONPATH. Prints a JSON object about the run
and writes the bytes of the canonical result to a file.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from lintmesh.v1 import coordinator_pb2, coordinator_pb2_grpc, lint_pb2, workspace_pb2, workspace_pb2_grpc

CHUNK = 256 * 1024
SERVICES = {"lintmesh.v1.CoordinatorService", "lintmesh.v1.WorkspaceService", "grpc.health.v1.Health"}


def digest(data: bytes) -> str:
    """Name some bytes as lintmesh does."""
    return hashlib.sha256(data).hexdigest()


def snapshot(tree: Path) -> tuple[str, dict[str, bytes]]:
    """Return the digest of the tree's manifest, and all blobs of the snapshot by digest."""
    blobs, files = {}, []
    for path in sorted(tree.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        data = path.read_bytes()
        blobs[digest(data)] = data
        entry = {"path": path.relative_to(tree).as_posix(), "digest": digest(data), "size": len(data)}
        files.append(entry if path.suffix == ".py" else entry | {"lint": False})
    files.sort(key=lambda entry: entry["path"].encode())
    manifest = json.dumps({"version": 1, "files": files}, separators=(",", ":"), ensure_ascii=False).encode()
    blobs[digest(manifest)] = manifest
    return digest(manifest), blobs


def upload(channel: grpc.Channel, blobs: dict[str, bytes], timeout: float) -> None:
    """Upload the blobs that the server does not hold; then it must hold all."""
    workspace = workspace_pb2_grpc.WorkspaceServiceStub(channel)
    question = workspace_pb2.FindMissingBlobsRequest(digests=sorted(blobs))
    missing = workspace.FindMissingBlobs(question, timeout=timeout).missing_digests
    assert set(missing) <= set(blobs), missing

    def pieces():
        for name in missing:
            data = blobs[name]
            for start in range(0, max(len(data), 1), CHUNK):
                yield workspace_pb2.UploadBlobsRequest(
                    digest=name if start == 0 else "", data=data[start : start + CHUNK]
                )

    answer = workspace.UploadBlobs(pieces(), timeout=timeout)
    assert answer.blobs == len(missing), (answer.blobs, len(missing))
    assert answer.bytes == sum(len(blobs[name]) for name in missing), answer.bytes
    assert not workspace.FindMissingBlobs(question, timeout=timeout).missing_digests
    some = sorted(blobs)[:3]
    held = dict.fromkeys(some, b"")
    for piece in workspace.DownloadBlobs(workspace_pb2.DownloadBlobsRequest(digests=some), timeout=timeout):
        held[piece.digest] += piece.data
    assert held == {name: blobs[name] for name in some}, "a blob did not come back as it was sent"


def check_events(events: list) -> lint_pb2.RunSummary:
    """Check the order that the protocol promises and return the summary."""
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started" and events[0].sequence == 1, kinds[:3]
    assert kinds[-1] == "finished" and kinds.count("finished") == 1, kinds[-3:]
    assert kinds.count("started") == 1, kinds
    numbers = [event.sequence for event in events if event.sequence]
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    for event, kind in zip(events, kinds):
        assert (event.sequence == 0) == (kind in ("progress", "diagnostics")), (kind, event.sequence)
        assert event.run_id == events[0].run_id and event.HasField("time"), event
    stages = {event.task_accepted.task.stage for event in events if event.HasField("task_accepted")}
    assert stages == set(lint_pb2.Stage.values()) - {lint_pb2.STAGE_UNSPECIFIED}, stages
    summary = events[-1].finished.summary
    streamed = sum(len(event.diagnostics.diagnostics) for event in events)
    assert streamed == summary.reported, (streamed, summary.reported)
    return summary


def check_services(channel: grpc.Channel, timeout: float) -> None:
    """Ask reflection and health as generic clients do."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICES <= set(database.get_services()), database.get_services()
    method = database.FindFileContainingSymbol("lintmesh.v1.CoordinatorService")
    assert method.name == "lintmesh/v1/coordinator.proto", method.name
    health = health_pb2_grpc.HealthStub(channel)
    for service in ["", "readiness", "liveness", "lintmesh.v1.CoordinatorService", "lintmesh.v1.WorkspaceService"]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, (service, answer)
    try:
        health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=timeout)
        raise AssertionError("an unknown service has a health")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
    watch = health.Watch(health_pb2.HealthCheckRequest(service="readiness"), timeout=timeout)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def main() -> int:
    """Run the session."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--tree", required=True, type=Path)
    parser.add_argument("--result", required=True, type=Path)
    parser.add_argument("--timeout", type=float, default=240)
    options = parser.parse_args()
    with grpc.insecure_channel(options.address) as channel:
        check_services(channel, options.timeout)
        root, blobs = snapshot(options.tree)
        upload(channel, blobs, options.timeout)
        coordinator = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        request = coordinator_pb2.CoordinateRequest(
            project="interop-python",
            workspace=workspace_pb2.Workspace(snapshot=workspace_pb2.SnapshotSource(digest=root)),
        )
        events = [answer.event for answer in coordinator.Coordinate(request, timeout=options.timeout)]
        summary = check_events(events)
        finished = events[-1].finished
        run_id = events[0].run_id

        # A watcher that resumes after the first event gets every later one, and no other.
        resumed = coordinator_pb2.WatchRunRequest(run_id=run_id, after_sequence=1)
        later = [answer.event for answer in coordinator.WatchRun(resumed, timeout=options.timeout)]
        recorded = [event for event in events if event.sequence > 1]
        assert [event for event in later if event.sequence] == recorded, "the resumed watch tells another story"

        question = coordinator_pb2.DownloadReportRequest(
            run_id=run_id, format=coordinator_pb2.REPORT_FORMAT_RESULT
        )
        result = b"".join(piece.data for piece in coordinator.DownloadReport(question, timeout=options.timeout))
        assert digest(result) == finished.report_digest, (digest(result), finished.report_digest)
        options.result.write_bytes(result)
        parsed = json.loads(result)
        assert parsed["summary"]["diagnostics"] == summary.diagnostics == len(parsed["diagnostics"])
    print(
        json.dumps(
            {
                "run_id": run_id,
                "snapshot": root,
                "outcome": lint_pb2.Outcome.Name(finished.outcome),
                "report_digest": finished.report_digest,
                "files": summary.files,
                "diagnostics": summary.diagnostics,
                "events": len(events),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
