"""A private key set after the peers: staged packets start handshakes at once."""

from __future__ import annotations

import socket

from lab import GO, SUBJECT, Node, Rig
from lab.space import until

KEEPALIVE = 25
AT_ONCE = 12
"""Seconds; well below KEEPALIVE on a busy machine."""


def _without_key(node: Node) -> None:
    """Its configuration except the private key."""
    text = node.configuration().replace(f"PrivateKey = {node.private_key}\n", "")
    node.wg("setconf", node.interface, "/dev/stdin", stdin=text)


def test_late_key_sends_first_keepalive_at_once(rig: Rig) -> None:
    """The next command sets the key, within the half second in which the plane requests no second
    handshake."""
    tunnel = rig.tunnel((SUBJECT, GO), keepalive=KEEPALIVE, start=False)
    a, b = tunnel.a, tunnel.b
    b.start()
    a.spawn()
    a.bring_up()
    _without_key(a)
    assert a.status(b).sent == 0, "nothing is sent without a private key"
    a.wg("set", a.interface, "private-key", "/dev/stdin", stdin=a.private_key)
    until(lambda: b.status(a).handshake, "the keepalive opens a session", timeout=AT_ONCE)
    until(lambda: a.status(b).handshake, "both know it", timeout=AT_ONCE)


def test_late_key_sends_what_waits(rig: Rig) -> None:
    """A packet sent before there was a key arrives once there is one, without a second packet."""
    tunnel = rig.tunnel((SUBJECT, GO), start=False)
    a, b = tunnel.a, tunnel.b
    b.start()
    a.spawn()
    a.bring_up()
    _without_key(a)
    listening = b.space.socket(b.inner4, socket.SOCK_DGRAM, 4000)
    sending = a.space.socket(a.inner4, socket.SOCK_DGRAM)
    with listening, sending:
        sending.sendto(b"waits", (b.inner4, 4000))
        a.wg("set", a.interface, "private-key", "/dev/stdin", stdin=a.private_key)
        listening.settimeout(30)
        assert listening.recv(100) == b"waits"
