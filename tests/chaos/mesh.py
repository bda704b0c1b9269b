"""A real coordinator and real nodes, each at its own end of an emulated network."""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from network import Network

COORDINATOR = "coordinator"
NODES = ["system-architect", "backend-dev", "api-docs", "integration-specialist"]
# What the stages of a run need.
CAPABILITIES = [
    "adapter_pattern_implementation",
    "cross_tool_correlation",
    "dependency_management",
    "linter_output_normalization",
    "result_aggregation",
    "schema_validation",
    "tool_orchestration",
    "unified_violation_severity_mapping",
]
API = "127.0.0.1:50051"
ADMIN = "127.0.0.1:50052"
NODE_PORT = 50053
PEER_PORT = 50054
# Starting a debug build on a busy machine takes a while; nothing takes as long as this.
SECONDS = 60


def run(command: list, **options) -> str:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, **options)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}"
    return done.stdout


def certificates(folder: Path, addresses: list[str]) -> tuple[Path, Path, Path]:
    """An authority's certificate, and one of it for these addresses with its key."""
    authority, authority_key = folder / "ca.pem", folder / "ca.key"
    certificate, key, wanted = folder / "server.pem", folder / "server.key", folder / "server.csr"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run(["openssl", "req", "-x509", *curve, "-keyout", authority_key, "-out", authority, "-days", "2",
         "-subj", "/CN=chaos authority"])  # fmt: skip
    run(["openssl", "req", *curve, "-keyout", key, "-out", wanted, "-subj", "/CN=chaos"])
    extensions = folder / "server.ext"
    names = ",".join(f"IP:{address}" for address in addresses)
    extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n", encoding="utf-8")
    run(["openssl", "x509", "-req", "-in", wanted, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial",
         "-out", certificate, "-days", "2", "-extfile", extensions])  # fmt: skip
    return authority, certificate, key


def environment(temporary: Path) -> dict[str, str]:
    """This process's environment without the settings of whoever runs it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LINTMESH", "MESH_"))}
    return kept | {"TMPDIR": str(temporary)}


@dataclass
class Mesh:
    """A coordinator and its nodes. Processes that it started are ended, each by its own id, at the end of `with`."""

    network: Network
    binary: Path
    scratch: Path
    settings: str = ""
    toolchain: str = "managed"
    nodes: list[str] = field(default_factory=lambda: list(NODES))
    # Where the coordinator keeps its state; beside the rest if not said.
    state: Path | None = None
    # What starts the coordinator: a command that replaces itself by the one that follows it.
    prefix: list = field(default_factory=list)
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Make certificates and settings, and start the coordinator and its nodes."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        addresses = [*self.network.address.values(), "127.0.0.1"]
        self.authority, self.certificate, self.key = certificates(self.scratch, addresses)
        secret = secrets.token_hex(16)
        self.secret_file = self.scratch / "secret"
        self.secret_file.write_text(secret, encoding="utf-8")
        specialists = "" if self.nodes == NODES else "".join(map(specialist, self.nodes))
        self.config = self.scratch / "lintmesh.toml"
        self.state = self.state or self.scratch / "state"
        self.config.write_text(
            f"""{self.settings}
[server]
listen = "{API}"
admin_listen = "{ADMIN}"
node_listen = "{self.network.address[COORDINATOR]}:{NODE_PORT}"
tls = {{ cert = "{self.certificate}", key = "{self.key}" }}

[toolchain]
mode = "{self.toolchain}"

[workspace]
allowed_roots = ["/"]

[nodes]
launch = "external"

[[nodes.secrets]]
name = "chaos"
sha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"
{specialists}""",
            encoding="utf-8",
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self.end)
            self.start_coordinator()
            for node in self.nodes:
                self.start_node(node)
            stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        """End every process."""
        self.end()

    def start_coordinator(self, prefix: list | None = None) -> None:
        """Start the coordinator, with the state that an earlier one left."""
        prefix = self.prefix if prefix is None else prefix
        self.start(COORDINATOR, ["serve", "--config", self.config, "--state-dir", self.state], prefix)

    def start_node(self, node: str, work: Path | None = None) -> None:
        """Start a node's process at its end of the network."""
        coordinator = f"https://{self.network.address[COORDINATOR]}:{NODE_PORT}"
        work = work or self.scratch / f"{node}-work"
        work.mkdir(exist_ok=True)
        named = ["node", "--node-id", node, "--coordinator", coordinator, "--config", self.config]
        flags = ["--tls-ca", self.authority, "--secret-file", self.secret_file, "--work-dir", work]
        peers = ["--peer-listen", f"{self.network.address[node]}:{PEER_PORT}"]
        shown = ["--peer-tls-cert", self.certificate, "--peer-tls-key", self.key]
        self.start(node, [*named, *flags, *peers, *shown])

    def start(self, name: str, arguments: list, prefix: list | None = None) -> None:
        """Start a process at an end of the network."""
        assert name not in self.processes or self.processes[name].poll() is not None, f"{name} runs already"
        temporary = self.scratch / f"{name}-tmp"
        temporary.mkdir(exist_ok=True)
        with (self.scratch / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.network.command(name, [*(prefix or []), self.binary, *arguments]),
                cwd=temporary,
                env=environment(temporary),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def signal(self, name: str, number: signal.Signals) -> float:
        """Send a signal to a process; return when."""
        process = self.processes[name]
        assert process.poll() is None, f"{name} ended with {process.returncode}: {self.log(name)}"
        at = time.monotonic()
        process.send_signal(number)
        return at

    def kill(self, name: str) -> float:
        """Kill a process without warning; return when. Shown to bite: it is gone."""
        at = self.signal(name, signal.SIGKILL)
        assert self.processes[name].wait(SECONDS) == -signal.SIGKILL
        return at

    def freeze(self, name: str) -> float:
        """Stop a process; return when. Shown to bite: the system says that it is stopped."""
        at = self.signal(name, signal.SIGSTOP)
        deadline = time.monotonic() + SECONDS
        while self.doing(name) != "T":
            assert time.monotonic() < deadline, f"{name} does not stop"
            time.sleep(0.001)
        return at

    def resume(self, name: str) -> None:
        """Let a stopped process go on."""
        self.signal(name, signal.SIGCONT)

    def doing(self, name: str) -> str:
        """The system's letter for what a process does."""
        stat = Path(f"/proc/{self.processes[name].pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0]

    def log(self, name: str) -> str:
        """The end of what a process has logged."""
        return (self.scratch / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-2500:]

    def end(self) -> None:
        """End every process that still runs."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        deadline = time.monotonic() + 15
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def specialist(node: str) -> str:
    """The settings of one node that can do everything."""
    return f'\n[[nodes.specialists]]\nnode_id = "{node}"\ncapabilities = {json.dumps(CAPABILITIES)}\n'
