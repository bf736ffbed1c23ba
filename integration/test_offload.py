"""Each packet into one interface comes out of the other, bit for bit and in order within its flow.

Random packets are written to a node's interface and read from the other's as they arrive (lab/injection.py).
The streams and the reference segmentation are those of tests/tunnel/.
"""

from __future__ import annotations

import array
import random
import socket
import struct
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from typing import NamedTuple

import pytest
from lab import GO, SUBJECT, Node, Program, Rig, Tunnel, until
from lab.counters import counters, drops, watched
from lab.injection import Injector, Listener, carry
from lab.traffic import TcpStream, datagrams, tcp
from offload_model import ACK, CWR, ECE, FIN, PSH, RST, SYN, TCP, UDP, URG, Flow, Vnet, segment
from packet_streams import TIMESTAMPS, check_order, random_plans, stream

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go has no such switches")

#: Hosts behind a and b without an interface, so no kernel answers packets to them.
A4, B4, A6, B6 = "10.77.1.9", "10.77.2.9", "fd77:1::9", "fd77:2::9"


class Pair(NamedTuple):
    """A tunnel that forwards packets of the hosts behind its ends."""

    tunnel: Tunnel
    window: int = 150_000
    ahead: int = 5000

    def carry(self, messages: list[tuple[Vnet, bytes]], *, back: bool = False) -> Listener:
        """Sends from a's interface to b's, or back. Returns the arrived packets."""
        here, there = (self.tunnel.b, self.tunnel.a) if back else (self.tunnel.a, self.tunnel.b)
        sender, listener = Injector(here), Listener(there, {A4, A6, B4, B6})
        try:
            carry(sender, listener, messages, window=self.window, ahead=self.ahead)
        except AssertionError as lost:
            dropped = [
                (node.interface, drops(node))
                for node in (here, there)
                if "UDPRING_COUNTERS" in dict(node.program.env)
            ]
            raise AssertionError(f"{lost}: {dropped}") from lost
        finally:
            sender.close()
            listener.close()
        return listener


def node_program(directory: Path, name: str, **env: str) -> Program:
    (directory / name).mkdir()
    return watched(directory / name).with_env(**env)


def pair(rig: Rig, a: Program, b: Program) -> Pair:
    tunnel = rig.tunnel((a, b), both_know=True, start=False)
    tunnel.a.peers[0].allowed_ips += [f"{B4}/32", f"{B6}/128"]
    tunnel.b.peers[0].allowed_ips += [f"{A4}/32", f"{A6}/128"]
    for end in (tunnel.a, tunnel.b):
        end.start()
    tunnel.ping()
    return Pair(tunnel)


def flows(back: bool) -> tuple[Flow, Flow]:
    """The flows of the packets: from behind a to behind b, or back."""
    if back:
        return Flow(B4, A4), Flow(B6, A6, label=0x54321)
    return Flow(A4, B4), Flow(A6, B6, label=0x12345)


def there_and_back(two: Pair, seed: int) -> None:
    """Random streams of single packets, then of super-packets, in both directions."""
    for back in (False, True):
        generator = random.Random(f"{seed} {back}")
        packets = stream(random_plans(generator, 24), generator, *flows(back))
        got = two.carry([(Vnet(), packet) for packet in packets], back=back).packets
        assert sorted(got) == sorted(packets)
        check_order(packets, got, barriers=False)
        messages = super_packets(generator, back)
        wanted = [piece for vnet, packet in messages for piece in segment(vnet, packet) or ()]
        got = two.carry(messages, back=back).packets
        assert sorted(got) == sorted(wanted)
        check_order(wanted, got, barriers=False)


def super_packets(generator: random.Random, back: bool, count: int = 40) -> list[tuple[Vnet, bytes]]:
    """Super-packets as a host's TCP and UDP make them, with all possible flags and headers."""
    made = []
    running = [
        replace(
            base,
            protocol=protocol,
            sport=port,
            options=TIMESTAMPS if protocol == TCP and port % 2 else b"",
            ip_id=generator.choice((0, 0xFFF0)),
            sequence=generator.choice((0, 2**32 - 9000)),
            tos=port % 3,
        )
        for port, base in enumerate(flows(back) * 3)
        for protocol in (TCP, UDP)
    ]
    for _ in range(count):
        flow = generator.choice(running)
        size = generator.choice((64, 100, 536, 1340))
        pieces = generator.randint(2, min(60, 60000 // size))
        payload = generator.randbytes(size * (pieces - 1) + generator.randint(1, size))
        flags = generator.choice(
            (ACK, ACK, ACK | PSH, ACK | FIN, ACK | CWR, ACK | ECE | PSH, ACK | URG, 0xFF)
        )
        flags &= ~(SYN | RST)
        vnet, packet = flow.super_packet(payload, size, flags)
        made.append((vnet, packet))
        flow.ip_id = flow.ip_id + pieces - 1 & 0xFFFF
    return made


SETTINGS = [("all", "all"), ("none", "none"), ("all", "none"), ("none", "all"), ("tun", "udp")]


@pytest.mark.traffic
@pytest.mark.parametrize(("a", "b"), SETTINGS)
def test_every_packet_comes_out_as_it_went_in(rig: Rig, tmp_path: Path, a: str, b: str) -> None:
    two = pair(
        rig,
        node_program(tmp_path, "a", UDPRING_OFFLOADS=a),
        node_program(tmp_path, "b", UDPRING_OFFLOADS=b),
    )
    for seed in range(3):
        there_and_back(two, seed)


@pytest.mark.parametrize("tier", ["uring-pool", "mmsg"])
def test_on_the_other_tiers(rig: Rig, tmp_path: Path, tier: str) -> None:
    ends = [node_program(tmp_path, name, UDPRING_TIER=tier) for name in "ab"]
    two = pair(rig, ends[0], ends[1])
    there_and_back(two, 10)


@pytest.mark.traffic
@pytest.mark.parametrize(("a", "b"), [("2", "2"), ("1", "3")])
@pytest.mark.parametrize("tier", ["uring-multishot", "mmsg"])
def test_with_several_workers(rig: Rig, tmp_path: Path, tier: str, a: str, b: str) -> None:
    two = pair(
        rig,
        node_program(tmp_path, "a", UDPRING_WORKERS=a, UDPRING_TIER=tier),
        node_program(tmp_path, "b", UDPRING_WORKERS=b, UDPRING_TIER=tier),
    )
    for seed in range(3):
        there_and_back(two, seed)


@pytest.mark.traffic
@pytest.mark.parametrize("workers", ["2", "4"])
@pytest.mark.parametrize("tier", ["uring-multishot", "mmsg"])
def test_with_helped_workers(rig: Rig, tmp_path: Path, tier: str, workers: str) -> None:
    ends = []
    for name in "ab":
        (tmp_path / name).mkdir()
        program = watched(tmp_path / name, "helped.py")
        # Only trains and super-packets are shared between workers.
        ends.append(program.with_env(UDPRING_WORKERS=workers, UDPRING_TIER=tier, UDPRING_OFFLOADS="all"))
    two = pair(rig, ends[0], ends[1])
    for seed in range(30, 33):
        there_and_back(two, seed)
    large = [Flow(A4, B4, options=TIMESTAMPS).super_packet(bytes(40 * 1340), 1340)] * 20
    back = [Flow(B4, A4, options=TIMESTAMPS).super_packet(bytes(40 * 1340), 1340)] * 20

    def helped() -> bool:
        two.carry(large)
        two.carry(back, back=True)
        return all(counters(end)["plane"]["trains_helped"] for end in (two.tunnel.a, two.tunnel.b))

    until(helped, "both ends have been helped")


@pytest.mark.parametrize("offloads", ["all", "none"])
def test_towards_wireguard_go(rig: Rig, tmp_path: Path, offloads: str) -> None:
    two = pair(rig, node_program(tmp_path, "a", UDPRING_OFFLOADS=offloads), GO)
    two = two._replace(window=60_000, ahead=60)  # its sockets have the default buffer, which holds no more
    for seed in range(20, 22):
        there_and_back(two, seed)


@pytest.mark.parametrize("offloads", ["all", "tun", "udp", "none"])
def test_offloads_are_used_only_where_allowed(rig: Rig, tmp_path: Path, offloads: str) -> None:
    """Trains on the wire and super-packets to the interface are counted, so "on" is really on."""
    two = pair(
        rig,
        node_program(tmp_path, "a", UDPRING_OFFLOADS=offloads),
        node_program(tmp_path, "b", UDPRING_OFFLOADS=offloads),
    )
    message = Flow(A4, B4, options=TIMESTAMPS).super_packet(bytes(40 * 1340), 1340)
    written = two.carry([message] * 5).written
    sent, received = (counters(end)["plane"] for end in (two.tunnel.a, two.tunnel.b))
    if offloads in ("all", "udp"):
        assert 5 <= sent["tx"]["trains"] <= 25
        assert received["rx"]["trains"] > 0
    else:
        assert sent["tx"]["trains"] == received["rx"]["trains"] == 0
    merged = [vnet for vnet, _ in written if vnet.gso_type]
    if offloads == "all":
        assert len(written) <= 25
    assert bool(merged) == (offloads in ("all", "tun"))


ETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17


def set_transmit_checksums(node: Node, link: str, on: bool) -> None:
    """``ethtool -K LINK tx on|off``."""
    sock = node.space.socket("0.0.0.0", socket.SOCK_DGRAM)
    with sock:
        value = array.array("I", [ETHTOOL_STXCSUM, on])
        address, _ = value.buffer_info()
        ioctl(sock, ETHTOOL, struct.pack("16sP16x", link.encode(), address))


def flows_both_ways(tunnel: Tunnel) -> None:
    for family in (4, 6):
        tunnel.tcp_both_ways(4 << 20, family)
    sizes = [0, 1, 1000, 1200, 1392, 4000, 20000]
    datagrams(tunnel.a.space, tunnel.b.space, tunnel.a.inner4, tunnel.b.inner4, sizes)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("tier", "offloads"),
    [("uring-multishot", "all"), ("uring-pool", "all"), ("mmsg", "all"), ("uring-multishot", "none")],
)
def test_link_too_small_for_trains_carries_traffic(
    rig: Rig, tmp_path: Path, family: int, tier: str, offloads: str
) -> None:
    """1420 inner bytes do not fit 1280 outside: the kernel refuses such trains and fragments datagrams."""
    ends = [node_program(tmp_path, name, UDPRING_TIER=tier, UDPRING_OFFLOADS=offloads) for name in "ab"]
    tunnel = rig.tunnel(
        (ends[0], ends[1]), topology=rig.topology("two-nodes", "--mtu", "1280"), family=family
    )
    tunnel.ping()
    flows_both_ways(tunnel)
    for end in (tunnel.a, tunnel.b):
        assert (counters(end)["plane"]["trains_split"] > 0) == (offloads == "all")
        assert drops(end)["send_failed"] == 0


def test_stream_survives_a_link_that_shrinks(rig: Rig, tmp_path: Path) -> None:
    """The link's MTU shrinks and grows again under one TCP stream."""
    ends = [node_program(tmp_path, name, UDPRING_OFFLOADS="all") for name in "ab"]
    tunnel = rig.tunnel((ends[0], ends[1]), both_know=True)
    tunnel.ping()
    running = TcpStream(tunnel.a.space, tunnel.b.space, tunnel.b.inner4)
    until(lambda: running.received_bytes > 8 << 20 or not running.running, "the stream flows")
    for end in (tunnel.a, tunnel.b):
        end.space.ip("link", "set", "under", "mtu", "1280")
    until(lambda: counters(tunnel.a)["plane"]["trains_split"] > 0, "trains that no longer fit are split")
    running.finish()
    split = counters(tunnel.a)["plane"]
    assert running.longest_silence < 5.0
    assert split["drops"]["send_failed"] == 0

    # Wide again: the next session tries trains and keeps them.
    for end in (tunnel.a, tunnel.b):
        end.space.ip("link", "set", "under", "mtu", "1500")
    tunnel.b.stop()
    tunnel.b.restart()
    tunnel.ping(back=True)
    tcp(tunnel.a.space, tunnel.b.space, tunnel.b.inner4, 8 << 20)
    wide = counters(tunnel.a)["plane"]
    assert wide["tx"]["trains"] > split["tx"]["trains"] + 20
    assert wide["trains_split"] == split["trains_split"]


def test_a_link_without_checksum_offload(rig: Rig, tmp_path: Path) -> None:
    """Linux before 6.11 refuses trains there (EIO), later ones compute the checksums. Traffic flows on
    both."""
    tunnel = rig.tunnel((node_program(tmp_path, "a"), node_program(tmp_path, "b")))
    for end in (tunnel.a, tunnel.b):
        set_transmit_checksums(end, "under", False)
    tunnel.ping()
    flows_both_ways(tunnel)


def test_a_path_that_narrows_on_its_way(rig: Rig, tmp_path: Path) -> None:
    """The second leg has an MTU of 1280: a router fragments trains that passed the first leg."""
    narrow = rig.topology("narrow-mtu")
    tunnel = rig.tunnel((node_program(tmp_path, "a"), node_program(tmp_path, "b")), topology=narrow)
    tunnel.ping()
    flows_both_ways(tunnel)
