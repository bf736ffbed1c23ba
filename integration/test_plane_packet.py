"""A plane on a packet socket at the far end of a veth pair, in place of a TUN device."""

from __future__ import annotations

import subprocess
import sys

from lab.unprivileged import environment

SCRIPT = r"""
import socket, subprocess, sys, time
from udpring.errors import HostError
from udpring.tunnel.plane import Plane

for line in ("link set lo up", "link add near type veth peer name far", "link set near arp off up",
             "link set far arp off up", "address add 10.1.1.1/24 dev near"):
    subprocess.run(["ip", *line.split()], check=True)
query = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
cooked = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
try:
    Plane("near", descriptors=[cooked.fileno()], query=query.fileno(), workers=1)
except HostError as error:
    assert "SOCK_RAW" in str(error), error
else:
    raise AssertionError("taken")

packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
packets.setsockopt(263, 15, 1)                              # SOL_PACKET, PACKET_VNET_HDR
packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is
packets.bind(("far", 3))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for _ in range(200):
        sender.sendto(bytes(1000), ("10.1.1.9", 9))
plane = Plane("near", descriptors=[packets.fileno()], query=query.fileno(), workers=1)
packets.close()
query.close()
end = time.monotonic() + 30
while not (stats := plane.stats()).tun_packets_in and time.monotonic() < end:
    time.sleep(0.05)
assert stats.tun_packets_in >= 1, stats
assert stats.drops["queue_full"] >= 100, stats.drops
assert stats.drops["queue_full"] + stats.tun_packets_in >= 200, stats
subprocess.run(["ip", "link", "set", "near", "down"], check=True)
subprocess.run(["ip", "link", "set", "near", "up"], check=True)
before = plane.stats().tun_packets_in
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    while plane.stats().tun_packets_in == before and time.monotonic() < end:
        sender.sendto(bytes(10), ("10.1.1.9", 9))
        time.sleep(0.05)
assert plane.stats().tun_packets_in > before, "it reads on after the interface was down"
plane.close()
"""


def test_packets_that_the_queue_has_lost_are_counted() -> None:
    """With the smallest queue. The descriptors stay the caller's, and the interface may go down and up."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-P", "-c", SCRIPT],
        env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
