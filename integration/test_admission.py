"""The cost of strangers, and of attackers who read an index off the wire, and what they may not displace.

The tests use counters, not the clock: each flood is a fixed number of messages.
"""

from __future__ import annotations

import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import single_commands
from core_internals import lib as internals
from reference.cookies import xseal
from test_handshake_sockets import MAC1_KEY, PUBLIC_KEY
from test_handshake_sockets import _initiation as initiation
from test_plane import TIERS, WIREGUARD, Bench, pytestmark, udp_packet

from udpring._native import ffi, lib
from udpring.wireguard.cookie import cookie_key, mac, xopen

__all__ = ["pytestmark"]

COOKIE_KEY = cookie_key(PUBLIC_KEY)
PEER_COOKIE_KEY = secrets.token_bytes(32)
SOL_UDP, UDP_SEGMENT = 17, 103
STRAY_BURST, STRAY_NS = 128, 250_000
"""The numbers of native/tunnel/limits.h."""
MAILBOX = 64


@pytest.fixture(params=[*TIERS, "uring-multishot x2", "mmsg x2"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    tier, *more = request.param.split()
    with closing(Bench(TIERS[tier], 2 if more else 1, WIREGUARD, mailbox=MAILBOX)) as made:
        lib.udpring_plane_identity(made.plane, MAC1_KEY, COOKIE_KEY)
        made.key()
        made.events()
        yield made


def trains(bench: Bench, size: int, train: bytes, count: int = 1) -> None:
    with bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, size)
        for _ in range(count):
            sock.sendto(train, ("127.0.0.1", bench.port))


def handshakes(bench: Bench) -> list[bytes]:
    return [
        bytes(ffi.buffer(event.message, event.length))
        for event in bench.events()
        if event.kind == lib.UDPRING_EVENT_HANDSHAKE
    ]


# ---- cookie replies ----


def say(bench: Bench, message: bytes) -> None:
    """The node sends this initiation and waits for a cookie reply."""
    code = single_commands.send(
        bench.plane, bench.peer, message, len(message), 0, ffi.NULL, ffi.NULL, 0, PEER_COOKIE_KEY
    )
    assert code == 0
    assert bench.peer_socket.recv(200) == message


def answer(message: bytes, *, key: bytes = PEER_COOKIE_KEY, sender: bytes | None = None) -> bytes:
    """The peer's cookie reply to it."""
    nonce = secrets.token_bytes(24)
    sealed = xseal(key, nonce, secrets.token_bytes(16), message[-32:-16])
    return b"\3" + message[1:4] + (message[4:8] if sender is None else sender) + nonce + sealed


def own_initiation(bench: Bench, *, reserved: bool = False) -> bytes:
    index = ffi.new("uint32_t *")
    owner = lib.UDPRING_PEER_NONE if reserved else bench.peer
    assert lib.udpring_plane_indices(bench.plane, owner, index, 1) == 0
    return b"\1\0\0\0" + struct.pack("<I", index[0]) + secrets.token_bytes(108) + secrets.token_bytes(32)


def test_only_an_authentic_cookie_reply_is_let_in(bench: Bench) -> None:
    """Only once, however many forged ones arrive."""
    in_session = struct.pack("<I", bench.index)
    first, message = own_initiation(bench), own_initiation(bench)
    bench.dropped("bad_cookie", answer(message, sender=in_session))  # no message waits for one
    say(bench, first)
    say(bench, message)
    real = answer(message)
    forged = [
        answer(message, key=secrets.token_bytes(32)),
        real[:-1] + bytes([real[-1] ^ 1]),
        real[:30] + bytes([real[30] ^ 0x80]) + real[31:],
        answer(message, sender=in_session),
        answer(first),
        answer(first, sender=message[4:8]),
        b"\3uAG" + real[4:],
    ]
    for each in forged * 30:
        bench.dropped("bad_cookie", each)
    assert handshakes(bench) == []
    bench.send(real)
    seen: list[bytes] = []
    bench.wait(lambda: bool(seen.extend(handshakes(bench)) or seen))
    bench.dropped("bad_cookie", real)
    assert seen == [real]
    assert handshakes(bench) == []


def test_a_finished_handshake_waits_for_no_cookie(bench: Bench) -> None:
    for initiator in (True, False):
        message = own_initiation(bench)
        say(bench, message)
        bench.key(initiator=initiator)
        if not initiator:
            bench.send(bench.seal(udp_packet(b"confirmed")))
            assert bench.app.recv(100) == b"confirmed"
            bench.wait(lambda: any(e.kind == lib.UDPRING_EVENT_KEY_CONFIRMED for e in bench.events()))
        bench.dropped("bad_cookie", answer(message))


def test_reserved_index_is_answered_once_its_initiation_was_sent(bench: Bench) -> None:
    message = own_initiation(bench, reserved=True)
    body = struct.pack("<I", 2) + b"them" + message[4:8] + secrets.token_bytes(48)
    response = body + mac(MAC1_KEY, body) + bytes(16)
    bench.dropped("unknown_index", response)
    say(bench, message)
    bench.send(response)
    seen: list[bytes] = []
    bench.wait(lambda: bool(seen.extend(handshakes(bench)) or seen))
    assert seen == [response]


def test_response_to_finished_handshake_is_dropped(bench: Bench) -> None:
    """Its receiver index belongs to a keypair by then, so no message waits for an answer."""
    body = struct.pack("<III", 2, 1, bench.index) + secrets.token_bytes(48)
    replayed = body + mac(MAC1_KEY, body) + bytes(16)
    bench.dropped("unknown_index", replayed)
    assert handshakes(bench) == []


# ---- the limit of handshake messages ----


@pytest.mark.parametrize("head", [struct.pack("<II", 4, 1), bytes([9]) + bytes(7)], ids=["data", "junk"])
def test_handshakes_in_trains_have_a_small_budget(bench: Bench, head: bytes) -> None:
    """Messages beyond it are counted as flooded."""
    train = head + bytes(140) + b"".join(initiation() for _ in range(63))
    began, rounds = time.clock_gettime_ns(time.CLOCK_BOOTTIME), 0
    head_reason = "unknown_index" if head[0] == 4 else "bad_type"
    while rounds < 20 or not bench.drops().get("flooded"):
        trains(bench, 148, train, 20)
        rounds += 1
        # Without UDP_GRO each train is 64 datagrams in the receive buffer, which has no room for all rounds.
        bench.wait(lambda sent=rounds * 20: bench.drops().get(head_reason, 0) == sent)

    def moved(*reasons: str) -> int:
        had = bench.drops()
        return sum(had.get(reason, 0) for reason in reasons)

    seen: list[bytes] = []

    def looked() -> int:
        seen.extend(handshakes(bench))
        return moved("bad_mac2", "mailbox_full") + len(seen)

    bench.wait(lambda: looked() + moved("flooded") == rounds * 20 * 63)
    most = STRAY_BURST + (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - began) // STRAY_NS
    assert looked() <= most * bench.stats().workers


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\1",
        bytes([4]) + bytes(30),
        bytes([9]) + bytes(62),
        bytes([1]) + bytes(62),
        bytes([3]) + bytes(39),
    ],
    ids=["empty", "one byte", "short data", "short junk", "short initiation", "short cookie reply"],
)
def test_what_is_no_message_is_discarded_unread(bench: Bench, garbage: bytes) -> None:
    """The kernel does it: none of it is received, and all of it is counted."""
    before = bench.stats().rx.packets
    for _ in range(200):
        bench.send(garbage)
    bench.wait(lambda: bench.drops().get("flooded") == 200)
    assert bench.stats().rx.packets == before
    bench.send(initiation())
    bench.wait(lambda: len(handshakes(bench)) == 1)


# ---- trains with junk in front ----


def _junk(kind: int, size: int) -> bytes:
    return bytes([kind]) + bytes(size - 1)


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("size", [74, 148, 300, 500, 1452])
def test_junk_in_front_costs_nothing_behind_it(bench: Bench, kind: int, size: int) -> None:
    """For any claimed type, also if the train's length is that of handshakes."""
    for behind in (1, 8, 36):
        inner = size - 32 - 28
        sent = {struct.pack("!HI", behind, number).ljust(inner, b"d") for number in range(behind)}
        sealed = b"".join(bench.seal(udp_packet(payload), pad=False) for payload in sent)
        trains(bench, size, _junk(kind, size) + sealed)
        assert {bench.app.recv(2000) for _ in sent} == sent


def test_handshake_in_a_data_train_is_received(bench: Bench) -> None:
    """As the kernel joins them when one follows the other: the data is shorter, so it ends the train."""
    ours = initiation()
    trains(bench, 148, ours + bench.seal(udp_packet(b"behind it")))
    assert bench.app.recv(100) == b"behind it"
    seen: list[bytes] = []
    bench.wait(lambda: bool(seen.extend(handshakes(bench)) or seen))
    assert seen == [ours]


# ---- the node's cookies ----


def _asked(bench: Bench, sock: socket.socket) -> tuple[bytes, bytes]:
    """An initiation without a cookie, under load, and the cookie reply to it."""
    while True:
        message = initiation()
        sock.send(message)
        try:
            reply = sock.recv(200)
        except TimeoutError:
            continue  # not under load yet: it is in the mailbox
        cookie = xopen(COOKIE_KEY, reply[8:32], reply[32:], message[-32:-16])
        assert cookie is not None
        return message, cookie


def _shown(bench: Bench, sock: socket.socket, cookie: bytes) -> bool:
    """Whether a message with this cookie is accepted."""
    message = initiation()[:-16]
    message += mac(cookie, message)
    before = bench.drops()
    had, lost = before.get("bad_mac2", 0), before.get("mailbox_full", 0)
    seen: list[bytes] = []
    sock.send(message)
    bench.wait(
        lambda: bool(
            seen.extend(handshakes(bench))
            or message in seen
            or bench.drops().get("bad_mac2", 0) > had
            or bench.drops().get("mailbox_full", 0) > lost
        )
    )
    return message in seen


def test_the_cookie_secret_is_replaced_under_a_flood(bench: Bench) -> None:
    """After 120 s, even if no message carries a cookie and no event reaches the control loop."""
    second = 1_000_000_000
    with bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.connect(("127.0.0.1", bench.port))
        sock.settimeout(0.2)
        first = _asked(bench, sock)[1]
        assert _asked(bench, sock)[1] == first
        internals.udpring_plane_test_cookie_age(bench.plane, 120 * second)
        following = first
        give_up = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 30 * second
        # with several workers it is replaced a moment later, when all of them stand still
        while following == first:
            assert time.clock_gettime_ns(time.CLOCK_BOOTTIME) < give_up
            following = _asked(bench, sock)[1]
        assert _asked(bench, sock)[1] == following
        assert _shown(bench, sock, first), "the last one stays valid"
        assert _shown(bench, sock, following)
        internals.udpring_plane_test_cookie_age(bench.plane, 120 * second)
        bench.wait(lambda: _asked(bench, sock)[1] != following)
        _asked(bench, sock)
        assert not _shown(bench, sock, first), "two lifetimes old"


# ---- staged packets ----


def test_full_staging_gives_way_from_the_longest_queue() -> None:
    """With 32 MiB staged for dead peers, another peer's first packet is kept and a handshake requested."""
    dead, fresh = 250, 20
    with closing(Bench(TIERS["mmsg"], 1, WIREGUARD)) as bench:
        peers = _peers(bench, dead + fresh)
        payload = bytes(1392)
        for number in range(400):
            for peer in range(dead):
                bench.app.sendto(payload, (_inside(peer), 7))
            if number > 60 and bench.drops().get("staging_full"):
                break
        assert bench.drops().get("staging_full"), "never full: the test proves nothing"
        while bench.events():
            pass
        held = sum(_state(bench, peer).staged for peer in peers[:dead])
        gone = bench.drops()["staging_full"]
        wanted: list[int] = []
        for peer in range(dead, dead + fresh):
            bench.app.sendto(b"first", (_inside(peer), 7))
            bench.wait(lambda peer=peer: _state(bench, peers[peer]).staged == 1)  # type: ignore[misc]
        bench.wait(lambda: bool(wanted.extend(_wanted(bench)) or set(wanted) >= set(peers[dead:])))
        left = [_state(bench, peer).staged for peer in peers[:dead]]
        assert held - sum(left) == bench.drops()["staging_full"] - gone
        assert min(left) > 0, "a short queue gave way"


def _inside(peer: int) -> str:
    return f"10.78.{peer // 200}.{peer % 200 + 1}"


def _peers(bench: Bench, count: int) -> list[int]:
    """Peers whose endpoints nobody listens on, each with one inner address."""
    name = ffi.string(lib.udpring_plane_name(bench.plane)).decode()
    bench.inside(lambda: subprocess.run(["ip", "route", "add", "10.78.0.0/16", "dev", name], check=True))
    address = ffi.new("struct udpring_address *", {"family": socket.AF_INET, "port": 9})
    ffi.memmove(address.ip, socket.inet_aton("127.0.0.1"), 4)
    made = []
    for number in range(count):
        peer = ffi.new("uint32_t *")
        assert lib.udpring_plane_peer_add(bench.plane, peer) == 0
        assert lib.udpring_plane_endpoint(bench.plane, peer[0], address) == 0
        bench.allow(peer[0], _inside(number), 32)
        made.append(peer[0])
    return made


def _state(bench: Bench, peer: int) -> Any:
    state = ffi.new("struct udpring_peer_state *")
    assert lib.udpring_plane_peer_state(bench.plane, peer, 0, state) == 0
    return state


def _wanted(bench: Bench) -> list[int]:
    return [event.peer for event in bench.events() if event.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED]
