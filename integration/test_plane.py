"""The C data path against a second implementation: Python's `cryptography` and struct act as the peer.

One plane in its own network namespace. The peer is a plain UDP socket in the same namespace. Packets that an
application sends into the interface must come out of that socket as the protocol says, and the reverse.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL, get_errno
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pytest
import single_commands
from core_internals import lib as internals
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import until

from udpring._native import ffi, lib, reason, reason_text
from udpring.tunnel.plane_options import offload_flags

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a TUN device and a network namespace: needs root"),
]

CLONE_NEWNET = 0x40000000
UDP_SEGMENT = 103
APP, INNER_PEER = "10.77.0.1", "10.77.0.2"
APP6, INNER_PEER6 = "fd77::1", "fd77::2"
TIERS = {
    "uring-multishot": lib.UDPRING_TIER_URING_MULTISHOT,
    "uring-pool": lib.UDPRING_TIER_URING_POOL,
    "mmsg": lib.UDPRING_TIER_MMSG,
}
SEND_KEY, RECEIVE_KEY = bytes(range(32)), bytes(range(100, 132))
REMOTE_INDEX = 0xA1B2C3D4
T = TypeVar("T")


@dataclass(frozen=True)
class Suite:
    """The differences between the ciphers, written independently."""

    cipher: int
    aead: type[ChaCha20Poly1305] | type[AESGCM]
    order: Literal["little", "big"]
    mark: int
    rekey: int
    reject: int

    def seal(self, key: bytes, counter: int, plain: bytes) -> bytes:
        return self.aead(key).encrypt(bytes(4) + counter.to_bytes(8, self.order), plain, b"")

    def open(self, key: bytes, counter: int, sealed: bytes) -> bytes:
        return self.aead(key).decrypt(bytes(4) + counter.to_bytes(8, self.order), sealed, b"")

    def header(self, index: int, counter: int) -> bytes:
        return struct.pack("<IIQ", 4 | self.mark, index, counter)


WIREGUARD = Suite(
    lib.UDPRING_CIPHER_CHACHA20_POLY1305, ChaCha20Poly1305, "little", 0, 2**60, 2**64 - 2**13 - 1
)
AES = Suite(lib.UDPRING_CIPHER_AES_256_GCM, AESGCM, "big", int.from_bytes(b"\0uAG", "little"), 2**30, 2**31)


class Bench:
    """A plane, its interface with addresses, and the peer's socket, all in a new namespace."""

    def __init__(self, tier: int, workers: int, suite: Suite, *, mailbox: int = 0, flags: int = 0) -> None:
        self.suite = suite
        self.flags = flags
        self.mailbox = mailbox
        self.thread = ThreadPoolExecutor(1)
        try:
            self.inside(lambda: self._open(tier, workers))
        except BaseException:
            self.thread.shutdown()
            raise

    def inside(self, work: Callable[[], T]) -> T:
        return self.thread.submit(work).result(timeout=60)

    def _open(self, tier: int, workers: int) -> None:
        libc = CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(get_errno(), "unshare")
        options = ffi.new("struct udpring_plane_options *", {"tier": tier, "mtu": 1420, "workers": workers})
        options.mailbox = self.mailbox
        options.flags = offload_flags(None) | self.flags  # as UDPRING_OFFLOADS says
        options.name = f"up{random.randrange(1 << 32):08x}".encode()
        code, why = ffi.new("int32_t *"), reason()
        self.plane = lib.udpring_plane_open(options, code, why)
        assert self.plane != ffi.NULL, reason_text(why)
        name = ffi.string(lib.udpring_plane_name(self.plane)).decode()
        for command in (
            "link set lo up",
            f"addr add {APP}/24 dev {name}",
            f"addr add {APP6}/64 dev {name} nodad",
            f"link set {name} addrgenmode none",
            f"link set {name} up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        # The kernel delivers to an IPv6 address shortly after its link was set up, by a work item. A
        # preloaded address sanitiser would end Debian 12's ip, which has an overlapping strncpy here.
        show = ["env", "-u", "LD_PRELOAD", "ip", "-6", "route", "show", "table", "local", APP6]
        until(lambda: subprocess.check_output(show), f"{APP6} is local", interval=0.01)
        self.peer_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.peer_socket.bind(("127.0.0.1", 0))
        self.peer_socket.settimeout(30)
        self.app = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.app.bind((APP, 5000))
        self.app.settimeout(30)
        self.port = lib.udpring_plane_port(self.plane)
        peer = ffi.new("uint32_t *")
        assert lib.udpring_plane_peer_add(self.plane, peer) == 0
        self.peer = peer[0]
        self.set_endpoint(self.peer_socket)
        self.allow(self.peer, INNER_PEER, 32)
        self.allow(self.peer, INNER_PEER6, 128)
        self.counter = 0

    def close(self) -> None:
        def work() -> None:
            lib.udpring_plane_close(self.plane)
            self.app.close()
            self.peer_socket.close()

        self.inside(work)
        self.thread.shutdown()

    def set_endpoint(self, sock: socket.socket) -> None:
        address = ffi.new(
            "struct udpring_address *", {"family": socket.AF_INET, "port": sock.getsockname()[1]}
        )
        ffi.memmove(address.ip, socket.inet_aton("127.0.0.1"), 4)
        assert lib.udpring_plane_endpoint(self.plane, self.peer, address) == 0

    def allow(self, peer: int, ip: str, cidr: int) -> None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        prefix = ffi.new("struct udpring_prefix *", {"family": family, "cidr": cidr, "peer": peer})
        packed = socket.inet_pton(family, ip)
        ffi.memmove(prefix.ip, packed, len(packed))
        done = ffi.new("uint32_t *")
        assert lib.udpring_plane_prefixes(self.plane, prefix, 1, done) == 0

    def key(self, *, initiator: bool = True, ahead: int = 0, remote: int = REMOTE_INDEX) -> int:
        """Installs a session, born `ahead` ns after now. Returns the plane's index."""
        index = ffi.new("uint32_t *")
        assert lib.udpring_plane_indices(self.plane, self.peer, index, 1) == 0
        code = single_commands.keypair(
            self.plane,
            self.peer,
            self.suite.cipher,
            SEND_KEY + RECEIVE_KEY,
            index[0],
            remote,
            initiator,
            time.clock_gettime_ns(time.CLOCK_BOOTTIME) + ahead,
        )
        assert code in (0, 1), "1: staged packets have left on it"
        self.staged_left = code == 1
        self.counter = 0
        self.index: int = index[0]
        return self.index

    def seal(self, inner: bytes, *, counter: int | None = None, pad: bool = True) -> bytes:
        if counter is None:
            counter = self.counter
            self.counter += 1
        plain = inner + bytes(-len(inner) % 16) if pad else inner
        return self.suite.header(self.index, counter) + self.suite.seal(RECEIVE_KEY, counter, plain)

    def marked_for_the_other(self, message: bytes) -> bytes:
        """Changes that an attacker on the path can make to a message."""
        other = WIREGUARD if self.suite is AES else AES
        return message[:1] + struct.pack("<I", other.mark)[1:] + message[4:]

    def send(self, message: bytes) -> None:
        self.peer_socket.sendto(message, ("127.0.0.1", self.port))

    def receive(self) -> tuple[int, bytes]:
        """The next data message at the peer: counter and opened inner packet (padding included)."""
        message = self.peer_socket.recv(70000)
        kind, index, counter = struct.unpack_from("<IIQ", message)
        assert (kind, index) == (4 | self.suite.mark, REMOTE_INDEX)
        return counter, self.suite.open(SEND_KEY, counter, message[16:])

    def stats(self) -> Any:
        stats = ffi.new("struct udpring_plane_stats *")
        assert lib.udpring_plane_stats(self.plane, stats) == 0
        return stats

    def drops(self) -> dict[str, int]:
        stats = self.stats()
        return {
            ffi.string(lib.udpring_drop_name(i)).decode(): stats.drops[i]
            for i in range(lib.UDPRING_DROP_COUNT)
            if stats.drops[i]
        }

    def state(self) -> Any:
        state = ffi.new("struct udpring_peer_state *")
        assert lib.udpring_plane_peer_state(self.plane, self.peer, 0, state) == 0
        return state

    def events(self) -> list[Any]:
        """They are valid until the next call, and do not keep the memory alive."""
        self.taken = ffi.new("struct udpring_event[64]")
        return [self.taken[i] for i in range(lib.udpring_plane_events(self.plane, self.taken, 64))]

    def dropped(self, reason_name: str, message: bytes) -> None:
        """Sends a message that must be dropped for this reason and change nothing else."""
        before, state = self.drops().get(reason_name, 0), self.state()
        self.send(message)
        self.wait(lambda: self.drops().get(reason_name, 0) == before + 1)
        after = self.state()
        assert bytes(ffi.buffer(after)) == bytes(ffi.buffer(state))

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 30_000_000_000
        while not condition():
            assert time.clock_gettime_ns(time.CLOCK_BOOTTIME) < deadline, self.drops()


def udp_packet(
    payload: bytes, *, source: str = INNER_PEER, destination: str = APP, port: int = 5000
) -> bytes:
    """An IPv4 UDP packet without UDP checksum."""
    total = 28 + len(payload)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        total,
        0,
        0,
        64,
        17,
        0,
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    words = sum(struct.unpack("!10H", header))
    words = (words & 0xFFFF) + (words >> 16)
    words = (words & 0xFFFF) + (words >> 16)
    header = header[:10] + struct.pack("!H", ~words & 0xFFFF) + header[12:]
    return header + struct.pack("!HHHH", 6000, port, 8 + len(payload), 0) + payload


@pytest.fixture(
    scope="module", params=[*TIERS, "uring-multishot x3", "mmsg x2", "uring-multishot aes", "mmsg aes x2"]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    tier, *more = request.param.split()
    workers = [int(word[1:]) for word in more if word.startswith("x")]
    made = Bench(TIERS[tier], *(workers or [1]), AES if "aes" in more else WIREGUARD)
    yield made
    made.close()


@pytest.fixture
def keyed(bench: Bench) -> Bench:
    single_commands.keys_erase(bench.plane, bench.peer)
    bench.set_endpoint(bench.peer_socket)
    bench.key()
    while True:
        # Answers owed from an earlier test are sent now. Data that came meanwhile is owed one more.
        single_commands.keepalive(bench.plane, bench.peer)
        bench.receive()
        if not bench.state().owed_since_ns:
            break
    bench.events()
    internals.udpring_plane_test_counter(bench.plane, bench.peer, 0)
    return bench


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.binary(max_size=1392))
def test_what_the_interface_takes_comes_out_sealed(keyed: Bench, payload: bytes) -> None:
    keyed.app.sendto(payload, (INNER_PEER, 6000))
    _counter, inner = keyed.receive()
    assert len(inner) % 16 == 0 or len(inner) == 1420
    total = struct.unpack_from("!H", inner, 2)[0]
    assert inner[28:total] == payload
    assert inner[total:] == bytes(len(inner) - total)
    assert len(inner) - total < 16


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.binary(max_size=1392), pad=st.booleans())
def test_what_the_peer_seals_comes_out_of_the_interface(keyed: Bench, payload: bytes, pad: bool) -> None:
    keyed.send(keyed.seal(udp_packet(payload), pad=pad))
    assert keyed.app.recv(2000) == payload


def test_counters_rise_by_one(keyed: Bench) -> None:
    for expected in range(20):
        keyed.app.sendto(b"x", (INNER_PEER, 6000))
        assert keyed.receive()[0] == expected


def test_nonces_are_64_bits_wide(keyed: Bench) -> None:
    edge = 2**32 if keyed.suite is WIREGUARD else 2**24
    assert internals.udpring_plane_test_counter(keyed.plane, keyed.peer, edge - 1) == 0
    for expected in (edge - 1, edge, edge + 1):
        keyed.app.sendto(b"x", (INNER_PEER, 6000))
        assert keyed.receive()[0] == expected
    keyed.send(keyed.seal(udp_packet(b"far"), counter=2**40 if keyed.suite is WIREGUARD else 2**30))
    assert keyed.app.recv(100) == b"far"


def test_message_limit_stops_the_key_and_asks_for_another(keyed: Bench) -> None:
    last = keyed.suite.reject - 1
    assert internals.udpring_plane_test_counter(keyed.plane, keyed.peer, last) == 0
    keyed.app.sendto(b"last", (INNER_PEER, 6000))
    assert keyed.receive()[0] == last
    keyed.app.sendto(b"staged", (INNER_PEER, 6000))
    keyed.wait(lambda: keyed.state().staged == 1)
    assert any(event.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED for event in keyed.events())
    keyed.key()
    assert keyed.receive()[0] == 0  # staged packets leave with the new key


@pytest.mark.parametrize("over", ["keys_erase", "keys_expire", "staged_drop"])
def test_packet_requests_a_new_handshake_at_once(keyed: Bench, over: str) -> None:
    """Less than half a second after the last request. Nothing else would request the key that the packet
    waits for."""
    assert single_commands.keys_expire(keyed.plane, keyed.peer) == 0
    for number in (1, 2):
        keyed.app.sendto(b"staged", (INNER_PEER, 6000))
        keyed.wait(lambda: keyed.state().staged == (1 if over == "staged_drop" else number))  # noqa: B023
        assert any(event.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED for event in keyed.events()), number
        assert getattr(single_commands, over)(keyed.plane, keyed.peer) == 0
    single_commands.staged_drop(keyed.plane, keyed.peer)


def test_an_aes_key_ends_by_bytes(keyed: Bench) -> None:
    """After 2^34 blocks a new key is requested, after 2^35 this one ends. The other cipher has no such
    limit."""
    for blocks, asks, sends in ((2**34 - 1, False, True), (2**34, True, True), (2**35, True, False)):
        keyed.key()
        keyed.events()
        assert internals.udpring_plane_test_blocks(keyed.plane, keyed.peer, blocks) == 0
        keyed.app.sendto(b"x", (INNER_PEER, 6000))
        limited = keyed.suite is AES
        if sends or not limited:
            keyed.receive()
        else:
            keyed.wait(lambda: keyed.state().staged == 1)
        wanted = any(event.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED for event in keyed.events())
        assert wanted is (asks and limited)
    single_commands.staged_drop(keyed.plane, keyed.peer)


def test_what_is_sealed_is_counted_in_blocks(keyed: Bench) -> None:
    """28 bytes of headers and 20 of payload are three blocks, and one more counts for the tag.

    WireGuard's cipher has no limit of blocks, so it never requests a key for them.
    """
    limited = keyed.suite is not WIREGUARD
    for left, wanted in ((5, [False, False, True]), (4, [False, True])):
        keyed.key()
        keyed.events()
        assert internals.udpring_plane_test_blocks(keyed.plane, keyed.peer, 2**34 - left) == 0
        for expected in wanted:
            keyed.app.sendto(bytes(20), (INNER_PEER, 6000))
            keyed.receive()
            asked = any(event.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED for event in keyed.events())
            assert asked is (expected and limited)


def test_an_unknown_cipher_is_refused(bench: Bench) -> None:
    for cipher in (-1, lib.UDPRING_CIPHER_COUNT):
        code = single_commands.keypair(bench.plane, bench.peer, cipher, bytes(64), 1, 2, 1, 0)
        assert code == -errno.EINVAL


def test_rekey_after_messages_asks_while_the_key_still_works(keyed: Bench) -> None:
    assert internals.udpring_plane_test_counter(keyed.plane, keyed.peer, keyed.suite.rekey) == 0
    keyed.app.sendto(b"x", (INNER_PEER, 6000))
    assert keyed.receive()[0] == keyed.suite.rekey
    assert any(event.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED for event in keyed.events())


@pytest.mark.parametrize(("initiator", "asks"), [(True, True), (False, False)])
def test_only_the_initiator_rekeys_by_time_when_it_sends(bench: Bench, initiator: bool, asks: bool) -> None:
    single_commands.keys_erase(bench.plane, bench.peer)
    bench.key(initiator=initiator)
    bench.send(bench.seal(b""))  # a keepalive confirms the responder's key
    bench.wait(lambda: bench.state().session_birth_ns != 0 and bench.state().last_received_ns != 0)
    bench.events()
    assert internals.udpring_plane_test_age(bench.plane, bench.peer, 121 * 10**9) == 0
    bench.app.sendto(b"x", (INNER_PEER, 6000))
    bench.receive()
    assert any(event.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED for event in bench.events()) is asks


@pytest.mark.parametrize(("age", "asks"), [(160, 0), (166, 1)])
def test_the_initiator_rekeys_once_when_it_only_receives(keyed: Bench, age: int, asks: int) -> None:
    assert internals.udpring_plane_test_age(keyed.plane, keyed.peer, age * 10**9) == 0
    for text in (b"one", b"two"):
        keyed.send(keyed.seal(udp_packet(text)))
        assert keyed.app.recv(100) == text
    assert sum(event.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED for event in keyed.events()) == asks


def test_a_key_past_its_time_neither_sends_nor_receives(keyed: Bench) -> None:
    assert internals.udpring_plane_test_age(keyed.plane, keyed.peer, 181 * 10**9) == 0
    keyed.dropped("key_expired", keyed.seal(udp_packet(b"late")))
    keyed.app.sendto(b"x", (INNER_PEER, 6000))
    keyed.wait(lambda: keyed.state().staged == 1)
    single_commands.staged_drop(keyed.plane, keyed.peer)


def test_key_newer_than_the_clock_is_valid(bench: Bench) -> None:
    """A worker reads the clock once per pass. A busy one may get a key that was made since."""
    bench.set_endpoint(bench.peer_socket)
    single_commands.keys_erase(bench.plane, bench.peer)
    bench.app.sendto(b"staged", (INNER_PEER, 6000))
    bench.wait(lambda: bench.state().staged == 1)
    bench.key(ahead=3600 * 10**9)
    assert bench.staged_left
    assert b"staged" in bench.receive()[1]
    bench.app.sendto(b"out", (INNER_PEER, 6000))
    assert b"out" in bench.receive()[1]
    bench.send(bench.seal(udp_packet(b"in")))
    assert bench.app.recv(100) == b"in"
    single_commands.keys_erase(bench.plane, bench.peer)


def test_responder_does_not_send_before_the_first_data(bench: Bench) -> None:
    bench.set_endpoint(bench.peer_socket)
    single_commands.keys_erase(bench.plane, bench.peer)
    bench.events()
    bench.key(initiator=False)
    bench.app.sendto(b"early", (INNER_PEER, 6000))
    bench.wait(lambda: bench.state().staged == 1)
    bench.send(bench.seal(b""))
    _, inner = bench.receive()
    assert b"early" in inner
    assert any(event.kind == lib.UDPRING_EVENT_KEY_CONFIRMED for event in bench.events())


def test_the_previous_key_still_receives(keyed: Bench) -> None:
    old = keyed.seal(udp_packet(b"late but good"))
    keyed.key()
    keyed.send(old)
    assert keyed.app.recv(100) == b"late but good"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("flooded", lambda b: b""),
        ("flooded", lambda b: bytes([4, 0, 0, 0])),
        ("flooded", lambda b: b.seal(b"")[:31]),
        ("too_short", lambda b: bytes([1]) + bytes(146)),
        ("too_short", lambda b: bytes([2]) + bytes(92)),
        ("flooded", lambda b: bytes([3]) + bytes(62)),
        ("too_short", lambda b: bytes([3]) + bytes(64)),
        ("bad_type", lambda b: bytes(100)),
        ("bad_type", lambda b: bytes([5]) + bytes(99)),
        ("bad_type", lambda b: b"\x04\x00\x00\x01" + b.seal(udp_packet(b"x"))[4:]),
        ("no_identity", lambda b: bytes([1]) + bytes(147)),
        ("unknown_index", lambda b: b.suite.header(b.index ^ 1, 0) + bytes(32)),
        ("unknown_index", lambda b: struct.pack("<II", 3, b.index ^ 1) + bytes(56)),
        ("bad_type", lambda b: b"\x04uAg" + b.seal(udp_packet(b"x"))[4:]),
        ("bad_type", lambda b: b"\x05uAG" + b.seal(udp_packet(b"x"))[4:]),
        ("too_short", lambda b: b"\x01uAG" + bytes(143)),
        ("no_identity", lambda b: b"\x01uAG" + bytes(144)),
        ("cipher_mismatch", lambda b: b.marked_for_the_other(b.seal(udp_packet(b"x")))),
        ("cipher_mismatch", lambda b: b.marked_for_the_other(b.seal(b""))),
        ("unauthenticated", lambda b: b.seal(udp_packet(b"x"))[:-1] + b"\x00"),
        ("unauthenticated", lambda b: b.suite.header(b.index, b.suite.reject - 2**20) + bytes(64)),
        ("key_expired", lambda b: b.seal(udp_packet(b"x"), counter=b.suite.reject)),
    ],
)
def test_bad_messages_change_nothing(keyed: Bench, name: str, make: Callable[[Bench], bytes]) -> None:
    keyed.dropped(name, make(keyed))
    keyed.send(keyed.seal(udp_packet(b"good")))  # a forged counter has not moved the window
    assert keyed.app.recv(100) == b"good"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=st.binary(max_size=300))
def test_random_bytes_are_dropped_and_counted(keyed: Bench, message: bytes) -> None:
    def dropped() -> int:
        # no_peer is of packets out: the kernel sends reports of its IPv6 groups at any time.
        return sum(count for reason_name, count in keyed.drops().items() if reason_name != "no_peer")

    before = dropped()
    keyed.send(message)
    keyed.wait(lambda: dropped() == before + 1)


def test_replays_are_dropped_within_and_behind_the_window(keyed: Bench) -> None:
    keyed.send(message := keyed.seal(udp_packet(b"once"), counter=10000))
    assert keyed.app.recv(100) == b"once"
    keyed.dropped("replayed", message)
    keyed.send(keyed.seal(udp_packet(b"edge"), counter=10000 - 8128 + 1))
    assert keyed.app.recv(100) == b"edge"
    keyed.dropped("replayed", keyed.seal(udp_packet(b"gone"), counter=10000 - 8192))


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("spoofed", udp_packet(b"x", source="10.77.0.9")),
        ("bad_inner", b"\x00" * 32),
        ("bad_inner", b"\x45"),
        ("bad_inner", udp_packet(b"x")[:2] + b"\xff\xff" + udp_packet(b"x")[4:]),
        ("bad_inner", udp_packet(b"x")[:2] + b"\x00\x05" + udp_packet(b"x")[4:]),
        ("bad_inner", b"\x60\x00\x00\x00\xff\xff" + bytes(34)),
    ],
)
def test_authentic_but_wrong_inner_packets(keyed: Bench, name: str, inner: bytes) -> None:
    before = keyed.drops().get(name, 0)
    keyed.send(keyed.seal(inner))
    keyed.wait(lambda: keyed.drops().get(name, 0) == before + 1)


def test_longer_prefix_of_another_peer_is_spoofed(keyed: Bench) -> None:
    """A source address in another peer's longer prefix is dropped, although this peer's prefix covers it."""
    other = ffi.new("uint32_t *")
    assert lib.udpring_plane_peer_add(keyed.plane, other) == 0
    keyed.allow(keyed.peer, "10.88.0.0", 16)
    keyed.allow(other[0], "10.88.1.0", 24)
    before = keyed.drops().get("spoofed", 0)
    keyed.send(keyed.seal(udp_packet(b"x", source="10.88.1.5")))
    keyed.wait(lambda: keyed.drops().get("spoofed", 0) == before + 1)
    keyed.send(keyed.seal(udp_packet(b"ours", source="10.88.2.5")))
    assert keyed.app.recv(100) == b"ours"
    assert lib.udpring_plane_peer_remove(keyed.plane, other[0]) == 0


def test_authentic_packet_with_wrong_source_roams(keyed: Bench) -> None:
    """The inner source address is wrong, but the packet is authentic, so the endpoint moves."""
    moved = keyed.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with moved:
        moved.bind(("127.0.0.1", 0))
        moved.settimeout(30)
        moved.sendto(keyed.seal(udp_packet(b"x", source="10.77.0.9")), ("127.0.0.1", keyed.port))
        keyed.wait(lambda: keyed.state().endpoint.port == moved.getsockname()[1])
        keyed.app.sendto(b"to the new place", (INNER_PEER, 6000))
        assert moved.recv(2000)[:4] == keyed.suite.header(0, 0)[:4]


def test_staging_keeps_the_newest_128_in_order(bench: Bench) -> None:
    bench.set_endpoint(bench.peer_socket)
    single_commands.keys_erase(bench.plane, bench.peer)
    before = bench.drops().get("staging_full", 0)
    for i in range(140):
        bench.app.sendto(b"%d" % i, (INNER_PEER, 6000))
    bench.wait(lambda: bench.drops().get("staging_full", 0) == before + 12)
    assert bench.state().staged == 128
    bench.key()
    assert bench.staged_left
    for i in range(12, 140):
        counter, inner = bench.receive()
        assert counter == i - 12
        assert inner[28 : struct.unpack_from("!H", inner, 2)[0]] == b"%d" % i


def test_no_endpoint_and_no_peer_are_counted(keyed: Bench) -> None:
    none = ffi.new("struct udpring_address *")
    lib.udpring_plane_endpoint(keyed.plane, keyed.peer, none)
    before = keyed.drops()
    keyed.app.sendto(b"x", (INNER_PEER, 6000))
    keyed.wait(lambda: keyed.drops().get("no_endpoint", 0) == before.get("no_endpoint", 0) + 1)
    keyed.app.sendto(b"x", ("10.77.0.200", 6000))
    keyed.wait(lambda: keyed.drops().get("no_peer", 0) > before.get("no_peer", 0))


def test_inner_ipv6_both_ways(keyed: Bench) -> None:
    app = keyed.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    with app:
        app.bind((APP6, 5000))
        app.settimeout(30)
        app.sendto(b"six", (INNER_PEER6, 6000))
        _, inner = keyed.receive()
        assert inner[0] >> 4 == 6
        # The same packet back with addresses and ports swapped, which does not change the checksum.
        length = struct.unpack_from("!H", inner, 4)[0]
        inner = inner[: 40 + length]
        back = inner[:8] + inner[24:40] + inner[8:24] + inner[42:44] + inner[40:42] + inner[44:]
        keyed.send(keyed.seal(back))
        assert app.recv(100) == b"six"


def test_port_change_keeps_the_session(keyed: Bench) -> None:
    port, why = ffi.new("uint16_t *", 0), reason()
    assert lib.udpring_plane_bind(keyed.plane, port, 0, why) == 0, reason_text(why)
    assert port[0] not in (0, keyed.port)
    keyed.port = port[0]
    keyed.send(keyed.seal(udp_packet(b"still here")))
    assert keyed.app.recv(100) == b"still here"
    keyed.app.sendto(b"and back", (INNER_PEER, 6000))
    assert b"and back" in keyed.receive()[1]


def test_taken_port_keeps_the_old_one(keyed: Bench) -> None:
    taken = keyed.peer_socket.getsockname()[1]
    port, why = ffi.new("uint16_t *", taken), reason()
    assert lib.udpring_plane_bind(keyed.plane, port, 0, why) < 0
    assert str(taken) in reason_text(why)
    keyed.send(keyed.seal(udp_packet(b"old port")))
    assert keyed.app.recv(100) == b"old port"


def test_passive_keepalive_stamps(keyed: Bench) -> None:
    assert (keyed.state().owed_since_ns, keyed.state().owed_again) == (0, 0)
    keyed.send(keyed.seal(udp_packet(b"one")))
    assert keyed.app.recv(100) == b"one"
    first = keyed.state().owed_since_ns
    assert first
    assert not keyed.state().owed_again
    keyed.send(keyed.seal(udp_packet(b"two")))
    assert keyed.app.recv(100) == b"two"
    assert (keyed.state().owed_since_ns, keyed.state().owed_again) == (first, 1)
    assert single_commands.keepalive(keyed.plane, keyed.peer) == 0
    assert keyed.receive()[1] == b""
    assert keyed.state().owed_since_ns > first  # an answer to the second one is still owed
    assert single_commands.keepalive(keyed.plane, keyed.peer) == 0
    assert keyed.receive()[1] == b""
    assert keyed.state().owed_since_ns == 0


def test_a_second_owed_keepalive_wakes_suspended_timers(keyed: Bench) -> None:
    for text in (b"one", b"two"):
        keyed.send(keyed.seal(udp_packet(text)))
        assert keyed.app.recv(100) == text
    state = ffi.new("struct udpring_peer_state *")
    assert lib.udpring_plane_peer_state(keyed.plane, keyed.peer, 1, state) == 0
    assert state.owed_again
    keyed.events()
    assert single_commands.keepalive(keyed.plane, keyed.peer) == 0
    assert [event.kind for event in keyed.events()] == [lib.UDPRING_EVENT_ACTIVITY]
    keyed.receive()


def test_unanswered_data_is_stamped_until_anything_comes(keyed: Bench) -> None:
    before = keyed.state().last_received_ns
    keyed.send(keyed.seal(b""))
    keyed.wait(lambda: keyed.state().last_received_ns != before)
    keyed.app.sendto(b"one", (INNER_PEER, 6000))
    keyed.receive()
    first = keyed.state().unanswered_since_ns
    keyed.app.sendto(b"two", (INNER_PEER, 6000))
    keyed.receive()
    assert keyed.state().unanswered_since_ns == first != 0
    keyed.send(keyed.seal(b""))
    keyed.wait(lambda: keyed.state().unanswered_since_ns == 0)


def test_what_no_route_takes_is_not_counted_as_sent(keyed: Bench) -> None:
    """As in the kernel: tx_bytes and the stamp of unanswered data count sent packets, others count all."""
    nowhere = ffi.new("struct udpring_address *", {"family": socket.AF_INET, "port": 9})
    ffi.memmove(nowhere.ip, socket.inet_aton("203.0.113.9"), 4)
    heard = keyed.state().rx_bytes
    keyed.send(keyed.seal(b""))
    keyed.wait(lambda: keyed.state().rx_bytes > heard)
    assert lib.udpring_plane_endpoint(keyed.plane, keyed.peer, nowhere) == 0
    before, failed = keyed.state(), keyed.drops().get("send_failed", 0)
    for size in (100, 1392, 1392):
        keyed.app.sendto(bytes(size), (INNER_PEER, 6000))
    assert single_commands.keepalive(keyed.plane, keyed.peer) == 0
    arguments = (keyed.peer, bytes(148), 148, 0, ffi.NULL, ffi.NULL, 0, ffi.NULL)
    assert single_commands.send(keyed.plane, *arguments) == 0
    keyed.wait(lambda: keyed.drops().get("send_failed", 0) == failed + 5)
    after = keyed.state()
    assert (after.tx_bytes, after.unanswered_since_ns) == (before.tx_bytes, 0)
    assert after.last_sent_ns > before.last_sent_ns


def test_what_is_counted_as_sent_is_what_arrives(keyed: Bench) -> None:
    before = keyed.state().tx_bytes
    arrived = 0
    for size in (0, 1, 1000, 1392, 1392, 700):
        keyed.app.sendto(bytes(size), (INNER_PEER, 6000))
        arrived += len(keyed.peer_socket.recv(70000))
    # On hosts with USO this is one super-packet, which leaves as a train.
    segments = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 100))]
    keyed.app.sendmsg([bytes(950)], segments, 0, (INNER_PEER, 6000))
    for _ in range(10):
        arrived += len(keyed.peer_socket.recv(70000))
    assert keyed.state().tx_bytes == before + arrived


def test_activity_is_posted_once_per_idle_time(keyed: Bench) -> None:
    state = ffi.new("struct udpring_peer_state *")
    heard = keyed.state().rx_bytes
    keyed.send(keyed.seal(b""))
    keyed.wait(lambda: keyed.state().rx_bytes > heard)
    keyed.events()
    assert lib.udpring_plane_peer_state(keyed.plane, keyed.peer, 1, state) == 0
    for _ in range(3):
        keyed.app.sendto(b"x", (INNER_PEER, 6000))
        keyed.receive()
    assert sum(event.kind == lib.UDPRING_EVENT_ACTIVITY for event in keyed.events()) == 1


def test_stale_peer_id_finds_nobody(bench: Bench) -> None:
    peer = ffi.new("uint32_t *")
    assert lib.udpring_plane_peer_add(bench.plane, peer) == 0
    assert lib.udpring_plane_peer_remove(bench.plane, peer[0]) == 0
    assert lib.udpring_plane_peer_remove(bench.plane, peer[0]) == -2  # ENOENT
    again = ffi.new("uint32_t *")
    assert lib.udpring_plane_peer_add(bench.plane, again) == 0
    assert again[0] != peer[0]
    assert lib.udpring_plane_peer_remove(bench.plane, again[0]) == 0


def with_ecn(packet: bytes, ecn: int) -> bytes:
    """The IPv4 packet with this ECN field and a fresh header checksum."""
    header = packet[:1] + bytes([ecn]) + packet[2:10] + b"\0\0" + packet[12:20]
    words = sum(struct.unpack("!10H", header))
    words = (words & 0xFFFF) + (words >> 16)
    words = (words & 0xFFFF) + (words >> 16)
    return header[:10] + struct.pack("!H", ~words & 0xFFFF) + header[12:] + packet[20:]


# RFC 6040, figure 4: rows are the inner field, columns the outer. None: dropped.
# 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.
DECAPSULATED = {
    0: {0: 0, 2: 0, 1: 0, 3: None},
    2: {0: 2, 2: 2, 1: 1, 3: 3},
    1: {0: 1, 2: 1, 1: 1, 3: 3},
    3: {0: 3, 2: 3, 1: 3, 3: 3},
}


@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("outer", range(4))
def test_ecn_comes_in_as_rfc_6040_says(keyed: Bench, inner: int, outer: int) -> None:
    expected = DECAPSULATED[inner][outer]
    before = keyed.drops().get("ecn", 0)
    keyed.app.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    keyed.peer_socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, outer)
    try:
        keyed.send(keyed.seal(with_ecn(udp_packet(b"ecn"), inner)))
        if expected is None:
            keyed.wait(lambda: keyed.drops().get("ecn", 0) == before + 1)
            return
        # It arrives only if the inner header's checksum was corrected.
        data, control, _flags, _source = keyed.app.recvmsg(100, 100)
        assert data == b"ecn"
        assert control[0][2][0] == expected
    finally:
        keyed.peer_socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0)


@pytest.mark.parametrize("ecn", range(4))
def test_ecn_goes_out_and_dscp_does_not(keyed: Bench, ecn: int) -> None:
    keyed.peer_socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    keyed.app.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8 | ecn)
    keyed.app.sendto(b"x", (INNER_PEER, 6000))
    _data, control, _flags, _source = keyed.peer_socket.recvmsg(2000, 100)
    assert control[0][2][0] == ecn
    keyed.app.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0)
