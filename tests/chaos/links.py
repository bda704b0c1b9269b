#!/usr/bin/env python3
"""Links between network namespaces, in user space: delay, jitter, loss and cuts, each direction apart.

Each end is a TUN device; network.py makes its namespace and moves the device there. All IPv4 packets between two ends
pass through this process, which decides about each by the rule of its direction. What a rule does depends on the seed,
the direction and the number of the packet only. The kernels' own TCP runs on both sides, so that losses are answered by
real retransmissions.

    links.py SEED NAME=DEVICE=ADDRESS...

Reads commands from standard input, one JSON object a line, and answers each with one line:

    {"set": [["a", "b"]], "rule": {"cut": false, "loss": 0.1, "delay": 0.02, "jitter": 0.005}}
    {"count": true}

Ends with its standard input, and its devices with it.
"""

import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, field

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
# Devices are read in turns, so that a flood from one does not hold up the others.
PACKETS_A_TURN = 64
# Packets on their way in one direction; more are lost, as in any router.
QUEUE = 4096
LONGEST_PACKET = 65536
TCP = 6


@dataclass(frozen=True)
class Rule:
    """What happens to packets in one direction. Times in seconds."""

    cut: bool = False
    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0


@dataclass
class Count:
    """What became of the packets of one direction. `payload` counts what TCP carried, again when it was sent again."""

    passed: int = 0
    dropped: int = 0
    payload: int = 0


@dataclass
class Direction:
    """One direction between two ends."""

    chance: random.Random
    rule: Rule = Rule()
    count: Count = field(default_factory=Count)
    waiting: int = 0
    last: float = 0.0

    def arrival(self, now: float, payload: int) -> float | None:
        """When a packet sent now arrives; None if it never does. Packets do not overtake each other."""
        # Both numbers are drawn for each packet, so that the n-th packet's fate does not depend on earlier rules.
        lost, late = self.chance.random(), self.chance.random()
        if self.rule.cut or lost < self.rule.loss or self.waiting >= QUEUE:
            self.count.dropped += 1
            return None
        self.count.passed += 1
        self.count.payload += payload
        self.last = max(self.last, now + self.rule.delay + late * self.rule.jitter)
        return self.last


def tcp_payload(packet: bytes) -> int:
    """The bytes of user data in an IPv4 packet; 0 if it is not TCP."""
    header = (packet[0] & 15) * 4
    if packet[9] != TCP or len(packet) < header + 20:
        return 0
    return max(0, struct.unpack_from("!H", packet, 2)[0] - header - (packet[header + 12] >> 4) * 4)


class Forwarder:
    """Carries packets between the devices."""

    def __init__(self, seed: int, ends: list[tuple[str, str, str]]):
        """Make the devices."""
        self.devices: dict[int, str] = {}
        self.by_address: dict[bytes, tuple[str, int]] = {}
        for name, device, address in ends:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN_NO_PI))
            self.devices[descriptor] = name
            self.by_address[socket.inet_aton(address)] = (name, descriptor)
        names = sorted(self.devices.values())
        self.directions = {(a, b): Direction(random.Random(f"{seed} {a} {b}")) for a in names for b in names if a != b}
        self.flying: list[tuple[float, int, int, bytes, Direction]] = []
        self.number = 0

    def run(self) -> None:
        """Forward until standard input ends."""
        poll = select.epoll()
        commands = sys.stdin.fileno()
        for descriptor in [commands, *self.devices]:
            poll.register(descriptor, select.EPOLLIN)
        pending = b""
        while True:
            wait = max(0.0, self.flying[0][0] - time.monotonic()) if self.flying else None
            for descriptor, _ in poll.poll(wait):
                if descriptor != commands:
                    self.take(descriptor)
                    continue
                read = os.read(commands, 65536)
                if not read:
                    return
                *lines, pending = (pending + read).split(b"\n")
                for line in lines:
                    print(json.dumps(self.obey(json.loads(line))), flush=True)
            self.deliver(time.monotonic())

    def take(self, descriptor: int) -> None:
        """Read what a device has sent."""
        source = self.devices[descriptor]
        for _ in range(PACKETS_A_TURN):
            try:
                packet = os.read(descriptor, LONGEST_PACKET)
            except (BlockingIOError, OSError):
                # Nothing more, or the device is down: it is being made or removed.
                return
            found = self.by_address.get(packet[16:20])
            if packet[0] >> 4 != 4 or found is None or found[0] == source:
                continue
            direction = self.directions[source, found[0]]
            now = time.monotonic()
            at = direction.arrival(now, tcp_payload(packet))
            if at is None:
                continue
            if at <= now and not direction.waiting:
                write(found[1], packet)
                continue
            self.number += 1
            direction.waiting += 1
            heapq.heappush(self.flying, (at, self.number, found[1], packet, direction))

    def deliver(self, now: float) -> None:
        """Hand over the packets whose time has come."""
        while self.flying and self.flying[0][0] <= now:
            _, _, descriptor, packet, direction = heapq.heappop(self.flying)
            direction.waiting -= 1
            write(descriptor, packet)

    def obey(self, command: dict) -> dict:
        """Do what a command says."""
        if "set" in command:
            rule = Rule(**command["rule"])
            for source, target in command["set"]:
                self.directions[source, target].rule = rule
            return {"set": len(command["set"])}
        return {f"{a} {b}": asdict(direction.count) for (a, b), direction in self.directions.items()}


def write(descriptor: int, packet: bytes) -> None:
    """Hand a packet to a device; one that is full or down loses it."""
    try:
        os.write(descriptor, packet)
    except OSError:
        return


def main() -> int:
    """Make the devices, say so, and forward."""
    forwarder = Forwarder(int(sys.argv[1]), [tuple(end.split("=")) for end in sys.argv[2:]])
    print(json.dumps({"ready": len(forwarder.devices)}), flush=True)
    forwarder.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
