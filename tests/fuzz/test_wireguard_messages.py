"""For any message the protocol returns one ``Dropped`` and changes nothing. It never raises."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from reference import session as reference
from reference.session import Opened, TransportDrop
from wireguard.pair import Node, Pair, ip_packet, with_mac1

from udpring.wireguard import messages
from udpring.wireguard.events import Dropped, DropReason, Outcome, Source

ANYWHERE = Source(b"\x0a\0\0\x01", 4000)


def fingerprint(thing: Any, seen: set[int] | None = None) -> Any:
    """The whole state of a protocol object, in a form that can be compared."""
    seen = set() if seen is None else seen
    if thing is None or isinstance(thing, bytes | int | str | enum.Enum):
        return thing
    if isinstance(thing, X25519PrivateKey):
        return thing.private_bytes_raw()
    if callable(thing) or isinstance(thing, ChaCha20Poly1305 | Node):
        return None
    if id(thing) in seen:
        return "seen"
    seen.add(id(thing))
    if isinstance(thing, dict):
        return [(key, fingerprint(value, seen)) for key, value in thing.items()]
    if isinstance(thing, list | tuple):
        return [fingerprint(value, seen) for value in thing]
    slots = [slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ())]
    names = sorted({*slots, *getattr(thing, "__dict__", ())})
    return type(thing).__name__, [(name, fingerprint(getattr(thing, name), seen)) for name in names]


class Scene:
    """A device that waits for a response, has answered an initiation, and may get a cookie: one valid, unseen
    message of each kind."""

    def __init__(self) -> None:
        pair = Pair(both=True)
        pair.network.drop = lambda datagram: True
        self.node = pair.a
        self.key = pair.a.device.public_key or b""
        # b's initiation, not delivered.
        pair.b.send(ip_packet())
        initiation = pair.network.sent(1, by=pair.b)[0].data
        # a's initiation, b's response to it and b's cookie reply to it, not delivered.
        pair.clock.now += 6_000_000_000
        pair.a.send(ip_packet())
        own = pair.network.sent(1, by=pair.a)[0].data
        pair.b.handshake(own, pair.address_a)
        response = pair.network.sent(2, by=pair.b)[0].data
        pair.b.under_load = True
        pair.b.handshake(own, pair.address_a)
        cookie = pair.network.sent(3, by=pair.b)[0].data
        self.valid = [initiation, response, cookie]
        pair.clock.now += 2_000_000_000  # too late for the initiations to have crossed
        self.now, self.wall = pair.clock.now, pair.clock.wall

    def state(self) -> Any:
        return fingerprint(self.node.device), dict(self.node.indices)

    def receive(self, message: bytes, owner: int | None = 7, *, under_load: bool = False) -> list[Outcome]:
        return self.node.device.receive(
            message,
            ANYWHERE,
            owner,
            under_load=under_load,
            now=self.now,
            wall=self.wall,
        )

    def assert_dropped(self, message: bytes, **given: Any) -> DropReason:
        before = self.state()
        outcomes = self.receive(message, **given)
        assert len(outcomes) == 1, outcomes
        (dropped,) = outcomes
        assert isinstance(dropped, Dropped), dropped
        assert self.state() == before
        return dropped.reason


SCENE = Scene()
OWNERS = st.sampled_from([None, 7, 8, 0xFFFFFFFF])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_valid_messages_are_valid(number: int) -> None:
    """The scene is as described: each unchanged message changes something."""
    scene = Scene()
    before = scene.state()
    assert not any(isinstance(outcome, Dropped) for outcome in scene.receive(scene.valid[number]))
    assert scene.state() != before


@given(st.binary(max_size=200), OWNERS, st.booleans())
def test_random_bytes(message: bytes, owner: int | None, under_load: bool) -> None:
    SCENE.assert_dropped(message, owner=owner, under_load=under_load)


@given(st.sampled_from([1, 2, 3]), st.data(), OWNERS, st.booleans())
def test_right_length_random_content_right_mac1(
    kind: int, data: st.DataObject, owner: int | None, under_load: bool
) -> None:
    length = {1: 148, 2: 92, 3: 64}[kind]
    body = data.draw(st.binary(min_size=length - 4, max_size=length - 4))
    message = bytes((kind, 0, 0, 0)) + body
    if kind != 3:
        message = with_mac1(SCENE.key, message)
    if kind == 3 or not under_load:
        SCENE.assert_dropped(message, owner=owner, under_load=under_load)
        return
    # The source's share of the rate is used, and nothing else has changed.
    peer = SCENE.node.device.by_id[7]
    before = fingerprint(peer)
    (dropped,) = SCENE.receive(message, owner, under_load=True)
    assert isinstance(dropped, Dropped)
    assert fingerprint(peer) == before


@given(st.integers(0, 2), st.integers(0, 147), st.integers(1, 255), st.booleans())
def test_one_byte_changed(number: int, position: int, change: int, fix_mac1: bool) -> None:
    message = bytearray(SCENE.valid[number])
    position %= len(message)
    handshake = number < 2
    if handshake and position >= len(message) - 16:
        return  # mac2 is checked only under load
    if handshake and fix_mac1 and position in range(4, 8):
        return  # the sender's index: only mac1 covers it
    if not handshake and position in range(4, 8):
        return  # the receiver index selects the owner, which the test passes
    message[position] ^= change
    changed = bytes(message)
    if handshake and fix_mac1 and position < len(message) - 32:
        changed = with_mac1(SCENE.key, changed)
    reason = SCENE.assert_dropped(changed)
    if handshake and not fix_mac1 and position >= 4:
        assert reason is DropReason.BAD_MAC1


@given(st.integers(0, 2), st.integers(0, 300), st.binary(max_size=200))
def test_cut_or_longer(number: int, length: int, tail: bytes) -> None:
    valid = SCENE.valid[number]
    message = (valid + tail)[:length] if length != len(valid) else valid + b"\0"
    if message == valid:
        message += b"\0"
    assert SCENE.assert_dropped(message) in (DropReason.BAD_LENGTH, DropReason.BAD_TYPE)


@pytest.mark.parametrize("length", [1500, 9000, 65507, 65535])
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 255])
def test_oversize(kind: int, length: int) -> None:
    SCENE.assert_dropped(bytes((kind,)).ljust(length, b"\0"))


@given(st.integers(0, 2), st.integers(0, 2), st.data())
def test_pieces_of_two_messages(first: int, second: int, data: st.DataObject) -> None:
    one, two = SCENE.valid[first], SCENE.valid[second]
    cut = data.draw(st.integers(0, min(len(one), len(two))))
    message = one[:cut] + two[cut:]
    if message in SCENE.valid:
        return
    if first == 1 and second == 1:
        return
    if message[:-16] in [valid[:-16] for valid in SCENE.valid if valid[0] < 3]:
        return
    SCENE.assert_dropped(message)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(make: Callable[[bytes], Any]) -> None:
    scene = Scene()
    assert not any(isinstance(outcome, Dropped) for outcome in scene.receive(make(scene.valid[0])))


# ---- transport messages ----


@given(st.binary(max_size=200), st.booleans())
def test_random_transport_messages(tail: bytes, typed: bool) -> None:
    pair = ESTABLISHED
    message = (b"\4\0\0\0" + tail) if typed else tail
    session = pair.b.plane.session
    before = fingerprint(session)
    assert isinstance(session.open(message, pair.clock.now), DropReason | TransportDrop)
    assert fingerprint(session) == before


@given(st.integers(0, 111), st.integers(1, 255))
def test_changed_transport_messages(position: int, change: int) -> None:
    pair = ESTABLISHED
    session = pair.b.plane.session
    current = pair.a.plane.session.current
    assert current
    message = bytearray(pair.a.plane.session.seal(ip_packet(), pair.clock.now) or b"")
    message[position % len(message)] ^= change
    before = fingerprint(session)
    assert isinstance(session.open(bytes(message), pair.clock.now), DropReason | TransportDrop)
    assert fingerprint(session) == before
    message[position % len(message)] ^= change
    assert isinstance(session.open(bytes(message), pair.clock.now), Opened)


@given(st.binary(max_size=100))
def test_parsers_never_raise(data: bytes) -> None:
    for kind in (b"", b"\1\0\0\0", b"\2\0\0\0", b"\3\0\0\0", b"\4\0\0\0"):
        messages.parse_handshake(kind + data)
        reference.parse_transport(kind + data)


def established() -> Pair:
    pair = Pair()
    pair.establish()
    return pair


ESTABLISHED = established()
