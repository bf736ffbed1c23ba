"""Addresses and control messages, to the kernel's bytes and back. The socket module is the oracle."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.uring.completion import (
    Completion,
    CompletionFlag,
    decode_address,
    decode_control,
    encode_address,
    encode_control,
)

ports = st.integers(0, 65535)
levels = st.integers(-(2**31), 2**31 - 1)


@given(st.ip_addresses(v=4), ports)
def test_ipv4(host: ipaddress.IPv4Address, port: int) -> None:
    raw = encode_address((str(host), port))
    assert len(raw) == 16
    assert decode_address(raw) == (str(host), port)


@given(st.ip_addresses(v=6), ports, st.integers(0, 2**20 - 1), st.integers(0, 2**32 - 1))
def test_ipv6(host: ipaddress.IPv6Address, port: int, flow: int, scope: int) -> None:
    raw = encode_address((str(host), port, flow, scope))
    assert len(raw) == 28
    shown = socket.inet_ntop(socket.AF_INET6, host.packed)
    assert decode_address(raw) == (shown, port, flow, scope)
    assert decode_address(encode_address((str(host), port))) == (shown, port, 0, 0)


def test_addresses_as_the_kernel_writes_them() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        assert decode_address(encode_address(sock.getsockname())) == sock.getsockname()


def test_unix_paths() -> None:
    assert decode_address(encode_address("some/path")) == "some/path"
    assert decode_address(encode_address(b"\0abstract")) == b"\0abstract"
    assert decode_address(encode_address("\0abs\0tract")) == b"\0abs\0tract"
    assert encode_address("") == socket.AF_UNIX.to_bytes(2, sys.byteorder)
    assert len(encode_address("x" * 107)) == 110


@pytest.mark.parametrize("bad", ["x" * 108, b"\0" + b"x" * 108, "cut\0short"])
def test_bad_unix_paths(bad: str | bytes) -> None:
    """A path ends at its first NUL for the kernel, and would name another socket."""
    with pytest.raises(ValueError, match=r"at most 108|NUL"):
        encode_address(bad)


def test_zones_are_names_or_numbers() -> None:
    loopback = socket.if_nametoindex("lo")
    for host in ("fe80::1%lo", f"fe80::1%{loopback}"):
        assert decode_address(encode_address((host, 9))) == ("fe80::1", 9, 0, loopback)
        assert decode_address(encode_address((host, 9, 5, 0))) == ("fe80::1", 9, 5, loopback)
        assert decode_address(encode_address((host, 9, 0, 77))) == ("fe80::1", 9, 0, 77)
    for zone in ("no-such-interface", "4294967296"):
        with pytest.raises(ValueError, match="zone"):
            encode_address((f"fe80::1%{zone}", 9))


@pytest.mark.parametrize("bad", [("host.example", 1), ("127.0.0.1", -1), ("127.0.0.1", 65536), ("::g", 1)])
def test_bad_addresses(bad: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=r"port|address"):
        encode_address(bad)


@given(st.binary(max_size=40))
def test_any_bytes_are_an_address_or_none(raw: bytes) -> None:
    decode_address(raw)


@given(st.lists(st.tuples(levels, levels, st.binary(max_size=50)), max_size=6))
def test_control_messages(messages: list[tuple[int, int, bytes]]) -> None:
    raw = encode_control(messages)
    assert list(decode_control(raw)) == messages
    room = sum(socket.CMSG_SPACE(len(data)) for _, _, data in messages)
    assert len(raw) == room


@given(st.binary(max_size=200))
def test_any_bytes_are_control_messages_within_bounds(raw: bytes) -> None:
    assert sum(len(data) for _, _, data in decode_control(raw)) <= len(raw)


@given(st.lists(st.tuples(levels, levels, st.binary(min_size=1, max_size=50)), min_size=1), st.data())
def test_control_cut_short_keeps_what_is_whole(
    messages: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    raw = encode_control(messages)
    cut = data.draw(st.integers(0, len(raw)))
    found = decode_control(raw[:cut])
    for whole, got in zip(messages, found[:-1], strict=False):
        assert got == whole


def test_a_failed_completion_raises_its_errno() -> None:
    with pytest.raises(ConnectionRefusedError):
        Completion(1, -errno.ECONNREFUSED, 0).check()
    assert Completion(1, 5, CompletionFlag.MORE).check() == 5
    assert Completion(1, 5, CompletionFlag.MORE).more
