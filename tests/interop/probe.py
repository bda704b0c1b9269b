"""Health as probes see it, and one call with buf."""

import json
import subprocess
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 1
# How `lintmesh healthcheck` says NOT_SERVING.
NOT_SERVING = 4


def probe(address: str, service: str) -> str:
    """Check as the kubelet does: plaintext, a connection of its own, one second for connecting and asking together."""
    with grpc.insecure_channel(address, options=[("grpc.primary_user_agent", "kube-probe/1.34")]) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        answer = check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS, wait_for_ready=True)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def healthcheck(binary: Path, address: str) -> int:
    """Ask with the product's own probe, as the image's HEALTHCHECK does."""
    command = [binary, "healthcheck", "--addr", address]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode


def buf_curl(program: str, proto: Path, api: str) -> None:
    """Call the API with buf, which takes the schema from `proto/` instead of reflection."""
    url = f"http://{api}/lintmesh.v1.CoordinatorService/GetMeshStatus"
    command = [program, "curl", "--schema", proto, "--protocol", "grpc", "--http2-prior-knowledge", "--data", "{}", url]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert len(answer["nodeStatuses"]) == 4, answer
