"""Wire layouts: lengths, types, reserved bytes, positions."""

from __future__ import annotations

import pytest
from reference.cookies import pack_cookie_reply
from reference.session import Transport, pack_transport_header, parse_transport

from udpring.wireguard.events import DropReason
from udpring.wireguard.messages import (
    CookieReply,
    Initiation,
    Response,
    pack_initiation,
    pack_response,
    parse_handshake,
)

BODY = bytes(range(200))


def test_initiation_layout() -> None:
    message = pack_initiation(0x04030201, BODY[:108]) + b"1" * 16 + b"2" * 16
    assert message[:8] == bytes((1, 0, 0, 0, 1, 2, 3, 4))
    assert parse_handshake(message) == Initiation(0x04030201, BODY[:108], b"1" * 16, b"2" * 16)


def test_response_layout() -> None:
    message = pack_response(0x04030201, 0x08070605, BODY[:48]) + b"1" * 16 + b"2" * 16
    assert message[:12] == bytes((2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8))
    assert parse_handshake(message) == Response(0x04030201, 0x08070605, BODY[:48], b"1" * 16, b"2" * 16)


def test_cookie_reply_layout() -> None:
    message = pack_cookie_reply(0x04030201, BODY[:24], BODY[24:56])
    assert len(message) == 64
    assert message[:8] == bytes((3, 0, 0, 0, 1, 2, 3, 4))
    assert parse_handshake(message) == CookieReply(0x04030201, BODY[:24], BODY[24:56])


def test_transport_layout() -> None:
    message = pack_transport_header(0x04030201, 0x0102030405060708) + BODY[:16]
    assert message[:16] == bytes((4, 0, 0, 0, 1, 2, 3, 4, 8, 7, 6, 5, 4, 3, 2, 1))
    assert parse_transport(message) == Transport(0x04030201, 0x0102030405060708, BODY[:16])


@pytest.mark.parametrize(("kind", "length"), [(1, 148), (2, 92), (3, 64)])
def test_only_the_exact_length_is_a_handshake_message(kind: int, length: int) -> None:
    message = bytes((kind,)).ljust(length, b"\0")
    assert not isinstance(parse_handshake(message), DropReason)
    for wrong in (*range(4, length), length + 1, 1500, 65535):
        assert parse_handshake(message.ljust(wrong, b"\0")[:wrong]) is DropReason.BAD_LENGTH
    for wrong in range(4):
        assert parse_handshake(message[:wrong]) is DropReason.BAD_LENGTH


@pytest.mark.parametrize("length", [64, 92, 148, 65535])
def test_other_types_are_refused(length: int) -> None:
    for kind in (0, 4, 5, 255):
        assert parse_handshake(bytes((kind,)).ljust(length, b"\0")) is DropReason.BAD_TYPE
    for kind in (0, 1, 2, 3, 5, 255):
        assert parse_transport(bytes((kind,)).ljust(length, b"\0")) is DropReason.BAD_TYPE


@pytest.mark.parametrize("position", [1, 2, 3])
def test_reserved_bytes_are_zero(position: int) -> None:
    for kind, length in ((1, 148), (2, 92), (3, 64), (4, 32)):
        message = bytearray(length)
        message[0], message[position] = kind, 1
        parse = parse_transport if kind == 4 else parse_handshake
        assert parse(bytes(message)) is DropReason.BAD_TYPE


def test_transport_needs_a_tag() -> None:
    for length in range(32):
        message = bytes((4,)).ljust(length, b"\0")[:length]
        assert parse_transport(message) is DropReason.BAD_LENGTH
    for length in (32, 33, 47, 48, 65535):  # padded or not
        assert isinstance(parse_transport(bytes((4,)).ljust(length, b"\0")), Transport)
