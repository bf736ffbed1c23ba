"""Addresses between the socket API and the core."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.udp.address import LAYOUT, Address, from_core, to_core

ports = st.integers(0, 65535)


@given(host=st.ip_addresses(v=4), port=ports)
def test_ipv4_there_and_back(host: ipaddress.IPv4Address, port: int) -> None:
    raw = to_core((str(host), port), socket.AF_INET)
    assert LAYOUT.unpack(raw) == (socket.AF_INET, port, 0, host.packed + bytes(12))
    assert from_core(raw, ipv6_socket=False) == (str(host), port)
    mapped = (f"::ffff:{host}", port, 0, 0)
    assert from_core(raw, ipv6_socket=True) == mapped
    assert to_core(mapped, socket.AF_INET6) == to_core((str(host), port), socket.AF_INET6) == raw


@given(host=st.ip_addresses(v=6), port=ports, scope=st.integers(0, 2**32 - 1))
def test_ipv6_there_and_back(host: ipaddress.IPv6Address, port: int, scope: int) -> None:
    text = socket.inet_ntop(socket.AF_INET6, host.packed)
    raw = to_core((text, port, 0, scope), socket.AF_INET6)
    if host.ipv4_mapped:
        assert LAYOUT.unpack(raw) == (socket.AF_INET, port, 0, host.ipv4_mapped.packed + bytes(12))
        return
    assert LAYOUT.unpack(raw) == (socket.AF_INET6, port, scope, host.packed)
    assert from_core(raw, ipv6_socket=True) == (text, port, 0, scope)


def test_a_name_and_an_interface_are_resolved() -> None:
    assert to_core(("localhost", 53), socket.AF_INET) == to_core(("127.0.0.1", 53), socket.AF_INET)
    scoped = LAYOUT.unpack(to_core(("fe80::1%lo", 53), socket.AF_INET6))
    assert scoped[2] == socket.if_nametoindex("lo")
    with pytest.raises(socket.gaierror):
        to_core(("no.such.host.invalid", 53), socket.AF_INET)
    with pytest.raises(socket.gaierror):
        to_core(("::1", 53), socket.AF_INET)


@pytest.mark.parametrize(
    "wrong", [(), ("h",), ("127.0.0.1", 1, 2, 3, 4), (1, 2), ("127.0.0.1", 1.5), ["127.0.0.1", 1], None]
)
def test_what_is_no_address_is_named(wrong: Address) -> None:
    with pytest.raises(TypeError, match=r"address|port"):
        to_core(wrong, socket.AF_INET)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_named(port: int) -> None:
    with pytest.raises(OverflowError, match="0-65535"):
        to_core(("127.0.0.1", port), socket.AF_INET)


def test_no_address_is_none() -> None:
    assert from_core(bytes(LAYOUT.size), ipv6_socket=False) is None
