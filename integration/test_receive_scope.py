"""Receiving with link-local addresses: a new namespace and its loopback."""

from __future__ import annotations

import json

import pytest
from lab.isolated import run_isolated

# Sends to and from fe80::1 on lo, to a RecvRing and to a plain socket. Prints the results of both.
PROGRAM = """
import json, socket, struct, subprocess, sys
from udpring import RecvRing
tier = sys.argv[1]
command("ip addr add fe80::1/64 dev lo nodad")
# The kernel delivers to an address only a moment after it was added.
ours = "env -u LD_PRELOAD ip -6 route show table local"
while "local fe80::1 dev lo " not in subprocess.check_output(ours, shell=True, text=True):
    pass
index = socket.if_nametoindex("lo")
source, sink = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
sink.bind(("::", 0))
source.bind(("fe80::1", 0, 0, index))
to = ("fe80::1", sink.getsockname()[1], 0, index)
source.sendto(b"plain", to)
plain = sink.recvfrom(100)[1]
with RecvRing(sink, tier=tier) as ring:
    source.sendmsg([bytes(250)], [(17, 103, struct.pack("H", 100))], 0, to)
    source.sendto(b"single", to)
    packets = []
    while len(packets) < 4:
        packets += ring.recv_batch(timeout=30)
    print(json.dumps({
        "plain": plain, "addresses": [packet.address for packet in packets],
        "locals": [packet.local for packet in packets],
        "interfaces": [packet.interface_index for packet in packets],
        "lengths": [len(packet) for packet in packets], "index": index,
    }))
"""


@pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])
def test_a_link_local_source_has_its_scope(tier: str) -> None:
    said = json.loads(run_isolated(PROGRAM, tier))
    assert said["lengths"] == [100, 100, 50, 6]
    assert said["plain"][3] == said["index"]
    assert said["addresses"] == [said["plain"]] * 4
    assert said["locals"] == ["fe80::1"] * 4
    assert said["interfaces"] == [said["index"]] * 4
