"""Messages of a plane that come out of its own interface: they are dropped at once, and nothing else is.

No route leads into the interface here, so the thread that watches routes finds no loop.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from lab.injection import ETH_P_IP, ETH_P_IPV6, PACKET_VNET_HDR, SOL_PACKET
from offload_model import NEEDS_CSUM, UDP_L4, Vnet
from test_plane import AES, REMOTE_INDEX, TIERS, WIREGUARD, Bench, pytestmark

from udpring._native import ffi, lib

__all__ = ["pytestmark"]

FAR, FAR6, OTHER = "10.88.0.1", "fd88::1", "10.99.0.1"
PORT = 4567
UDP, FRAGMENT = 17, 44
Message = Callable[[Bench], bytes]


@pytest.fixture(scope="module", params=["uring-multishot", "mmsg x2", "mmsg aes"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    tier, *more = request.param.split()
    made = Bench(TIERS[tier], 2 if "x2" in more else 1, AES if "aes" in more else WIREGUARD)
    made.allow(made.peer, FAR, 24)
    made.allow(made.peer, FAR6, 64)
    yield made
    made.close()


def peer_at(bench: Bench, peer: int, host: str, port: int = PORT) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = ffi.new("struct udpring_address *", {"family": family, "port": port})
    packed = socket.inet_pton(family, host)
    ffi.memmove(address.ip, packed, len(packed))
    assert lib.udpring_plane_endpoint(bench.plane, peer, address) == 0


def data(bench: Bench, index: int = REMOTE_INDEX, size: int = 96) -> bytes:
    return bench.suite.header(index, 7) + bytes(size - 16)


def handshake(kind: int) -> Message:
    def message(bench: Bench) -> bytes:
        index = ffi.new("uint32_t *")
        assert lib.udpring_plane_indices(bench.plane, bench.peer, index, 1) == 0
        return struct.pack("<II", kind | bench.suite.mark, index[0]) + bytes(84)

    return message


def packet(
    payload: bytes, source_port: int, *, host: str = FAR, port: int = PORT, fragment: int | None = None
) -> bytes:
    """``fragment``: the offset of one, with more behind it."""
    udp = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload
    if ":" in host:
        head = b"" if fragment is None else struct.pack("!BBHI", UDP, 0, fragment | 1, 99)
        addresses = socket.inet_pton(socket.AF_INET6, "fd77::1") + socket.inet_pton(socket.AF_INET6, host)
        length, protocol = len(head) + len(udp), FRAGMENT if head else UDP
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + addresses + head + udp
    where = 0 if fragment is None else 0x2000 | fragment >> 3
    addresses = socket.inet_aton("10.77.0.1") + socket.inet_aton(host)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 9, where, 64, UDP, 0) + addresses + udp


class Interface:
    """Writes packets as the host does."""

    def __init__(self, bench: Bench) -> None:
        self._name = ffi.string(lib.udpring_plane_name(bench.plane)).decode()
        self._socket = bench.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)

    def write(self, packet: bytes, vnet: Vnet | None = None) -> None:
        protocol = ETH_P_IPV6 if packet[0] >> 4 == 6 else ETH_P_IP
        self._socket.sendto((vnet or Vnet()).pack() + packet, (self._name, protocol))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def interface(bench: Bench) -> Iterator[Interface]:
    made = Interface(bench)
    for host in (OTHER, FAR):  # a new endpoint: no message to it has come back yet
        peer_at(bench, bench.peer, host)
    bench.key()
    yield made
    made.close()


def loops(bench: Bench) -> int:
    return bench.drops().get("routing_loop", 0)


def dropped(bench: Bench, act: Callable[[], None], count: int = 1, *, leave: int = 0) -> None:
    """``leave``: how many packets are sealed all the same."""
    before, nonce = loops(bench), bench.state().send_counter
    act()
    bench.wait(lambda: loops(bench) == before + count and bench.state().send_counter == nonce + leave)


def passes(bench: Bench, act: Callable[[], None]) -> None:
    dropped(bench, act, 0, leave=1)


def path_events(bench: Bench) -> list[int]:
    return [event.flags for event in bench.events() if event.kind == lib.UDPRING_EVENT_PATH]


@pytest.mark.parametrize("host", [FAR, FAR6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("fragment", [None, 0], ids=["whole", "first-fragment"])
@pytest.mark.parametrize(
    "message", [data, handshake(1), handshake(2)], ids=["data", "initiation", "response"]
)
def test_own_message_is_dropped_and_the_route_looked_up(
    bench: Bench, interface: Interface, message: Message, fragment: int | None, host: str
) -> None:
    peer_at(bench, bench.peer, host)
    lookups = bench.stats().route_lookups
    returns = packet(message(bench), bench.port, host=host, fragment=fragment)
    dropped(bench, lambda: interface.write(returns))
    bench.wait(lambda: bench.stats().route_lookups > lookups)


def test_loop_of_own_messages_is_reported_once(bench: Bench, interface: Interface) -> None:
    """Until the endpoint moves."""
    for host in (FAR, "10.88.0.2", FAR6):
        peer_at(bench, bench.peer, host)
        bench.wait(lambda: not path_events(bench))
        for _ in range(3):
            returns = packet(data(bench), bench.port, host=host)
            dropped(bench, lambda: interface.write(returns))  # noqa: B023
        assert path_events(bench) == [lib.UDPRING_EVENT_LOOPS]
        peer_at(bench, bench.peer, OTHER, PORT + 1)
        bench.wait(lambda: path_events(bench) == [0])


def test_messages_under_the_last_key_are_own(bench: Bench, interface: Interface) -> None:
    """They were on their way when the key was replaced."""
    bench.key(remote=REMOTE_INDEX + 1)
    for index in (REMOTE_INDEX, REMOTE_INDEX + 1):
        returns = packet(data(bench, index), bench.port)
        dropped(bench, lambda: interface.write(returns))  # noqa: B023
    bench.key(remote=REMOTE_INDEX + 2)
    passes(bench, lambda: interface.write(packet(data(bench), bench.port)))


@pytest.mark.parametrize(
    "changed",
    [
        lambda bench: packet(data(bench), bench.port ^ 1),
        lambda bench: packet(data(bench), bench.port, port=PORT + 1),
        lambda bench: packet(data(bench), bench.port, host="10.88.0.9"),
        lambda bench: packet(data(bench), bench.port, host=FAR6),
        lambda bench: packet(data(bench, REMOTE_INDEX ^ 1), bench.port),
        lambda bench: packet(bench.marked_for_the_other(data(bench)), bench.port),
        lambda bench: packet(data(bench), bench.port, fragment=8),
        lambda bench: packet(struct.pack("<II", 1, 12345) + bytes(140), bench.port),
        lambda bench: packet(struct.pack("<II", 3, REMOTE_INDEX) + bytes(56), bench.port),
        lambda bench: packet(data(bench)[:7], bench.port),
        lambda bench: packet(b"", bench.port),
    ],
    ids=[
        "port", "endpoint-port", "endpoint", "family", "index", "cipher", "later-fragment", "initiation",
        "cookie-reply", "short", "empty",
    ],
)  # fmt: skip
def test_messages_of_others_pass(bench: Bench, interface: Interface, changed: Message) -> None:
    """Of a tunnel within this one, for example, in another namespace or behind this host."""
    passes(bench, lambda: interface.write(changed(bench)))


@pytest.mark.parametrize("host", [FAR, FAR6], ids=["ipv4", "ipv6"])
def test_each_message_of_a_train_is_looked_at(bench: Bench, interface: Interface, host: str) -> None:
    """A train that comes back is one super-packet."""
    peer_at(bench, bench.peer, host)
    own, other = data(bench), data(bench, REMOTE_INDEX ^ 1)
    train = packet(own + other + own + own[:64], bench.port, host=host)
    header = len(packet(b"", 0, host=host))
    vnet = Vnet(NEEDS_CSUM, UDP_L4, header, len(own), header - 8, 6)
    dropped(bench, lambda: interface.write(train, vnet), 3, leave=1)


def test_peers_that_are_reached_through_each_other_loop(bench: Bench, interface: Interface) -> None:
    first, second = bench.peer, ffi.new("uint32_t *")
    assert lib.udpring_plane_peer_add(bench.plane, second) == 0
    try:
        bench.peer = second[0]
        peer_at(bench, bench.peer, FAR)
        bench.allow(bench.peer, OTHER, 32)
        bench.key(remote=REMOTE_INDEX + 5)
        bench.peer = first
        peer_at(bench, first, OTHER)
        to_first = packet(data(bench), bench.port, host=OTHER)
        to_second = packet(data(bench, REMOTE_INDEX + 5), bench.port)
        before = loops(bench)

        def both_come_back() -> bool:
            """Within a second, sooner or later."""
            for returns in (to_second, to_first):
                read = bench.stats().tun_packets_in
                interface.write(returns)
                bench.wait(lambda: bench.stats().tun_packets_in > read)  # noqa: B023
            return loops(bench) > before

        # A tunnel within a tunnel is none.
        passes(bench, lambda: interface.write(to_second))
        bench.wait(both_come_back)
    finally:
        assert lib.udpring_plane_peer_remove(bench.plane, second[0]) == 0
