"""A node that only joins and goes, spoken by hand."""

import queue
import time
from pathlib import Path

import grpc
from lintmesh.peer.v1 import message_pb2, peer_pb2, peer_pb2_grpc
from lintmesh.v1 import node_pb2

SECONDS = 20


class Visitor:
    """One process that joins with a new connection each time."""

    def __init__(self, address: str, port: int, authority: Path, secret: Path):
        """Of the coordinator."""
        self.target = f"{address}:{port}"
        self.credentials = grpc.ssl_channel_credentials(authority.read_bytes())
        self.metadata = [("authorization", f"Bearer {secret.read_text(encoding='utf-8')}")]
        self.incarnation = time.time_ns() // 1000

    def visit(self) -> None:
        """Join, be welcomed, and go."""
        # Without a pool of its own a channel would take the connection of the one before.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        with grpc.secure_channel(self.target, self.credentials, options) as channel:
            hello = message_pb2.Hello(
                protocol_min=1,
                protocol_max=1,
                mesh_id="lintmesh",
                specialist=node_pb2.Specialist(
                    node_id="visitor", agent_type="visitor", priority_weight=1.0, max_concurrent_tasks=1
                ),
                incarnation=self.incarnation,
                host_id="elsewhere",
                failure_domain="elsewhere",
                toolchain_id="0" * 64,
                environment_class="none",
                cpu_slots=1,
                process_id=1,
            )
            requests: queue.SimpleQueue = queue.SimpleQueue()
            requests.put(peer_pb2.SessionRequest(hello=hello))
            call = peer_pb2_grpc.NodeServiceStub(channel).Session(
                iter(requests.get, None), metadata=self.metadata, timeout=SECONDS
            )
            first = next(call)
            assert first.HasField("welcome"), first
            requests.put(None)
            call.cancel()
