"""Send ICMP echo requests and print how many were answered and their median round trip in seconds, as JSON.

echo.py ADDRESS PACKETS INTERVAL
"""

import json
import os
import select
import socket
import statistics
import struct
import sys
import time

REQUEST, REPLY = 8, 0
PATIENCE = 1.0


def checksum(data: bytes) -> int:
    """The internet checksum."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def main() -> int:
    """Ask and listen."""
    address, packets, interval = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.setblocking(False)
    own, sent, took = os.getpid() & 0xFFFF, {}, []
    begin = time.monotonic()
    while True:
        now = time.monotonic()
        if len(sent) < packets and now >= begin + len(sent) * interval:
            body = struct.pack("!HH", own, len(sent))
            head = struct.pack("!BBH", REQUEST, 0, checksum(struct.pack("!BBH", REQUEST, 0, 0) + body))
            sent[len(sent)] = now
            raw.sendto(head + body, (address, 0))
        end = begin + packets * interval + PATIENCE
        if now >= end or len(took) == packets:
            break
        due = begin + len(sent) * interval if len(sent) < packets else end
        if select.select([raw], [], [], max(0.0, min(due, end) - now))[0]:
            packet = raw.recv(2048)
            answer = packet[(packet[0] & 15) * 4 :]
            kind, identity, number = struct.unpack_from("!B3xHH", answer)
            if kind == REPLY and identity == own and number in sent:
                took.append(time.monotonic() - sent[number])
    print(json.dumps([len(took), statistics.median(took) if took else None]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
