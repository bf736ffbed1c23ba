"""Two nodes with AES-256-GCM, or with different ciphers, and an attacker that rewrites the marking."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.cookies import COOKIE_REQUIRED
from reference.session import (
    LIMITS,
    Opened,
    Session,
    Transport,
    TransportDrop,
    blocks_of,
    parse_transport,
)

from udpring.wireguard import noise
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import REJECT_AFTER_TIME, SECOND
from udpring.wireguard.events import (
    Dropped,
    DropReason,
    EraseKeys,
    InstallKeypair,
    SendKeepalive,
    SendMessage,
)
from udpring.wireguard.messages import (
    CookieReply,
    Initiation,
    Response,
    parse_handshake,
)

from .pair import Node, Pair, forge_initiation, ip_packet, with_mac1

CHACHA, AES = Cipher.CHACHA20_POLY1305, Cipher.AES_256_GCM
BOTH_AES = (AES, AES)
MARK = b"uAG"
NATIVE = Path(__file__).parents[2] / "udpring" / "native" / "tunnel"
either_way = pytest.mark.parametrize(
    "ciphers", [(AES, CHACHA), (CHACHA, AES)], ids=["a has AES", "b has AES"]
)


def remarked(message: bytes) -> bytes:
    """With the marking of the other cipher. Anybody on the path can do this."""
    return message[:1] + (MARK if message[1:4] == bytes(3) else bytes(3)) + message[4:]


def forged(message: bytes, to: bytes) -> bytes:
    """The same with a valid mac1. Anybody who knows the public key can do this."""
    return with_mac1(to, remarked(message)) if message[0] in (1, 2) else remarked(message)


def public(node: Node) -> bytes:
    assert node.device.public_key is not None
    return node.device.public_key


def installed(node: Node) -> list[InstallKeypair]:
    return [outcome for outcome in node.outcomes if isinstance(outcome, InstallKeypair)]


def initiation_of(pair: Pair) -> bytes:
    """The first message of a."""
    pair.a.carry_out(pair.a.peer.handshake_wanted(pair.clock.now, pair.clock.wall))
    return pair.network.log[-1].data


# ---- both ends agree ----


@pytest.mark.parametrize("psk", [None, bytes(range(32))], ids=["no psk", "psk"])
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_a_session_with_aes(psk: bytes | None, ipv6: bool) -> None:
    pair = Pair(psk=psk, ipv6=ipv6, ciphers=BOTH_AES)
    pair.a.send(ip_packet(1))
    pair.run(1)
    assert pair.b.received == [ip_packet(1)]
    pair.b.send(ip_packet(2))
    pair.run(1)
    assert pair.a.received == [ip_packet(2)]
    assert [d.data[:4] for d in pair.network.log] == [bytes((kind,)) + MARK for kind in (1, 2, 4, 4)]
    assert {each.cipher for node in (pair.a, pair.b) for each in installed(node)} == {AES}
    assert not pair.a.drops
    assert not pair.b.drops


def test_ciphers_share_no_handshake_byte() -> None:
    """Equal keys, ephemerals and times, another name: the transcripts differ from the first sealed byte
    on."""
    logs = []
    for cipher in Cipher:
        pair = Pair(ciphers=(cipher, cipher))
        pair.establish()
        logs.append([d.data for d in pair.network.log])
    for one, other in zip(*logs, strict=True):
        assert len(one) == len(other)
        body = slice(40, -32) if one[0] == 1 else slice(44, -32) if one[0] == 2 else slice(16, None)
        assert one[body] != other[body]


def test_sessions_are_renewed_under_aes() -> None:
    pair = Pair(ciphers=BOTH_AES)
    pair.establish()
    for number in range(400):
        pair.a.send(ip_packet(number))
        pair.b.send(ip_packet(number))
        pair.run(1)
    assert len(pair.b.received) == len(pair.a.received) == 400
    assert len(installed(pair.a)) == 4
    assert {each.cipher for each in installed(pair.a)} == {AES}


def test_a_cookie_reply_is_marked_as_what_it_answers() -> None:
    pair = Pair(ciphers=BOTH_AES)
    pair.b.under_load = True
    pair.a.send(ip_packet(1))
    pair.run(1)
    (reply,) = pair.network.sent(3)
    assert reply.data[:4] == b"\3" + MARK
    assert pair.b.drops == {COOKIE_REQUIRED: 1}
    pair.run(10)  # the next attempt contains the cookie
    assert pair.b.received == [ip_packet(1)]


# ---- they differ ----


@either_way
def test_a_mismatch_is_dropped_by_name_and_not_answered(ciphers: tuple[Cipher, Cipher]) -> None:
    pair = Pair(both=True, ciphers=ciphers)
    pair.a.send(ip_packet(1))
    pair.run(20)
    assert pair.b.drops == {DropReason.CIPHER_MISMATCH: len(pair.network.sent(1))}
    assert pair.network.sent(1)
    assert not pair.network.sent(by=pair.b)
    pair.b.send(ip_packet(2))
    pair.run(20)
    assert set(pair.a.drops) == set(pair.b.drops) == {DropReason.CIPHER_MISMATCH}
    assert {d.data[0] for d in pair.network.log} == {1}
    assert not installed(pair.a)
    assert not installed(pair.b)


@either_way
def test_unknown_cipher_costs_no_diffie_hellman(
    ciphers: tuple[Cipher, Cipher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No peer uses the cipher."""
    pair = Pair(ciphers=ciphers)
    message = initiation_of(pair)
    monkeypatch.setattr(noise, "Responder", None)
    assert pair.b.handshake(message, pair.address_a) == [Dropped(DropReason.CIPHER_MISMATCH)]


@either_way
def test_mismatch_costs_one_diffie_hellman(
    ciphers: tuple[Cipher, Cipher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another peer uses the cipher. The drop then names the peer."""
    pair = Pair(ciphers=ciphers)
    third = noise.StaticKey(bytes(range(32)))
    pair.b.add(11, third.public)
    pair.b.set_cipher(11, ciphers[0])
    message = initiation_of(pair)
    monkeypatch.setattr(noise.Responder, "read_payload", None)
    monkeypatch.setattr(noise.Responder, "write_response", None)
    assert pair.b.handshake(message, pair.address_a) == [Dropped(DropReason.CIPHER_MISMATCH, 9)]
    # With both ciphers configured, the third message is answered.
    monkeypatch.undo()
    forgery = forge_initiation(bytes(range(32)), public(pair.b), timestamp=bytes(12), cipher=ciphers[0])
    pair.b.handshake(forgery, pair.address_a)
    assert isinstance(pair.b.outcomes[-1], SendMessage)
    assert pair.b.outcomes[-1].peer == 11


def test_the_count_of_ciphers_follows_the_peers() -> None:
    pair = Pair()
    aes = forge_initiation(bytes(32), public(pair.b), timestamp=bytes(12), cipher=AES)
    expected = DropReason.CIPHER_MISMATCH, DropReason.UNKNOWN_PEER

    def reason() -> DropReason:
        (dropped,) = pair.b.handshake(aes, pair.address_a)
        assert isinstance(dropped, Dropped)
        return dropped.reason

    assert reason() == expected[0]
    pair.b.add(11, noise.StaticKey(bytes(range(32))).public)
    pair.b.set_cipher(11, AES)
    assert reason() == expected[1]
    pair.b.set_cipher(11, AES)
    pair.b.set_cipher(11, CHACHA)
    assert reason() == expected[0]
    pair.b.set_cipher(11, AES)
    pair.b.device.remove_peer(11)
    assert reason() == expected[0]
    pair.b.device.remove_peer(9)
    assert reason() == expected[1]  # without peers, the drop names none


# ---- an attacker on the path ----


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("right_mac1", [False, True], ids=["as it was", "mac1 made anew"])
def test_a_rewritten_marking_is_never_taken(cipher: Cipher, kind: int, right_mac1: bool) -> None:
    """The rewritten message has no effect. The next unchanged message completes the handshake."""
    pair = Pair(ciphers=(cipher, cipher))
    pair.b.under_load = kind == 3

    def alter(data: bytes) -> bytes:
        if data[0] != kind:
            return data
        to = public(pair.b) if kind == 1 else public(pair.a)
        return forged(data, to) if right_mac1 else remarked(data)

    pair.network.alter = alter
    pair.a.send(ip_packet(1))
    pair.run(12)
    receiver = pair.b if kind in (1, 4) else pair.a
    assert not pair.b.received
    reason = DropReason.BAD_MAC1 if kind in (1, 2) and not right_mac1 else DropReason.CIPHER_MISMATCH
    assert receiver.drops[reason] > 0
    assert {*receiver.drops} - {reason, COOKIE_REQUIRED} == set()
    assert {each.cipher for node in (pair.a, pair.b) for each in installed(node)} <= {cipher}
    pair.network.alter = lambda data: data
    pair.run(12)
    pair.a.send(ip_packet(2))
    pair.run(12)
    assert ip_packet(2) in pair.b.received


@pytest.mark.parametrize("ciphers", [(AES, CHACHA), (CHACHA, AES)], ids=["down", "up"])
def test_rewriting_does_not_bring_two_ciphers_together(ciphers: tuple[Cipher, Cipher]) -> None:
    """a uses one cipher and b the other. An attacker translates the marking both ways, with mac1."""
    pair = Pair(both=True, ciphers=ciphers)
    pair.network.alter = lambda data: forged(data, public(pair.b))
    pair.a.send(ip_packet(1))
    pair.run(30)
    assert pair.b.drops == {DropReason.UNAUTHENTICATED: len(pair.network.sent(1))}
    assert not pair.network.sent(by=pair.b)
    assert not installed(pair.b)


@given(st.binary(min_size=3, max_size=3), st.sampled_from([1, 2, 3, 4]))
def test_any_other_marking_is_no_message(mark: bytes, kind: int) -> None:
    length = {1: 148, 2: 92, 3: 64, 4: 48}[kind]
    message = bytes((kind,)) + mark + bytes(length - 4)
    parsed = parse_transport(message) if kind == 4 else parse_handshake(message)
    if mark in (MARK, bytes(3)):
        assert isinstance(parsed, Initiation | Response | CookieReply | Transport)
        assert parsed.cipher is (AES if mark == MARK else CHACHA)
    else:
        assert parsed is DropReason.BAD_TYPE


# ---- a change at run time ----


def change_both(pair: Pair, cipher: Cipher) -> None:
    for node in (pair.a, pair.b):
        node.set_cipher(node.peer.id, cipher)


def test_cipher_change_ends_the_session() -> None:
    """The next packet starts a new handshake."""
    pair = Pair(both=True)
    for cipher in (AES, CHACHA):
        pair.establish()
        change_both(pair, cipher)
        assert isinstance(pair.a.outcomes[-1], EraseKeys)
        assert pair.a.plane.session.current is None
        assert not pair.a.indices
        assert not pair.b.indices
        before = len(pair.network.log)
        pair.a.send(ip_packet(7))
        pair.run(0.1)  # at once, although a handshake was sent less than 5 s ago
        assert [d.data[0] for d in pair.network.log[before:]] == [1, 2, 4]
        assert {d.data[1:4] for d in pair.network.log[before:]} == {MARK if cipher is AES else bytes(3)}
        assert pair.b.received.pop() == ip_packet(7)


def test_the_same_cipher_again_changes_nothing() -> None:
    pair = Pair(ciphers=BOTH_AES)
    pair.establish()
    assert pair.a.device.set_cipher(7, AES, pair.clock.now) == []
    assert pair.a.plane.session.current is not None
    with pytest.raises(KeyError):
        pair.a.device.set_cipher(8, AES, pair.clock.now)


def test_a_change_takes_back_the_initiation_under_way() -> None:
    pair = Pair()
    pair.a.send(ip_packet(1))
    change_both(pair, AES)
    assert not pair.a.indices, "its index is free again"
    pair.run(0.5)
    # The old initiation arrived at a peer with only AES. The one under AES followed at once.
    assert pair.b.drops == {DropReason.CIPHER_MISMATCH: 1}
    assert [d.data[:4] for d in pair.network.sent(1)] == [bytes((1, 0, 0, 0)), b"\1" + MARK]
    assert pair.b.received == [ip_packet(1)]


def test_cipher_change_with_keepalive_starts_handshake() -> None:
    """It happens at once."""
    pair = Pair(both=True)
    pair.a.carry_out(pair.a.peer.set_persistent_keepalive(25, pair.clock.now))
    pair.run(1)
    change_both(pair, AES)
    assert [type(o) for o in pair.a.outcomes[-3:]][-1] in (SendKeepalive, SendMessage)
    pair.run(1)
    assert pair.a.plane.session.current is not None
    assert pair.a.plane.session.current.cipher is AES


# ---- limits ----


def sessions(cipher: Cipher) -> tuple[Session, Session]:
    a, b = Session(), Session()
    first, second = bytes(range(32)), bytes(range(32, 64))
    a.install(InstallKeypair(0, first, second, 1, 2, True, 0, cipher))
    b.install(InstallKeypair(0, second, first, 2, 1, False, 0, cipher))
    return a, b


def test_an_aes_key_ends_by_messages() -> None:
    a, b = sessions(AES)
    assert a.current is not None
    a.current.counter = 2**30
    assert not a.rekey_due(SECOND)
    assert a.seal(b"", SECOND) is not None
    assert a.rekey_due(SECOND)
    a.current.counter = 2**31 - 1
    last = a.seal(ip_packet(1), SECOND)
    assert last is not None
    assert isinstance(b.open(last, SECOND), Opened)
    assert a.seal(ip_packet(2), SECOND) is None
    # A sender that continues anyway is refused.
    a.current.counter = 2**31
    header = last[:8] + (2**31).to_bytes(8, "little")
    sealed = noise.aead_of(AES, bytes(range(32))).encrypt(AES.nonce(2**31), bytes(16), None)
    assert b.open(header + sealed, SECOND) is TransportDrop.KEY_EXPIRED


def test_an_aes_key_ends_by_blocks() -> None:
    a, _ = sessions(AES)
    assert a.current is not None
    assert a.seal(ip_packet(1, length=60), SECOND) is not None
    assert a.current.blocks == blocks_of(64) == 5
    assert a.seal(b"", SECOND) is not None
    assert a.current.blocks == 6
    a.current.blocks = 2**34
    assert not a.rekey_due(SECOND)
    assert a.seal(b"", SECOND) is not None
    assert a.rekey_due(SECOND)
    a.current.blocks = 2**35 - 1
    assert a.seal(ip_packet(1), SECOND) is not None
    assert a.seal(b"", SECOND) is None


def test_time_ends_an_aes_key_as_any() -> None:
    a, b = sessions(AES)
    message = a.seal(ip_packet(1), 0)
    assert message is not None
    assert b.open(message, REJECT_AFTER_TIME) is TransportDrop.KEY_EXPIRED
    assert a.seal(b"", REJECT_AFTER_TIME) is None


def test_no_block_limit_for_the_other_cipher() -> None:
    a, _ = sessions(CHACHA)
    assert a.current is not None
    a.current.blocks = 2**100
    assert not a.rekey_due(SECOND)
    assert a.seal(b"", SECOND) is not None


def test_each_cipher_opens_its_own_messages_alone() -> None:
    a, b = sessions(AES)
    message = a.seal(ip_packet(1), SECOND)
    assert message is not None
    assert b.open(remarked(message), SECOND) is DropReason.CIPHER_MISMATCH
    _, other = sessions(CHACHA)
    assert other.open(message, SECOND) is DropReason.CIPHER_MISMATCH
    assert other.open(remarked(message), SECOND) is DropReason.UNAUTHENTICATED
    assert isinstance(b.open(message, SECOND), Opened)


def test_the_core_has_the_same_numbers() -> None:
    text = (NATIVE / "messages.h").read_text()

    def number(name: str) -> int:
        found = re.search(rf"#define {name} (?:\(1ull << (\d+)\)|0x([0-9a-f]+)u)\n", text)
        assert found is not None, name
        return 1 << int(found[1]) if found[1] else int(found[2], 16)

    assert number("WG_MARK_AES_256_GCM") == AES.marking == int.from_bytes(b"\0" + MARK, "little")
    assert number("GCM_REKEY_AFTER_MESSAGES") == LIMITS[AES].rekey_messages
    assert number("GCM_REJECT_AFTER_MESSAGES") == LIMITS[AES].reject_messages
    assert number("GCM_REKEY_AFTER_BLOCKS") == LIMITS[AES].rekey_blocks
    assert number("GCM_REJECT_AFTER_BLOCKS") == LIMITS[AES].reject_blocks
    names = re.findall(r"    UDPRING_CIPHER_(\w+),", (NATIVE / "abi.h").read_text())
    assert names == [cipher.name for cipher in Cipher]
