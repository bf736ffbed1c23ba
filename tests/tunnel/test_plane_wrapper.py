"""Conversions and errors of the wrapper. integration/ has the tests that need a TUN device."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seccomp import run_python

from udpring._native import ffi, lib
from udpring.errors import ClosedError, ConfigError, HostError
from udpring.tunnel import plane as wrapper
from udpring.tunnel.ciphers import aead_in_words, chosen_aead
from udpring.tunnel.plane import Plane
from udpring.tunnel.plane_addresses import address_of, new_address
from udpring.tunnel.plane_options import offload_flags, plane_tier
from udpring.tunnel.plane_reading import DROP_NAMES, event_of
from udpring.tunnel.plane_values import EventKind, Prefix, SocketAddress
from udpring.udp.tiers import TIERS
from udpring.wireguard.cipher import Cipher

ips = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
addresses = st.builds(SocketAddress, ips, st.integers(0, 0xFFFF))
scoped = st.builds(
    SocketAddress, st.binary(min_size=16, max_size=16), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
)


def unpacked(raw: Any) -> SocketAddress | None:
    return address_of(raw.family, raw.port, raw.scope_id, bytes(ffi.buffer(raw.ip)))


@given(st.one_of(addresses, scoped))
def test_addresses_cross_into_c_and_back(address: SocketAddress) -> None:
    raw = new_address(address)
    assert unpacked(raw) == address
    assert bytes(ffi.buffer(raw.ip)) == address.ip.ljust(16, b"\0"), "the rest is zero: memcmp tells equality"
    assert new_address(None) == ffi.NULL
    assert unpacked(ffi.new("struct udpring_address *")) is None


@given(addresses)
def test_addresses_are_written_as_sockets_have_them(address: SocketAddress) -> None:
    assert SocketAddress.parse(address.host, address.port).port == address.port
    host, _, port = str(address).rpartition(":")
    assert int(port) == address.port
    assert host.startswith("[") == (len(address.ip) == 16)


def test_mapped_and_scoped_addresses() -> None:
    assert SocketAddress.parse("::ffff:192.0.2.1", 5) == SocketAddress(bytes([192, 0, 2, 1]), 5)
    link_local = SocketAddress.parse("fe80::1%7", 5)
    assert (link_local.scope_id, str(link_local)) == (7, "[fe80::1%7]:5")
    assert SocketAddress.parse("fe80::1%lo", 5).scope_id == socket.if_nametoindex("lo")
    for wrong in ("host.example", "1.2.3", ""):
        with pytest.raises(ValueError, match="address"):
            SocketAddress.parse(wrong, 5)


@given(st.lists(st.tuples(ips, st.integers(0, 128), st.integers(0, 0xFFFFFFFF), st.booleans()), max_size=20))
def test_prefixes_have_the_layout_of_the_compiler(
    given_prefixes: list[tuple[bytes, int, int, bool]],
) -> None:
    packed = b"".join(
        wrapper._PREFIX.pack(ip, socket.AF_INET if len(ip) == 4 else socket.AF_INET6, cidr, remove, peer)
        for ip, cidr, peer, remove in given_prefixes
    )
    raw = ffi.from_buffer("struct udpring_prefix[]", packed)
    for position, (ip, cidr, peer, remove) in enumerate(given_prefixes):
        entry = raw[position]
        assert bytes(ffi.buffer(entry.ip, len(ip))) == ip
        assert (entry.cidr, entry.peer, entry.remove) == (cidr, peer, int(remove))
        assert entry.family == (socket.AF_INET if len(ip) == 4 else socket.AF_INET6)


def test_events_are_decoded() -> None:
    raw = ffi.new("struct udpring_event *")
    raw.kind = EventKind.HANDSHAKE
    raw.peer = lib.UDPRING_PEER_NONE
    raw.flags = lib.UDPRING_EVENT_UNDER_LOAD
    raw.length = 5
    raw.now_ns = 77
    ffi.memmove(raw.message, b"hello", 5)
    event = event_of(raw)
    assert (event.kind, event.peer, event.message, event.now) == (EventKind.HANDSHAKE, None, b"hello", 77)
    assert (event.under_load, event.source) == (True, None)
    raw.peer, raw.flags, raw.length = 3, lib.UDPRING_EVENT_MAC2_VALID, 0
    event = event_of(raw)
    assert (event.peer, event.message, event.under_load) == (3, b"", False)


def test_an_impossible_length_reads_no_further_than_the_message() -> None:
    raw = ffi.new("struct udpring_event *")
    raw.length = 0xFFFFFFFF
    assert len(event_of(raw).message) == lib.UDPRING_MESSAGE_MAX


@pytest.mark.parametrize("name", ["", "sixteen-bytes-xx", "ä" * 8])
def test_names_that_cannot_be_an_interfaces(name: str) -> None:
    with pytest.raises(HostError, match="1 to 15 bytes"):
        Plane(name)


def test_tiers_are_called_as_in_c() -> None:
    numbers = lib.UDPRING_TIER_URING_MULTISHOT, lib.UDPRING_TIER_URING_POOL, lib.UDPRING_TIER_MMSG
    assert dict(zip(TIERS, numbers, strict=True)) == {name: plane_tier(name) for name in TIERS}
    with pytest.raises(ValueError, match="uring-multishot"):
        plane_tier("fastest")


def test_non_tun_descriptor_is_refused() -> None:
    """It still belongs to the caller, open."""
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(HostError, match="not a TUN device"):
            Plane("udpringtest", descriptors=(read_end,))
        os.write(write_end, b"x")
        assert os.read(read_end, 1) == b"x"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_host_errors_say_what_to_do() -> None:
    for number in (errno.EBUSY, errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.EIO):
        assert wrapper._host_error(-number, "interface wg0", "").cure
    own = wrapper._host_error(-1, "interface wg0", "interface wg0: no right (run it (twice) as root)")
    assert (own.message, own.cure) == ("interface wg0: no right", "run it (twice) as root")
    taken = wrapper._host_error(-98, "UDP port 5", "UDP port 5: Address already in use")
    assert "ListenPort" in str(taken)
    assert str(taken).count("UDP port 5") == 1


def test_a_closed_plane_says_so() -> None:
    closed = Plane.__new__(Plane)
    closed._plane = None
    closed.close()
    assert closed.closed
    for use in (
        lambda: closed.name,
        lambda: closed.fileno(),
        lambda: closed.peer_add(),
        lambda: closed.stats(),
        lambda: closed.prefixes([Prefix(bytes(4), 0, 1)]),
    ):
        with pytest.raises(ClosedError):
            use()


def test_keys_of_a_wrong_length_never_reach_c() -> None:
    closed = Plane.__new__(Plane)
    closed._plane = None
    with pytest.raises(ValueError, match="32"):
        closed.batch().keypair(
            1, bytes(31), bytes(32), local_index=1, remote_index=2, initiator=True, birth=0
        )
    with pytest.raises(ValueError, match="32"):
        wrapper._bytes(bytes(33), 32)


def test_an_aead_is_chosen_and_drops_have_names() -> None:
    assert chosen_aead()
    names = DROP_NAMES
    assert len(set(names)) == len(names) == lib.UDPRING_DROP_COUNT


def test_a_v4_network_object_fits() -> None:
    network = ipaddress.ip_network("10.0.0.0/8")
    assert str(Prefix(network.network_address.packed, network.prefixlen, 1)) == "10.0.0.0/8"


def test_offloads_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UDPRING_OFFLOADS", raising=False)
    running_linux(monkeypatch, "6.12.1")
    assert offload_flags(None) == offload_flags("all") == 0
    assert offload_flags("none") == offload_flags("tun") | offload_flags("udp")
    assert offload_flags("udp") == lib.UDPRING_PLANE_NO_TUN_OFFLOAD
    monkeypatch.setenv("UDPRING_OFFLOADS", "tun")
    assert offload_flags(None) == lib.UDPRING_PLANE_NO_UDP_OFFLOAD
    monkeypatch.setenv("UDPRING_OFFLOADS", "some")
    with pytest.raises(ConfigError, match=r"UDPRING_OFFLOADS .*: 'some' \(use one of all, tun, udp, none"):
        Plane("udpringtest")
    with pytest.raises(HostError, match=r"'some' is not a set of offloads \(use one of all, tun, udp, none"):
        offload_flags("some")


def running_linux(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    uname = os.uname_result((*os.uname()[:2], release, *os.uname()[3:]))
    monkeypatch.setattr(os, "uname", lambda: uname)


def test_a_kernel_that_damages_trains_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user asks for them."""
    monkeypatch.delenv("UDPRING_OFFLOADS", raising=False)
    running_linux(monkeypatch, "7.1.4-2-pve")
    assert offload_flags(None) == lib.UDPRING_PLANE_NO_TRAINS
    assert offload_flags("all") == 0
    monkeypatch.setenv("UDPRING_OFFLOADS", "all")
    assert offload_flags(None) == 0
    monkeypatch.setenv("UDPRING_OFFLOADS", "tun")
    assert offload_flags(None) == lib.UDPRING_PLANE_NO_UDP_OFFLOAD


def test_libraries_are_named_for_the_ciphers_in_use() -> None:
    chacha, aes = Cipher.CHACHA20_POLY1305, Cipher.AES_256_GCM
    assert aead_in_words([]) == aead_in_words([chacha]) == chosen_aead()
    both = f"chacha20-poly1305 by {chosen_aead(chacha)}, aes-256-gcm by {chosen_aead(aes)}"
    assert aead_in_words([aes]) == aead_in_words([chacha, aes]) == aead_in_words() == both


@pytest.mark.parametrize("forked", [False, True])
def test_threads_end_before_the_process(forked: bool) -> None:
    """Also without a close. At exit OpenSSL frees what they use. A forked child has none to end."""
    if forked and "libasan" in Path("/proc/self/maps").read_text():
        pytest.skip("a fork beside starting threads can leave the sanitiser's allocator locked in the child")
    done = run_python(
        f"""
import ctypes, os, sys, warnings
from udpring.tunnel.handshake_threads import HandshakeThreads
from udpring.tunnel.plane import Plane
libc = ctypes.CDLL(None)
libc.strdup.restype = ctypes.c_void_p
command = libc.strdup(b"ls /proc/$PPID/task | wc -l")  # Python's own bytes may be freed by then
libc.__cxa_atexit(libc.system, ctypes.c_void_p(command), None)
plane = Plane("left", queues=(1 << 20, 1 << 22))
threads = HandshakeThreads(plane)
if not {forked}:
    del plane, threads
assert len(os.listdir("/proc/self/task")) > 2
warnings.simplefilter("ignore")
if {forked} and os.fork():
    assert os.wait()[1] == 0
    os._exit(0)
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
