"""Packets on the wire, captured by tcpdump and parsed by scapy's WireGuard layer."""

from __future__ import annotations

import socket
from itertools import pairwise
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Program, Rig, until
from lab.traffic import datagrams
from lab.wire import DATA, INITIATION, RESPONSE, Capture, Message, singly
from scapy.contrib.wireguard import Wireguard

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PAIRS = [
    pytest.param((SUBJECT, GO), id="subject-initiates"),
    pytest.param((GO, SUBJECT), id="subject-responds"),
    pytest.param((SUBJECT, SUBJECT), id="subject-both"),
]
Programs = tuple[Program, Program]
MARK = b"udpring must not send this in the clear"
AF41 = 0x88
OVERHEAD = 32  # header 16, tag 16


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("programs", PAIRS)
def test_a_session_on_the_wire(rig: Rig, tmp_path: Path, programs: Programs, family: int) -> None:
    tunnel = rig.tunnel(programs, family=family)
    a, b = tunnel.a, tunnel.b
    singly(a.space, b.space)
    with Capture(b.space, tmp_path / "wire.pcap") as capture:
        tunnel.ping()
        datagrams(a.space, b.space, a.inner4, b.inner4, range(0, 1393, 13))
        datagrams(b.space, a.space, b.inner4, a.inner4, [*range(0, 1393, 29), 1392])
        with b.space.socket(b.inner4, socket.SOCK_DGRAM) as into:
            with a.space.socket(a.inner4, socket.SOCK_DGRAM) as out:
                for _ in range(20):
                    out.sendto(MARK * 20, into.getsockname())
            for _ in range(20):
                assert into.recv(2000) == MARK * 20
        capture.wait(180, DATA)
    messages = capture.messages()
    assert not any(MARK[:16] in message.payload for message in messages)
    for message in messages:
        parsed = Wireguard(message.payload)
        assert parsed.message_type == message.type
        assert message.type in (INITIATION, RESPONSE, DATA)
        assert parsed.reserved_zero == 0
        assert bytes(parsed) == message.payload

    opening = [message.type for message in messages[:2]]
    assert opening == [INITIATION, RESPONSE]
    _check_handshake(messages[0], messages[1], subject_initiates=programs[0] is SUBJECT, programs=programs)
    for sender in {message.source for message in messages}:
        _check_data([message for message in messages if message.source == sender and message.type == DATA])


def _check_handshake(
    initiation: Message, response: Message, *, subject_initiates: bool, programs: Programs
) -> None:
    assert len(initiation.payload) == 148
    assert len(response.payload) == 92
    first, second = Wireguard(initiation.payload), Wireguard(response.payload)
    assert second.payload.receiver_index == first.payload.sender_index
    assert first.payload.mac2 == second.payload.mac2 == bytes(16), "mac2 is zero without a cookie"
    assert first.payload.mac1 != bytes(16)
    for message, program in ((initiation, programs[0]), (response, programs[1])):
        if program.name == "udpring":
            assert message.tos & 0xFC == AF41, "handshakes carry DSCP AF41"


def _check_data(messages: list[Message]) -> None:
    assert len(messages) > 50
    by_session: dict[int, list[Message]] = {}
    for message in messages:
        by_session.setdefault(message.receiver, []).append(message)
    for session in by_session.values():
        counters = [message.counter for message in session]
        assert counters[0] == 0
        assert all(before < after for before, after in pairwise(counters)), "counters must rise"
    for message in messages:
        inner = len(message.payload) - OVERHEAD
        # Padded to 16, but never past the interface's MTU.
        assert inner % 16 == 0 or inner == 1420, inner
        assert inner <= 1420
    assert max(len(message.payload) for message in messages) == 1420 + OVERHEAD


@pytest.mark.parametrize("programs", PAIRS[:2])
def test_one_passive_keepalive(rig: Rig, tmp_path: Path, programs: Programs) -> None:
    """One datagram in one direction: the receiver answers with one keepalive after 10 s."""
    tunnel = rig.tunnel(programs)
    a, b = tunnel.a, tunnel.b
    with (
        Capture(b.space, tmp_path / "wire.pcap") as capture,
        a.space.socket(a.inner4, socket.SOCK_DGRAM) as out,
        b.space.socket(b.inner4, socket.SOCK_DGRAM) as into,
    ):
        tunnel.b.space.ip("link", "set", tunnel.b.interface, "addrgenmode", "none")
        out.sendto(b"once", into.getsockname())
        assert into.recv(100) == b"once"
        back = until(
            lambda: [m for m in capture.messages() if m.type == DATA and m.source[1] == b.port],
            "the passive keepalive",
        )
        assert [len(message.payload) for message in back] == [OVERHEAD], "one, and empty"
        first = next(message for message in capture.wait(1, DATA) if message.source[1] == a.port)
        assert 9.5 <= back[0].time - first.time <= 14
