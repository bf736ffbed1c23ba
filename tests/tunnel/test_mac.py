"""mac1, mac2 and cookies (whitepaper 5.4.4, 5.4.7) against hashlib's keyed BLAKE2s."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator
from hashlib import blake2s
from typing import Any

import pytest
from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st
from reference.cookies import xseal

from udpring import _native
from udpring._native import reason, reason_text
from udpring.wireguard.cookie import xopen


def keyed(key: bytes, data: bytes) -> bytes:
    return blake2s(data, key=key, digest_size=16).digest()


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    why = reason()
    engine = lib.udpring_mac_open(why)
    assert engine, reason_text(why)
    yield engine
    lib.udpring_mac_close(engine)


KEYS = st.binary(min_size=32, max_size=32)
COOKIES = st.binary(min_size=16, max_size=16)


@given(key=KEYS, cookie=COOKIES, body=st.binary(max_size=300))
def test_what_hashlib_makes_is_right(engine: Any, key: bytes, cookie: bytes, body: bytes) -> None:
    with_mac1 = body + keyed(key, body)
    message = with_mac1 + keyed(cookie, with_mac1)
    assert lib.udpring_mac_check1(engine, key, message, len(message)) == 1
    assert lib.udpring_mac_check2(engine, cookie, message, len(message)) == 1


@given(key=KEYS, cookie=COOKIES, body=st.binary(min_size=1, max_size=150), data=st.data())
def test_any_flipped_bit_is_noticed(
    engine: Any, key: bytes, cookie: bytes, body: bytes, data: st.DataObject
) -> None:
    with_mac1 = body + keyed(key, body)
    message = bytearray(with_mac1 + keyed(cookie, with_mac1))
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << bit % 8
    covered = bit < 8 * (len(message) - 16)
    assert lib.udpring_mac_check1(engine, key, bytes(message), len(message)) == (not covered)
    assert lib.udpring_mac_check2(engine, cookie, bytes(message), len(message)) == 0


@given(key=KEYS, other=KEYS, body=st.binary(max_size=150))
def test_another_key_is_refused(engine: Any, key: bytes, other: bytes, body: bytes) -> None:
    message = body + keyed(key, body) + bytes(16)
    assert lib.udpring_mac_check1(engine, other, message, len(message)) == (other == key)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31])
def test_too_short_for_its_macs(engine: Any, length: int) -> None:
    message = bytes(length)
    assert lib.udpring_mac_check1(engine, bytes(32), message, length) == 0
    assert lib.udpring_mac_check2(engine, bytes(16), message, length) == 0


def test_nothing_but_macs(engine: Any) -> None:
    key = bytes(range(32))
    message = keyed(key, b"") + bytes(16)
    assert lib.udpring_mac_check1(engine, key, message, 32) == 1


@given(secret=KEYS, ip=st.ip_addresses(), port=st.integers(0, 65535))
def test_a_cookie_is_of_address_and_port(
    engine: Any, secret: bytes, ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    cookie = ffi.new("uint8_t[16]")
    assert lib.udpring_mac_cookie(engine, secret, ip.packed, len(ip.packed), port, cookie) == 0
    assert bytes(cookie) == keyed(secret, ip.packed + port.to_bytes(2, "big"))


def test_an_address_of_no_family_has_no_cookie(engine: Any) -> None:
    cookie = ffi.new("uint8_t[16]")
    for length in (0, 3, 5, 15, 17):
        assert lib.udpring_mac_cookie(engine, bytes(32), bytes(20), length, 1, cookie) == -22
    assert bytes(cookie) == bytes(16)


def test_keys_of_both_lengths_in_turn(engine: Any) -> None:
    """One context serves all three, so the key and its length must be set each time."""
    key, secret, body = bytes(range(32)), bytes(range(32, 64)), b"handshake" * 9
    cookie = ffi.new("uint8_t[16]")
    for _ in range(3):
        assert lib.udpring_mac_cookie(engine, secret, bytes(4), 4, 7, cookie) == 0
        with_mac1 = body + keyed(key, body)
        message = with_mac1 + keyed(bytes(cookie), with_mac1)
        assert lib.udpring_mac_check2(engine, bytes(cookie), message, len(message)) == 1
        assert lib.udpring_mac_check1(engine, key, message, len(message)) == 1


@given(
    key=KEYS,
    cookie=COOKIES,
    mac1=COOKIES,
    nonce=st.binary(min_size=24, max_size=24),
    sender=st.binary(min_size=4, max_size=4),
)
def test_python_opens_the_cookie_reply(
    key: bytes, cookie: bytes, mac1: bytes, nonce: bytes, sender: bytes
) -> None:
    """XChaCha20-Poly1305 of the C core against that of ``wireguard/``, which is tested with the draft's
    vectors."""
    reply = ffi.new("uint8_t[64]")
    assert lib.udpring_cookie_reply(key, nonce, sender, mac1, cookie, reply) == 0
    message = bytes(reply)
    assert message[:32] == bytes([3, 0, 0, 0]) + sender + nonce
    assert xopen(key, nonce, message[32:], mac1) == cookie


REPLIES = given(
    key=KEYS,
    cookie=COOKIES,
    mac1=COOKIES,
    nonce=st.binary(min_size=24, max_size=24),
    sender=st.binary(min_size=4, max_size=4),
    at=st.integers(8, 63),
    bit=st.integers(0, 7),
)


@REPLIES
def test_the_core_opens_what_python_seals(
    key: bytes, cookie: bytes, mac1: bytes, nonce: bytes, sender: bytes, at: int, bit: int
) -> None:
    reply = b"\3\0\0\0" + sender + nonce + xseal(key, nonce, cookie, mac1)
    opened = ffi.new("uint8_t[16]")
    assert _native.lib.udpring_cookie_open(key, reply, mac1, opened) == 0
    assert bytes(opened) == cookie
    for forged, answered in (
        (reply[:at] + bytes([reply[at] ^ 1 << bit]) + reply[at + 1 :], mac1),
        (reply, bytes([mac1[0] ^ 1 << bit]) + mac1[1:]),
    ):
        assert _native.lib.udpring_cookie_open(key, forged, answered, opened) == -errno.EBADMSG
        assert bytes(opened) == bytes(16)
