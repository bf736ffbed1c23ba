"""rtnetlink messages: the core's questions to the routing tables, and its parser with any bytes."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

SEQUENCE = 7
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_NEWROUTE = 16, 17, 24
RTA_OIF = 4
IFLA_MASTER, IFLA_LINKINFO, IFLA_INFO_SLAVE_KIND = 10, 18, 4
RTN_UNICAST, RTN_LOCAL, RTN_UNREACHABLE = 1, 2, 7


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, sequence: int = SEQUENCE) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body
    return whole + bytes(-len(whole) % 4)


def route(kind: int, *attributes: bytes) -> bytes:
    return message(
        RTM_NEWROUTE, struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, kind, 0) + b"".join(attributes)
    )


def link(index: int, *attributes: bytes, kind: int = RTM_NEWLINK, family: int = 0) -> bytes:
    return message(kind, struct.pack("=BxHiII", family, 1, index, 0, 0) + b"".join(attributes), 0)


def number(value: int) -> bytes:
    return struct.pack("=I", value)


def in_vrf(vrf: int, kind: bytes = b"vrf\0") -> tuple[bytes, bytes]:
    return (
        attribute(IFLA_MASTER, number(vrf)),
        attribute(IFLA_LINKINFO, attribute(1, b"veth\0") + attribute(IFLA_INFO_SLAVE_KIND, kind)),
    )


def answer(data: bytes, sequence: int = SEQUENCE) -> tuple[int, int, bool]:
    """(code, interface, local). The buffer ends with the bytes, so a sanitised core detects a read beyond."""
    found = ffi.new("struct udpring_route_answer *")
    memory = ffi.new("uint8_t[]", data)
    code = lib.udpring_route_answer(memory, len(data), sequence, found)
    return code, found.interface_index, bool(found.local)


def links(data: bytes, sequence: int = 0) -> tuple[int, list[tuple[int, int]]]:
    out = ffi.new("struct udpring_link_note[]", 8)
    count = ffi.new("uint32_t *")
    memory = ffi.new("uint8_t[]", data)
    code = lib.udpring_links(memory, len(data), sequence, out, 8, count)
    return code, [(out[i].interface_index, out[i].vrf) for i in range(min(count[0], 8))]


def request(target: str, **fields: int) -> bytes:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    query = ffi.new("struct udpring_route_query *")
    query.to.family = family
    ffi.memmove(query.to.ip, packed := socket.inet_pton(family, target), len(packed))
    query.to.port = 51820
    query.from_port = 51821
    for name, value in fields.items():
        setattr(query, name, value)
    room = ffi.new("uint8_t[256]")
    return bytes(ffi.buffer(room, lib.udpring_route_request(query, SEQUENCE, room)))


def ask_kernel(data: bytes) -> bytes:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.sendto(data, (0, 0))
        return sock.recv(65536)


@pytest.mark.parametrize("target", ["127.0.0.1", "127.45.6.7"])
def test_kernel_answers_our_request(target: str) -> None:
    code, interface, local = answer(ask_kernel(request(target)))
    assert (code, local) == (0, True)
    assert socket.if_indextoname(interface) == "lo"


def test_kernel_refuses_a_wrong_interface() -> None:
    code, _, _ = answer(ask_kernel(request("127.0.0.1", interface_index=0x7FFFFFF0)))
    assert code < 0
    assert code != -errno.ENODATA


def test_kernel_lists_its_links() -> None:
    room = ffi.new("uint8_t[256]")
    asked = bytes(ffi.buffer(room, lib.udpring_links_request(SEQUENCE, room)))
    found: list[tuple[int, int]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.sendto(asked, (0, 0))
        code = 0
        while code == 0:
            code, some = links(sock.recv(65536), SEQUENCE)
            found += some
    assert code == 1
    assert socket.if_nametoindex("lo") in dict(found)


def test_answers_are_distinguished() -> None:
    assert answer(route(RTN_UNICAST, attribute(RTA_OIF, number(5)))) == (0, 5, False)
    assert answer(route(RTN_LOCAL, attribute(RTA_OIF, number(1)))) == (0, 1, True)
    assert answer(route(RTN_UNREACHABLE, attribute(RTA_OIF, number(1))))[0] == -errno.ENETUNREACH
    refused = message(NLMSG_ERROR, struct.pack("=i", -errno.ENETUNREACH) + bytes(16))
    assert answer(refused)[0] == -errno.ENETUNREACH
    assert answer(b"")[0] == -errno.ENODATA
    assert answer(route(RTN_UNICAST), sequence=8)[0] == -errno.ENODATA
    stale = message(NLMSG_ERROR, struct.pack("=i", -errno.EPERM), 6)
    assert answer(stale + route(RTN_UNICAST, attribute(RTA_OIF, number(9)))) == (0, 9, False)


def test_links_in_a_vrf_are_noted() -> None:
    assert links(link(3, *in_vrf(10))) == (0, [(3, 10)])
    assert links(link(3, *in_vrf(10), kind=RTM_DELLINK)) == (0, [(3, 0)])
    assert links(link(4, *in_vrf(10, b"bridge\0"))) == (0, [(4, 0)])
    assert links(link(4, *in_vrf(10, b"vrfx\0"))) == (0, [(4, 0)])
    assert links(link(4)) == (0, [(4, 0)])
    assert links(link(5, *in_vrf(10), family=7)) == (0, []), "a bridge's own note of its port"
    assert links(link(3, *in_vrf(10)) + link(6) + message(NLMSG_DONE, number(0), 0)) == (1, [(3, 10), (6, 0)])


@pytest.mark.parametrize("whole", [route(RTN_UNICAST, attribute(RTA_OIF, number(5))), link(3, *in_vrf(10))])
def test_lengths_that_lie_are_not_believed(whole: bytes) -> None:
    for cut in range(len(whole)):
        answer(whole[:cut])
        links(whole[:cut])
    for at in range(0, len(whole) - 1, 2):
        for lie in (0, 1, 3, 4, 5, 0x7FFF, 0xFFFF):
            changed = bytearray(whole)
            struct.pack_into("=H", changed, at, lie)
            answer(bytes(changed))
            links(bytes(changed))


@given(data=st.binary(max_size=200), body=st.booleans())
def test_any_bytes_are_read_within_their_bounds(data: bytes, body: bool) -> None:
    for kind in (RTM_NEWROUTE, RTM_NEWLINK, NLMSG_ERROR) if body else (0,):
        given_bytes = message(kind, data) if body else data
        code, _, _ = answer(given_bytes)
        assert -4096 < code <= 0
        code, _ = links(given_bytes, SEQUENCE)
        assert -4096 < code <= 1
