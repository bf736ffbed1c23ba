"""SOCKS 5 by the examples of RFC 1928, and by arbitrary bytes."""

from __future__ import annotations

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.tunnel import socks
from udpring.tunnel.socks import Greeting, Request, SocksError

GREETING = bytes((5, 2, 2, 0))
REQUESTS = {
    bytes((5, 1, 0, 1, 192, 0, 2, 7, 0, 80)): Request("192.0.2.7", 80),
    bytes((5, 1, 0, 3, 7)) + b"example" + bytes((1, 187)): Request("example", 443),
    bytes((5, 1, 0, 4)) + socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes((0, 22)): Request(
        "2001:db8::7", 22
    ),
}


def test_greeting_without_authentication_is_accepted() -> None:
    assert Greeting.parse(GREETING + b"more") == (Greeting(b"\x05\x00"), 4)


@pytest.mark.parametrize("request_bytes", REQUESTS)
def test_every_kind_of_address_is_read(request_bytes: bytes) -> None:
    for length in range(len(request_bytes)):
        assert Request.parse(request_bytes[:length]) is None
    assert Request.parse(request_bytes + b"early") == (REQUESTS[request_bytes], len(request_bytes))


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (bytes((4, 1)), b""),
        (bytes((5, 1, 2)), b"\x05\xff"),
    ],
)
def test_greetings_that_are_not_served(data: bytes, answer: bytes) -> None:
    with pytest.raises(SocksError) as caught:
        Greeting.parse(data)
    assert caught.value.answer == answer


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes((5, 2, 0, 1, 192, 0, 2, 7, 0, 80)), socks.COMMAND_UNSUPPORTED),
        (bytes((5, 1, 0, 9, 192, 0, 2, 7, 0, 80)), socks.ADDRESS_UNSUPPORTED),
        (bytes((5, 1, 0, 3, 2, 0xFF, 0xFE, 0, 80)), socks.HOST_UNREACHABLE),
        (bytes((5, 1, 0, 3, 0, 0, 80)), socks.HOST_UNREACHABLE),
    ],
)
def test_requests_that_are_not_served(data: bytes, code: int) -> None:
    with pytest.raises(SocksError) as caught:
        Request.parse(data)
    assert caught.value.answer[:2] == bytes((5, code))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (Greeting.parse, Request.parse):
        try:
            found = parse(data)
        except SocksError:
            continue
        assert found is None or 0 < found[1] <= len(data)


def test_reply_names_the_bound_address() -> None:
    assert socks.reply(0, ("192.0.2.1", 513)) == bytes((5, 0, 0, 1, 192, 0, 2, 1, 2, 1))
    assert socks.reply(0, ("::1", 1)) == bytes((5, 0, 0, 4, *bytes(15), 1, 0, 1))


def test_each_failure_has_its_code() -> None:
    assert socks.error_code(ConnectionRefusedError(errno.ECONNREFUSED, "")) == socks.REFUSED
    assert socks.error_code(OSError(errno.ENETUNREACH, "")) == socks.NETWORK_UNREACHABLE
    assert socks.error_code(socket.gaierror(socket.EAI_NONAME, "")) == socks.HOST_UNREACHABLE
    assert socks.error_code(TimeoutError()) == socks.HOST_UNREACHABLE
    assert socks.error_code(OSError(errno.EIO, "")) == socks.FAILED
