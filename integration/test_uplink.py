"""An uplink slower than the node: packets wait by flow, and CoDel marks or drops (tun/flow_queue.c)."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import GO, SUBJECT, Rig, Tunnel, until
from lab.counters import counters, watched
from lab.space import Space
from lab.traffic import TcpStream, ping

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="the queues are those of our core")

#: Longer than the buffer of the node's socket, so the socket is full before the link drops.
LIMIT = "8mb"


def uplink(space: Space, device: str, rate: str) -> None:
    """Slows down what the space sends."""
    tbf = f"qdisc replace dev {device} root tbf rate {rate} burst 64kb limit {LIMIT}"
    refused = space.run("tc", *tbf.split(), check=False)
    if refused.returncode:
        pytest.skip(f"this kernel has no tbf: {refused.stderr}")


@pytest.fixture(params=["uring-multishot", "mmsg"])
def tunnel(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path) -> Tunnel:
    program = watched(tmp_path).with_env(UDPRING_TIER=request.param)
    made = rig.tunnel((program, SUBJECT), both_know=True)
    made.ping()
    for end in (made.a, made.b):
        end.space.run("sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")
    uplink(made.a.space, "under", "40mbit")
    return made


def waiting(tunnel: Tunnel) -> int:
    return int(counters(tunnel.a)["plane"]["flow_bytes"])


def signs(tunnel: Tunnel) -> tuple[int, int]:
    """Of congestion: packets dropped, and marked."""
    plane = counters(tunnel.a)["plane"]
    return int(plane["drops"]["codel"]), int(plane["congestion_marks"])


def test_codel_drops_where_a_stream_lacks_ecn(tunnel: Tunnel) -> None:
    tunnel.a.space.run("sysctl", "-qw", "net.ipv4.tcp_ecn=0")
    stream = TcpStream(tunnel.a.space, tunnel.b.space, tunnel.b.inner4)
    until(lambda: signs(tunnel)[0] > 0, "CoDel drops")
    ping(tunnel.a.space, tunnel.b.inner4)
    stream.finish()
    assert signs(tunnel)[1] == 0
    until(lambda: waiting(tunnel) == 0, "nothing is left")


def test_standing_queue_of_a_stream_with_ecn_is_marked(tunnel: Tunnel) -> None:
    for end in (tunnel.a, tunnel.b):
        end.space.run("sysctl", "-qw", "net.ipv4.tcp_ecn=1")
    stream = TcpStream(tunnel.a.space, tunnel.b.space, tunnel.b.inner4)
    until(lambda: signs(tunnel)[1] > 0, "CoDel marks")
    ping(tunnel.a.space, tunnel.b.inner4)
    assert signs(tunnel)[0] == 0
    stream.finish()
