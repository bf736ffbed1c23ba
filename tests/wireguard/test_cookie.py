"""mac1, mac2, cookies, and XChaCha20-Poly1305 with its published vectors."""

from __future__ import annotations

import hashlib
import os

import pytest
from reference.cookies import COOKIE_REQUIRED, CookieIssuer, xseal

from udpring.wireguard import events
from udpring.wireguard.constants import MILLISECOND, SECOND
from udpring.wireguard.cookie import (
    MacSigner,
    cookie_key,
    hchacha20,
    mac1_key,
    mac1_valid,
    xopen,
)
from udpring.wireguard.events import Dropped, DropReason, Source
from udpring.wireguard.messages import CookieReply, parse_handshake

from .pair import Pair, ip_packet, with_mac1

HERE = Source(b"\x0a\0\0\x01", 4000)
PUBLIC = bytes(range(32))
UNSIGNED = bytes(116)


# ---- draft-irtf-cfrg-xchacha-03 ----


def test_hchacha20_vector() -> None:
    """Section 2.2.1."""
    key = bytes(range(32))
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    assert hchacha20(key, nonce) == bytes.fromhex(
        "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    )


def test_xchacha20poly1305_vector() -> None:
    """Appendix A.3.1."""
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    associated = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    key = bytes(range(0x80, 0xA0))
    nonce = bytes(range(0x40, 0x58))
    sealed = bytes.fromhex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )
    assert xseal(key, nonce, plaintext, associated) == sealed
    assert xopen(key, nonce, sealed, associated) == plaintext
    for changed in (0, 50, len(sealed) - 1):
        forged = bytearray(sealed)
        forged[changed] ^= 1
        assert xopen(key, nonce, bytes(forged), associated) is None
    assert xopen(key, nonce, sealed, associated + b"\0") is None
    assert xopen(key, nonce, b"short", associated) is None


# ---- mac1 ----


def test_mac1_is_keyed_blake2s_over_all_before_it() -> None:
    message = MacSigner(PUBLIC).sign(UNSIGNED, 0)
    key = hashlib.blake2s(b"mac1----" + PUBLIC).digest()
    assert mac1_key(PUBLIC) == key
    assert message[116:132] == hashlib.blake2s(UNSIGNED, key=key, digest_size=16).digest()
    assert mac1_valid(key, message)
    for position in range(132):
        wrong = bytearray(message)
        wrong[position] ^= 0x80
        assert not mac1_valid(key, bytes(wrong))


def test_mac1_comes_before_everything_else() -> None:
    """Even under load, a message that does not know the node's key gets no cookie reply and causes no
    work."""
    pair = Pair()
    pair.a.send(ip_packet())
    (first,) = pair.network.sent(1)
    wrong = bytearray(first.data)
    wrong[120] ^= 1
    for under_load in (False, True):
        pair.b.under_load = under_load
        assert pair.b.handshake(bytes(wrong), pair.address_a) == [Dropped(DropReason.BAD_MAC1)]


# ---- mac2 and cookies ----


def reply_to(issuer: CookieIssuer, message: bytes, source: Source, now: int) -> CookieReply:
    data = issuer.reply(cookie_key(PUBLIC), 7, message[-32:-16], source, now)
    parsed = parse_handshake(data)
    assert isinstance(parsed, CookieReply)
    assert parsed.receiver == 7
    return parsed


def test_without_a_cookie_mac2_is_zero() -> None:
    assert MacSigner(PUBLIC).sign(UNSIGNED, 0)[-16:] == bytes(16)


def test_a_zero_mac2_is_never_valid() -> None:
    issuer = CookieIssuer(os.urandom)
    assert not issuer.mac2_valid(MacSigner(PUBLIC).sign(UNSIGNED, 0), HERE, 0)


def test_cookie_is_bound_to_address_and_port() -> None:
    issuer, signer = CookieIssuer(os.urandom), MacSigner(PUBLIC)
    assert signer.accept(reply_to(issuer, signer.sign(UNSIGNED, 0), HERE, 0), 0)
    message = signer.sign(UNSIGNED, SECOND)
    assert message[-16:] != bytes(16)
    assert issuer.mac2_valid(message, HERE, SECOND)
    assert not issuer.mac2_valid(message, Source(HERE.ip, HERE.port + 1), SECOND)
    assert not issuer.mac2_valid(message, Source(b"\x0a\0\0\x02", HERE.port), SECOND)
    assert issuer.mac2_valid(message, Source(bytes(10) + b"\xff\xff" + HERE.ip, HERE.port), SECOND)
    assert not issuer.mac2_valid(message[:-1] + bytes((message[-1] ^ 1,)), HERE, SECOND)
    assert not issuer.mac2_valid(b"\1" + message[1:], HERE, SECOND)


def test_a_cookie_is_used_for_115_seconds() -> None:
    issuer, signer = CookieIssuer(os.urandom), MacSigner(PUBLIC)
    assert signer.accept(reply_to(issuer, signer.sign(UNSIGNED, 0), HERE, 0), 0)
    assert signer.sign(UNSIGNED, 115 * SECOND - 1)[-16:] != bytes(16)
    assert signer.sign(UNSIGNED, 115 * SECOND)[-16:] == bytes(16)
    assert signer.sign(UNSIGNED, 0)[-16:] == bytes(16)  # erased, not only hidden


def test_a_cookie_reply_answers_one_message_once() -> None:
    issuer, signer = CookieIssuer(os.urandom), MacSigner(PUBLIC)
    first = reply_to(issuer, signer.sign(UNSIGNED, 0), HERE, 0)
    second = reply_to(issuer, signer.sign(b"\1" + UNSIGNED[1:], 0), HERE, 0)
    assert signer.accept(first, 0) is False  # a cookie for the previous message: another mac1
    assert signer.accept(second, 0) is True
    assert signer.accept(second, 0) is None
    assert MacSigner(PUBLIC).accept(second, 0) is None  # no message was sent


def test_a_cookie_reply_of_somebody_else_is_refused() -> None:
    issuer, signer = CookieIssuer(os.urandom), MacSigner(bytes(32))  # another key than reply_to's
    assert signer.accept(reply_to(issuer, signer.sign(UNSIGNED, 0), HERE, 0), 0) is False


def cookie_at(issuer: CookieIssuer, now: int) -> bytes:
    """The issuer's cookie for HERE at ``now``."""
    reply = reply_to(issuer, MacSigner(PUBLIC).sign(UNSIGNED, now), HERE, now)
    mac1 = MacSigner(PUBLIC).sign(UNSIGNED, now)[-32:-16]
    cookie = xopen(cookie_key(PUBLIC), reply.nonce, reply.sealed_cookie, mac1)
    assert cookie is not None
    return cookie


def test_cookie_secret_lives_120_seconds() -> None:
    """The previous secret is valid for another lifetime."""
    issuer, signer = CookieIssuer(os.urandom), MacSigner(PUBLIC)
    first = cookie_at(issuer, 0)
    assert cookie_at(issuer, 120 * SECOND - 1) == first
    signer.accept(reply_to(issuer, signer.sign(UNSIGNED, 0), HERE, 119 * SECOND), 119 * SECOND)
    message = signer.sign(UNSIGNED, 119 * SECOND)
    assert cookie_at(issuer, 120 * SECOND) != first
    assert issuer.mac2_valid(message, HERE, 239 * SECOND)
    assert not issuer.mac2_valid(message, HERE, 240 * SECOND)


def test_unused_cookie_secret_expires() -> None:
    issuer, signer = CookieIssuer(os.urandom), MacSigner(PUBLIC)
    signer.accept(reply_to(issuer, signer.sign(UNSIGNED, 0), HERE, 0), 0)
    message = signer.sign(UNSIGNED, 0)
    assert not issuer.mac2_valid(message, HERE, 1000 * SECOND)


# ---- between devices ----


def test_responder_under_load_asks_for_a_cookie() -> None:
    pair = Pair()
    pair.b.under_load = True
    pair.a.send(ip_packet(1))
    pair.run(4)
    assert pair.b.drops == {COOKIE_REQUIRED: 1}
    assert [len(d.data) for d in pair.network.log] == [148, 64]
    assert pair.b.plane.endpoint is None
    pair.run(2)  # the retransmission carries mac2
    assert pair.network.sent(1)[1].data[-16:] != bytes(16)
    assert pair.b.received == [ip_packet(1)]


def test_mac2_is_not_looked_at_without_load() -> None:
    pair = Pair()
    pair.a.send(ip_packet())
    (first,) = pair.network.sent(1)
    pair.network.queue.clear()
    outcomes = pair.b.handshake(first.data[:-16] + os.urandom(16), pair.address_a)
    assert isinstance(outcomes[0], events.Authenticated)


def test_initiator_under_load_asks_for_a_cookie_too() -> None:
    pair = Pair()
    pair.a.under_load = True
    pair.a.send(ip_packet(1))
    pair.run(4)
    assert [d.data[0] for d in pair.network.log] == [1, 2, 3]
    assert pair.a.plane.session.current is None
    pair.run(2)
    assert pair.network.sent(2)[1].data[-16:] != bytes(16)
    assert pair.b.received == [ip_packet(1)]


def test_both_under_load_still_converge() -> None:
    pair = Pair()
    pair.a.under_load = pair.b.under_load = True
    pair.a.send(ip_packet(1))
    pair.run(12)
    assert pair.b.received == [ip_packet(1)]


def test_a_cookie_for_another_port_is_refused_under_load() -> None:
    pair = Pair()
    pair.b.under_load = True
    pair.a.send(ip_packet(1))
    pair.run(1)
    pair.a.move(Source(pair.address_a.ip, 5555))
    pair.run(5)
    assert pair.b.drops == {COOKIE_REQUIRED: 2}
    pair.run(5)  # with the cookie for the new port
    assert pair.b.received == [ip_packet(1)]


def test_cookie_reply_moves_and_stamps_nothing() -> None:
    pair = Pair()
    pair.b.under_load = True
    pair.network.drop = lambda d: d.data[0] == 3
    pair.a.send(ip_packet())
    pair.run(1)
    (reply,) = pair.network.sent(3)
    before = pair.a.plane.state, pair.a.plane.endpoint
    assert pair.a.handshake(reply.data, Source(b"\x63\0\0\x63", 9)) == []
    assert (pair.a.plane.state, pair.a.plane.endpoint) == before
    # The message was accepted anyway.
    pair.run(5)
    assert pair.network.sent(1)[1].data[-16:] != bytes(16)


def test_cookie_replies_nobody_asked_for() -> None:
    pair = Pair()
    pair.b.under_load = True
    pair.network.drop = lambda d: d.data[0] == 3
    pair.a.send(ip_packet())
    pair.run(1)
    (reply,) = pair.network.sent(3)
    forged = reply.data[:-1] + bytes((reply.data[-1] ^ 1,))
    assert pair.a.handshake(forged, pair.address_b) == [Dropped(DropReason.UNAUTHENTICATED, 7)]
    assert pair.a.handshake(reply.data, pair.address_b) == []
    assert pair.a.handshake(reply.data, pair.address_b) == [Dropped(DropReason.UNEXPECTED_COOKIE, 7)]
    misdirected = reply.data[:4] + b"\xff\xff\xff\xff" + reply.data[8:]
    assert pair.a.handshake(misdirected, pair.address_b) == [Dropped(DropReason.UNKNOWN_INDEX)]


def test_rate_limit_only_under_load_and_after_mac2() -> None:
    pair = Pair()
    pair.b.under_load = True
    pair.a.send(ip_packet())
    pair.run(6)
    message = pair.network.sent(1)[-1].data  # it has a valid mac2 and was answered
    assert pair.b.drops == {COOKIE_REQUIRED: 1}
    pair.run(1)
    reasons = [pair.b.handshake(message, pair.address_a)[-1] for _ in range(6)]
    assert reasons == [Dropped(DropReason.REPLAYED_INITIATION, 9)] * 5 + [Dropped(DropReason.RATE_LIMITED)]
    # Without mac2 the answer is a cookie reply at any rate. Without load there is no limit.
    assert pair.b.device.public_key is not None
    bare = with_mac1(pair.b.device.public_key, message)
    assert pair.b.handshake(bare, pair.address_a) == []
    assert pair.b.drops[COOKIE_REQUIRED] == 2
    pair.b.under_load = False
    assert pair.b.handshake(message, pair.address_a) == [Dropped(DropReason.REPLAYED_INITIATION, 9)]


@pytest.mark.parametrize("thing", [CookieIssuer(lambda n: b"\x55" * n), MacSigner(PUBLIC)])
def test_nothing_secret_in_a_repr(thing: CookieIssuer | MacSigner) -> None:
    if isinstance(thing, CookieIssuer):
        cookie_at(thing, 0)
    assert "secret" in repr(thing)
    assert "55" not in repr(thing)


def test_rotation_by_time_not_by_use() -> None:
    issuer = CookieIssuer(os.urandom)
    first = cookie_at(issuer, 0)
    for at in range(0, 120 * SECOND, 500 * MILLISECOND):
        assert cookie_at(issuer, at) == first
