"""Runs real clients against a real server and compares what they get with the command line's answer."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import grpcurl
import monitoring
import probe
from server import Server, serve

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300


def say(text: str) -> None:
    """Tell what was checked, and when."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def files_of(tree: Path) -> dict[str, bytes]:
    """Return the content of every file."""
    return {str(path.relative_to(tree)): path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()}


def flask_tree(source: Path, scratch: Path) -> Path:
    """Lay out flask's package, with the project's own configuration."""
    tree = scratch / "flask"
    shutil.copytree(source / "src" / "flask", tree / "src" / "flask")
    shutil.copy(source / "pyproject.toml", tree)
    return tree


def lint(binary: Path, tree: Path, scratch: Path, *options: str) -> bytes:
    """Lint with the command line and return the bytes of `result` in its JSON report."""
    scratch.mkdir(parents=True, exist_ok=True)
    command = [binary, "lint", tree, "--format", "json", "--quiet", *options]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False, cwd=scratch
    )
    assert done.returncode == 1, f"{command} ended with {done.returncode}: {done.stderr.decode()}"
    text = done.stdout.decode()
    whole = json.loads(text)
    # Taken from the text itself, since bytes are what is promised; a quote inside a string is escaped, so the first
    # match is the key.
    begin = re.search(r'"result"\s*:\s*', text).end()
    value, end = json.JSONDecoder().raw_decode(text, begin)
    assert value == whole["result"], "the first `result` is not the one at the top"
    assert value["outcome"] == "FINDINGS", value["outcome"]
    return text[begin:end].encode()


def client(command: list, result: Path) -> tuple[dict, bytes]:
    """Run a client; return what it says and the result it downloaded."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout), result.read_bytes()


def check_trees(options: argparse.Namespace, server: Server, trees: dict[str, Path]) -> dict[str, str]:
    """Lint each tree five ways; return the snapshots' digests."""
    snapshots = {}
    for name, tree in trees.items():
        before = files_of(tree)
        embedded = lint(options.binary, tree, options.scratch / "cwd")
        remote = lint(options.binary, tree, options.scratch / "cwd", "--server", f"http://{server.api}")
        assert remote == embedded, f"{name}: a remote run gives another result than an embedded one"
        result = options.scratch / f"{name}-result.json"
        common = ["--address", server.api, "--tree", tree, "--result", result]
        clients = {
            "python": [sys.executable, ROOT / "tests/interop/python/client.py", *common],
            "node": ["node", options.node / "client.js", "--proto", ROOT / "proto", *common],
        }
        for language, command in clients.items():
            said, data = client(command, result)
            assert data == embedded, f"{name}: the {language} client gets another result than the command line"
            snapshots.setdefault(name, said["snapshot"])
            assert said["snapshot"] == snapshots[name], f"{name}: the clients' manifests differ"
            counts = f"{said['diagnostics']} diagnostics, {said['events']} events"
            say(f"{language} client, {name}: {counts}, result as from the command line")
        assert files_of(tree) == before, f"{name}: linting changed the tree"
    return snapshots


def check_health(options: argparse.Namespace) -> None:
    """Check readiness as a kubelet does, on a mesh whose nodes never come."""
    with serve(options.binary, options.scratch, "no-nodes", nodes="external") as server:
        for service, expected in [("liveness", "SERVING"), ("readiness", "NOT_SERVING"), ("", "NOT_SERVING")]:
            status = probe.probe(server.admin, service)
            assert status == expected, f"without nodes `{service}` is {status}, not {expected}"
        assert probe.healthcheck(options.binary, server.admin) == probe.NOT_SERVING
    say("probes: alive but not ready without nodes")


def main() -> int:
    """Run everything."""
    parser = argparse.ArgumentParser()
    for name in ("binary", "scratch", "flask", "node", "grpcurl", "buf"):
        parser.add_argument(f"--{name}", required=True, type=lambda text: Path(text).absolute())
    options = parser.parse_args()
    shutil.rmtree(options.scratch, ignore_errors=True)
    options.scratch.mkdir(parents=True)
    trees = {"example": ROOT / "tests/fixtures/example", "flask": flask_tree(options.flask, options.scratch)}
    # A server of the machine's user must not answer in place of the private mesh.
    os.environ.pop("LINTMESH_SERVER", None)

    with serve(options.binary, options.scratch, "mesh") as server:
        say(f"server {server.pid} is ready")
        for service in ("readiness", "liveness", ""):
            status = probe.probe(server.admin, service)
            assert status == "SERVING", f"`{service}` is {status}"
        assert probe.healthcheck(options.binary, server.admin) == 0
        say("probes: alive and ready")
        probe.buf_curl(options.buf, ROOT / "proto", server.api)
        say("buf curl: status of four nodes")
        snapshots = check_trees(options, server, trees)
        grpcurl.check(options.grpcurl, server.api, snapshots["flask"])
        say("grpcurl: reflection and every rpc")
    say("server ended and left nothing behind")
    check_health(options)
    monitoring.check(options.binary, options.scratch)
    say("Prometheus scrapes and answers; Alertmanager is told of an alert and of its end")
    print("interop: all checks passed")
    return 0


STARTED = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
