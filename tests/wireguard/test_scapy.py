"""scapy's WireGuard layer finds each field of our messages where we put it."""

from __future__ import annotations

import warnings

import pytest
from reference.session import Transport, parse_transport

from udpring.wireguard.messages import (
    CookieReply,
    Initiation,
    Response,
    parse_handshake,
)

from .pair import Pair, ip_packet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.contrib import wireguard as oracle  # GPL: tests only


@pytest.fixture(scope="module")
def wire() -> dict[int, bytes]:
    """One message of each type."""
    pair = Pair()
    pair.b.under_load = True
    pair.a.send(ip_packet())
    pair.run(6)
    return {datagram.data[0]: datagram.data for datagram in pair.network.log}


def test_initiation(wire: dict[int, bytes]) -> None:
    ours, theirs = parse_handshake(wire[1]), oracle.Wireguard(wire[1])[oracle.WireguardInitiation]
    assert isinstance(ours, Initiation)
    assert theirs.sender_index == ours.sender
    parts = theirs.unencrypted_ephemeral + theirs.encrypted_static + theirs.encrypted_timestamp
    assert parts == ours.noise
    assert (theirs.mac1, theirs.mac2) == (ours.mac1, ours.mac2)


def test_response(wire: dict[int, bytes]) -> None:
    ours, theirs = parse_handshake(wire[2]), oracle.Wireguard(wire[2])[oracle.WireguardResponse]
    assert isinstance(ours, Response)
    assert (theirs.sender_index, theirs.receiver_index) == (ours.sender, ours.receiver)
    assert theirs.unencrypted_ephemeral + theirs.encrypted_nothing == ours.noise
    assert (theirs.mac1, theirs.mac2) == (ours.mac1, ours.mac2)


def test_cookie_reply(wire: dict[int, bytes]) -> None:
    ours, theirs = parse_handshake(wire[3]), oracle.Wireguard(wire[3])[oracle.WireguardCookieReply]
    assert isinstance(ours, CookieReply)
    assert theirs.receiver_index == ours.receiver
    assert (theirs.nonce, theirs.encrypted_cookie) == (ours.nonce, ours.sealed_cookie)


def test_transport(wire: dict[int, bytes]) -> None:
    ours, theirs = parse_transport(wire[4]), oracle.Wireguard(wire[4])[oracle.WireguardTransport]
    assert isinstance(ours, Transport)
    assert (theirs.receiver_index, theirs.counter) == (ours.receiver, ours.counter)
    assert theirs.encrypted_encapsulated_packet == ours.sealed
