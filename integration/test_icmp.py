"""Receiving while a router or a peer answers with ICMP: no message ends a ring, whatever error it causes."""

from __future__ import annotations

import json

import pytest
from lab.isolated import run_isolated

# A socket connected over loopback gets an ICMP error for its own datagram, then a datagram.
PROGRAM = """
import json, socket, struct, subprocess, sys
from udpring import RecvRing
tier, six, code, times = sys.argv[1], sys.argv[2] == "6", int(sys.argv[3]), int(sys.argv[4])

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", total ^ 0xFFFF)

family, host = (socket.AF_INET6, "::1") if six else (socket.AF_INET, "127.0.0.1")
address = socket.inet_pton(family, host)
sink, source = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
sink.bind((host, 0))
source.bind((host, 0))
sink.connect(source.getsockname())
if not six:  # without it the kernel passes on only what it takes for final
    sink.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
udp = struct.pack("!HHHH", sink.getsockname()[1], source.getsockname()[1], 12, 0) + b"lost"
if six:
    ip = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + address + address
    message = struct.pack("!BBHI", 1, code, 0, 0) + ip + udp  # the kernel fills in the checksum
else:
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + address + address
    ip = ip[:10] + checksum(ip) + ip[12:]
    message = struct.pack("!BBHI", 3, code, 0, 0) + ip + udp
    message = message[:2] + checksum(message) + message[4:]
protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
raw = socket.socket(family, socket.SOCK_RAW, protocol)
with RecvRing(sink, tier=tier) as ring:
    assert not ring.recv_batch(timeout=0)
    for _ in range(times):
        before = ring.stats["icmp_errors"]
        raw.sendto(message, (host, 0))
        while ring.stats["icmp_errors"] == before:
            assert not ring.recv_batch(timeout=0.001)
    source.sendto(b"later", sink.getsockname())
    print(json.dumps([payload.decode() for payload in ring.recv_batch(timeout=30).payloads()]))
"""


@pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])
@pytest.mark.parametrize("times", [1, 20])
@pytest.mark.parametrize(
    "message",
    [(6, 1), (6, 5), (6, 4), (4, 5), (4, 13), (4, 3)],
    ids=["prohibited6", "policy6", "port6", "source_route4", "filtered4", "port4"],
)
def test_no_icmp_message_ends_receiving(message: tuple[int, int], times: int, tier: str) -> None:
    version, code = message
    assert json.loads(run_isolated(PROGRAM, tier, str(version), str(code), str(times))) == ["later"]
