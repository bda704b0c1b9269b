"""Every rpc of the public API through grpcurl, which knows the service by reflection only."""

import base64
import hashlib
import json
import re
import subprocess
import time
from typing import Any

RPCS = {
    "CoordinatorService": [
        "InitializeMesh", "Coordinate", "StartRun", "WatchRun", "GetRun", "ListRuns", "CancelRun", "DownloadReport",
        "GetMeshStatus", "StreamHealth", "HandleFault", "Diagnose", "ExplainTask",
    ],
    "WorkspaceService": ["FindMissingBlobs", "UploadBlobs", "DownloadBlobs"],
}
SECONDS = 120
INLINE = {"inline": {"files": [{"path": "a.py", "text": "import os\n"}]}}


class Failed(Exception):
    """A call that ended with a status other than OK; `str()` is grpcurl's report of it."""


class Grpcurl:
    """Calls one server."""

    def __init__(self, program: str, address: str) -> None:
        """Remember where the program and the server are."""
        self.program, self.address = program, address

    def run(self, *arguments: str, request: str | None = None, seconds: float = SECONDS) -> str:
        """Run grpcurl and return its output."""
        done = subprocess.run(
            [self.program, "-plaintext", "-max-time", str(seconds), *arguments],
            input=request, stdin=subprocess.DEVNULL if request is None else None,
            capture_output=True, text=True, timeout=seconds + 30, check=False,
        )
        if done.returncode != 0:
            raise Failed(done.stdout + done.stderr)
        return done.stdout

    def call(self, method: str, *requests: Any, seconds: float = SECONDS) -> list[dict]:
        """Call a method with one request, or a stream of them, and return all answers."""
        text = "\n".join(json.dumps(request) for request in requests)
        symbol = method if method.startswith("grpc.") else f"lintmesh.v1.{method}"
        return documents(self.run("-d", "@", self.address, symbol, request=text, seconds=seconds))

    def one(self, method: str, request: Any) -> dict:
        """Call a unary method."""
        (answer,) = self.call(method, request)
        return answer

    def refused(self, method: str, request: Any, code: str, *words: str) -> None:
        """Check that a call ends with a status."""
        try:
            answer = self.call(method, request)
        except Failed as error:
            # Details of types that reflection does not list are shown as the bytes they are.
            details = [base64.b64decode(value) for value in re.findall(r'"@value": "([^"]*)"', str(error))]
            text = str(error) + b" ".join(details).decode(errors="replace")
            missing = [word for word in (f"Code: {code}", *words) if word not in text]
            assert not missing, f"{method}: {missing} not in: {error}"
        else:
            raise AssertionError(f"{method} accepted {request}: {answer}")


def documents(text: str) -> list[dict]:
    """Split the JSON documents that follow each other."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        value, place = decoder.raw_decode(text, place)
        found.append(value)
    return found


def check_reflection(server: Grpcurl) -> None:
    """List services and methods by reflection; grpcurl takes v1, the Python client tests v1alpha."""
    services = server.run(server.address, "list").split()
    for service, methods in RPCS.items():
        assert f"lintmesh.v1.{service}" in services, services
        listed = server.run(server.address, "list", f"lintmesh.v1.{service}").split()
        assert sorted(listed) == sorted(f"lintmesh.v1.{service}.{method}" for method in methods), listed
    assert "grpc.health.v1.Health" in services, services
    answer = server.one("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", {"listServices": ""})
    names = {service["name"] for service in answer["listServicesResponse"]["service"]}
    assert names == set(services), names


def check_mesh(server: Grpcurl) -> list[str]:
    """Ask what the mesh is; return its nodes."""
    mesh = server.one("CoordinatorService/InitializeMesh", {})
    assert mesh["ready"] is True and mesh["meshHealth"] == 1, mesh
    assert mesh["activeNodes"] == mesh["totalNodes"] == 4, mesh
    assert mesh["connections"] == 12 and mesh["connectivity"] == 1, mesh
    assert mesh["settings"]["heartbeatInterval"] == "5s", mesh["settings"]
    assert mesh["settings"]["consensusThreshold"] == 0.75, mesh["settings"]
    assert set(mesh["integrationProgress"]) == {"flake8", "pylint", "ruff", "mypy", "bandit"}, mesh
    for node in mesh["nodes"].values():
        assert node["status"] == "NODE_STATUS_ACTIVE" and node["lastHeartbeatTime"], node
        assert node["specialist"]["capabilities"] and len(node["tools"]) == 5, node
    status = server.one("CoordinatorService/GetMeshStatus", {})
    assert status["metrics"]["systemHealth"] == 1 and len(status["nodeStatuses"]) == 4, status
    assert status["topology"]["type"] == "full_mesh", status
    # Bounded by the caller's deadline; what arrived before it counts.
    try:
        reports = server.call("CoordinatorService/StreamHealth", {"interval": "0.2s"}, seconds=2)
    except Failed as error:
        assert "DeadlineExceeded" in str(error), error
        reports = documents(str(error).partition("ERROR:")[0])
    assert len(reports) >= 3, reports
    assert all(report["health"]["activeNodes"] == 4 for report in reports), reports
    return sorted(mesh["nodes"])


def check_run(server: Grpcurl) -> None:
    """Lint inline files, then ask about the run in every way."""
    answers = server.call("CoordinatorService/Coordinate", {"workspace": INLINE, "requestId": "grpcurl-1"})
    events = [answer["event"] for answer in answers]
    assert "started" in events[0] and events[0]["sequence"] == "1", events[0]
    finished = events[-1]["finished"]
    assert finished["outcome"] == "OUTCOME_FINDINGS", finished
    assert set(finished["summary"]["byTool"]) >= {"flake8", "pylint", "ruff"}, finished
    run_id = events[0]["runId"]

    again = server.call("CoordinatorService/Coordinate", {"workspace": INLINE, "requestId": "grpcurl-1"})
    assert again[0]["event"]["runId"] == run_id, "the same request id started another run"
    other = {"workspace": {"inline": {"files": [{"path": "b.py", "text": ""}]}}, "requestId": "grpcurl-1"}
    server.refused("CoordinatorService/Coordinate", other, "InvalidArgument", "REQUEST_ID_REUSED")

    started = server.one("CoordinatorService/StartRun", {"workspace": INLINE, "project": "grpcurl"})["run"]
    watched = server.call("CoordinatorService/WatchRun", {"runId": started["runId"], "afterSequence": "1"})
    numbers = [int(answer["event"]["sequence"]) for answer in watched if "sequence" in answer["event"]]
    assert numbers == list(range(2, len(numbers) + 2)), numbers
    assert watched[-1]["event"]["finished"]["reportDigest"] == finished["reportDigest"], "equal runs, unequal results"

    run = server.one("CoordinatorService/GetRun", {"runId": run_id})["run"]
    assert run["state"] == "RUN_STATE_FINISHED" and run["reportDigest"] == finished["reportDigest"], run
    page = server.one("CoordinatorService/ListRuns", {"pageSize": 1})
    assert [listed["runId"] for listed in page["runs"]] == [started["runId"]], page
    rest = server.one("CoordinatorService/ListRuns", {"pageToken": page["nextPageToken"]})
    assert rest["runs"][0]["runId"] == run_id, rest
    named = server.one("CoordinatorService/ListRuns", {"project": "grpcurl"})
    assert [listed["runId"] for listed in named["runs"]] == [started["runId"]], named

    begins = {"RESULT": b'{"schema_version":1', "JSON": b"{", "SARIF": b"{", "TEXT": b"", "JUNIT": b"<"}
    for form, begin in begins.items():
        pieces = server.call("CoordinatorService/DownloadReport", {"runId": run_id, "format": f"REPORT_FORMAT_{form}"})
        data = b"".join(base64.b64decode(piece["data"]) for piece in pieces)
        assert data and data.startswith(begin), (form, data[:80])
        if form == "RESULT":
            assert hashlib.sha256(data).hexdigest() == finished["reportDigest"], form
        assert b"F401" in data or b"W0611" in data, (form, data)

    server.refused("CoordinatorService/GetRun", {"runId": "nobody-knows-it"}, "NotFound")
    server.refused("CoordinatorService/StartRun", {}, "InvalidArgument", "workspace")
    bad = {"workspace": {"inline": {"files": [{"path": "/etc/a.py", "text": ""}, {"path": "../b.py", "text": ""}]}}}
    server.refused("CoordinatorService/StartRun", bad, "InvalidArgument", "files[0]", "files[1]")


def check_cancel(server: Grpcurl, snapshot: str) -> None:
    """Cancel a run that takes long enough to be cancelled: the snapshot is that of a real project."""
    workspace = {"snapshot": {"digest": snapshot}}
    run_id = server.one("CoordinatorService/StartRun", {"workspace": workspace})["run"]["runId"]
    server.refused("CoordinatorService/DownloadReport", {"runId": run_id}, "FailedPrecondition")
    server.call("CoordinatorService/CancelRun", {"runId": run_id})
    last = server.call("CoordinatorService/WatchRun", {"runId": run_id}, seconds=60)[-1]["event"]
    assert last["finished"]["outcome"] == "OUTCOME_CANCELLED", last
    # Cancelling again changes nothing and is no error.
    run = server.one("CoordinatorService/CancelRun", {"runId": run_id})["run"]
    assert run["outcome"] == "OUTCOME_CANCELLED", run
    server.refused("CoordinatorService/DownloadReport", {"runId": run_id}, "FailedPrecondition")


def check_blobs(server: Grpcurl) -> None:
    """Upload two blobs, get them back, and try a wrong one."""
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (b"print('grpcurl')\n", b"import this\n")}
    names = list(blobs)
    assert server.one("WorkspaceService/FindMissingBlobs", {"digests": names})["missingDigests"] == names
    pieces = [{"digest": name, "data": base64.b64encode(data).decode()} for name, data in blobs.items()]
    assert server.call("WorkspaceService/UploadBlobs", *pieces)[0]["blobs"] == 2
    assert "missingDigests" not in server.one("WorkspaceService/FindMissingBlobs", {"digests": names})
    answers = server.call("WorkspaceService/DownloadBlobs", {"digests": names})
    assert [base64.b64decode(answer["data"]) for answer in answers] == list(blobs.values()), answers
    liar = hashlib.sha256(b"something else").hexdigest()
    server.refused("WorkspaceService/UploadBlobs", {"digest": liar, "data": pieces[0]["data"]}, "InvalidArgument", liar)
    server.refused("WorkspaceService/DownloadBlobs", {"digests": [liar]}, "NotFound", liar)
    empty = {"workspace": {"snapshot": {"digest": liar}}}
    server.refused("CoordinatorService/StartRun", empty, "FailedPrecondition", liar)


def check_fault(server: Grpcurl, nodes: list[str]) -> None:
    """Take a node out of the mesh and bring it back."""
    victim = nodes[0]
    fault = {"faultId": "f-1", "action": "FAULT_ACTION_FAIL", "nodeId": victim, "reason": "trying it out"}
    failed = server.one("CoordinatorService/HandleFault", fault)
    assert failed["failedNode"] == victim and sorted(failed["healthyNodes"]) == nodes[1:], failed
    assert failed["newTopologyHealth"] == 0.75, failed
    assert server.one("CoordinatorService/HandleFault", fault) == failed, "the same fault id gives another answer"
    status = server.one("CoordinatorService/GetMeshStatus", {})
    assert status["nodeStatuses"][victim]["status"] == "NODE_STATUS_FAILED", status
    finished = server.call("CoordinatorService/Coordinate", {"workspace": INLINE})[-1]["event"]["finished"]
    assert finished["outcome"] == "OUTCOME_FINDINGS", finished
    server.one("CoordinatorService/HandleFault", {"action": "FAULT_ACTION_RECOVER", "nodeId": victim})
    deadline = time.monotonic() + 30
    while not server.one("CoordinatorService/InitializeMesh", {"wait": "5s"}).get("ready"):
        assert time.monotonic() < deadline, "the node did not come back"
    unknown = {"action": "FAULT_ACTION_FAIL", "nodeId": "nobody"}
    server.refused("CoordinatorService/HandleFault", unknown, "NotFound", "nobody")


def check(program: str, address: str, snapshot: str) -> None:
    """Check everything; `snapshot` is the digest of an uploaded tree that takes seconds to lint."""
    server = Grpcurl(program, address)
    check_reflection(server)
    nodes = check_mesh(server)
    check_blobs(server)
    check_run(server)
    check_cancel(server, snapshot)
    check_fault(server, nodes)
