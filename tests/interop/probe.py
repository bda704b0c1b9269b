"""Health as probes see it, and one call with buf."""

import json
import subprocess
from pathlib import Path

UNHEALTHY = 4


def probe(program: str, address: str, service: str) -> int:
    """Check as the kubelet does: plaintext, one second for the connection and one for the call."""
    limits = ["-connect-timeout", "1s", "-rpc-timeout", "1s"]
    command = [program, "-addr", address, "-service", service, *limits]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode


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
