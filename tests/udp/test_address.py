"""Addresses between the socket API and the core."""

from __future__ import annotations

import ipaddress
import socket
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import udpring
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


def test_name_is_looked_up_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [1000.0], []

    def getaddrinfo(host: str, port: int, *rest: int) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (f"10.0.0.{len(asked)}", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("udpring.udp.address.time", SimpleNamespace(monotonic=lambda: now[0]))
    for seconds, last in ((0, 1), (59, 1), (61, 2), (120, 2), (122, 3)):
        now[0] = 1000.0 + seconds
        raw = to_core(("moving.example", 53), socket.AF_INET)
        assert LAYOUT.unpack(raw)[3][:4] == bytes([10, 0, 0, last]), seconds
    now[0] += 1000
    to_core(("127.0.0.1", 53), socket.AF_INET)
    assert asked == ["moving.example"] * 3, "an address is never looked up"


def test_send_ring_follows_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each datagram goes to the address that the name has when it is looked up."""
    known = ["127.0.0.1"]

    def getaddrinfo(host: str, port: int, *rest: int) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (known[0], port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("udpring.udp.address.NAME_SECONDS", 0.0)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        udpring.SendRing(sender) as ring,
    ):
        receiver.bind(("0.0.0.0", 0))
        receiver.settimeout(30)
        receiver.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO (linux/in.h)
        for address in ("127.0.0.1", "127.0.0.2"):
            known[0] = address
            ring.send_batch([b"x", b"y"], ("moving.example", receiver.getsockname()[1]))
            for _ in range(2):
                _, ((_, _, control),), *_ = receiver.recvmsg(9, 64)
                assert control[8:12] == socket.inet_aton(address)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_named(port: int) -> None:
    with pytest.raises(OverflowError, match="0-65535"):
        to_core(("127.0.0.1", port), socket.AF_INET)


def test_no_address_is_none() -> None:
    assert from_core(bytes(LAYOUT.size), ipv6_socket=False) is None
