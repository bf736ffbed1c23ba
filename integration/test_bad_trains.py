"""Trains (UDP_SEGMENT) where the kernel, a driver or the route damages or loses them."""

from __future__ import annotations

import base64
import socket
import time
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Rig, Tunnel, until
from lab.bad_trains import spoil_trains
from lab.counters import counters, drops, watched
from lab.traffic import tcp
from preload import build, preload

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go is not the subject")
UDP_SEGMENT = 103
OTHER_KERNEL = Path(__file__).parents[1] / "tests" / "other_kernel.c"


@pytest.mark.parametrize("offloads", ["", "all"])
def test_a_bad_kernel_sends_no_trains_unless_told(rig: Rig, tmp_path: Path, offloads: str) -> None:
    """It receives them all the same, and says why in its log."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    faked = watched(tmp_path / "a").with_env(
        LD_PRELOAD=preload(build(OTHER_KERNEL, tmp_path)),
        KERNEL_RELEASE="7.0.0-12-generic",
        UDPRING_OFFLOADS=offloads,
    )
    tunnel = rig.tunnel((faked, watched(tmp_path / "b").with_env(UDPRING_OFFLOADS="all")))
    tunnel.tcp_both_ways(8 << 20)
    said = counters(tunnel.a)["plane"]
    assert (said["tx"]["trains"] > 0) == (offloads == "all")
    assert said["rx"]["trains"] > 0
    log = tunnel.a.log_text()
    assert log.count("mangle UDP_SEGMENT sends") == (offloads == "")


def trains_sent(node: Node) -> int:
    sent: int = counters(node)["plane"]["tx"]["trains"]
    return sent


def uapi_key(public_key: str) -> str:
    return base64.b64decode(public_key).hex()


@pytest.mark.parametrize("workers", ["1", "3"])
def test_offload_switches_on_a_live_node(rig: Rig, tmp_path: Path, workers: str) -> None:
    """Of the node and of one peer, in the middle of a session, which goes on."""
    (tmp_path / "a").mkdir()
    program = watched(tmp_path / "a").with_env(UDPRING_OFFLOADS="all", UDPRING_WORKERS=workers)
    tunnel = rig.tunnel((program, SUBJECT))
    a, b = tunnel.a, tunnel.b
    peer = f"public_key={uapi_key(b.public_key)}\n"
    before = 0
    for change, on in (
        ("", True),
        (peer + "offload=off\n", False),
        (peer + "offload=on\noffload=auto\n", True),
        ("offload=off\n", False),
        (peer + "offload=on\n", True),
        (peer + "offload=auto\n", False),
        ("offload=auto\n", True),
    ):
        assert a.uapi_say(f"set=1\n{change}\n") == "errno=0\n\n"
        before = trains_sent(a)
        for address in (b.inner4, b.inner6):
            tcp(a.space, b.space, address, 4 << 20)
        assert (trains_sent(a) > before) == on, change
    assert drops(a)["send_failed"] == 0


LOSES = "the route loses trains"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("how", "workers"), [("lose", "1"), ("mangle", "1"), ("lose", "3")])
def test_a_route_without_trains_is_noticed(
    rig: Rig, tmp_path: Path, how: str, workers: str, family: int
) -> None:
    """One direction loses them. TCP gets through, both ways, and the other direction keeps its trains."""
    ends = []
    for name in "ab":
        (tmp_path / name).mkdir()
        ends.append(watched(tmp_path / name).with_env(UDPRING_OFFLOADS="all", UDPRING_WORKERS=workers))
    tunnel = rig.tunnel((ends[0], ends[1]), family=family, both_know=True)
    spoil_trains(tunnel.a.space, tmp_path, how)
    tunnel.ping()
    tunnel.tcp_both_ways(8 << 20)
    assert tunnel.a.log_text().count(LOSES) == 1
    assert LOSES not in tunnel.b.log_text()
    before, sent = trains_sent(tunnel.a), trains_sent(tunnel.b)
    tunnel.tcp_both_ways(8 << 20)
    assert trains_sent(tunnel.a) - before <= 2  # a probe of whether trains pass again
    assert trains_sent(tunnel.b) > sent


def two_nodes(rig: Rig, directory: Path) -> Tunnel:
    ends = []
    for name in "ab":
        (directory / name).mkdir()
        ends.append(watched(directory / name).with_env(UDPRING_OFFLOADS="all"))
    return rig.tunnel((ends[0], ends[1]))


@pytest.mark.parametrize("how", ["lose", "mangle"])
def test_trains_that_get_lost_later_are_noticed(rig: Rig, tmp_path: Path, how: str) -> None:
    """In the middle of a session: TCP waits for answers that do not come."""
    tunnel = two_nodes(rig, tmp_path)
    tunnel.tcp_both_ways(1 << 20)
    assert LOSES not in tunnel.a.log_text()
    spoil_trains(tunnel.a.space, tmp_path, how)
    tunnel.tcp_both_ways(8 << 20)
    assert tunnel.a.log_text().count(LOSES) == 1
    assert LOSES not in tunnel.b.log_text()


def test_one_way_trains_that_get_lost_later_are_noticed(rig: Rig, tmp_path: Path) -> None:
    tunnel = two_nodes(rig, tmp_path)
    a, b = tunnel.a, tunnel.b
    tunnel.tcp_both_ways(1 << 20)
    spoil_trains(a.space, tmp_path, "lose")
    with a.space.socket(a.inner4, socket.SOCK_DGRAM) as source:
        source.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        deadline = time.monotonic() + 30
        while LOSES not in a.log_text():
            assert time.monotonic() < deadline
            source.sendto(bytes(20_000), (b.inner4, 9))
            time.sleep(0.01)


def test_one_way_traffic_on_a_good_route_keeps_trains(rig: Rig, tmp_path: Path) -> None:
    """UDP without answers, also while the peer's keepalives are lost."""
    tunnel = two_nodes(rig, tmp_path)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    with (
        a.space.socket(a.inner4, socket.SOCK_DGRAM) as source,
        b.space.socket(b.inner4, socket.SOCK_DGRAM) as sink,
    ):
        source.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            source.sendto(bytes(20_000), sink.getsockname())
            time.sleep(0.01)
        before = trains_sent(a)
        source.sendto(bytes(20_000), sink.getsockname())
        until(lambda: trains_sent(a) > before, "trains are still sent")
    assert LOSES not in a.log_text() + b.log_text()
