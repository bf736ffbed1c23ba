"""An interface that is down is silent, and staged packets start handshakes when it comes up. The kernel's
self-test requires the same."""

from __future__ import annotations

import time

import pytest
from lab import GO, SUBJECT, Node, Rig
from lab.rig import Tunnel
from lab.space import until

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go polls once a second")

COUNTER = """
table inet udpringdown {
    counter said { }
    chain out {
        type filter hook output priority 0;
        udp sport %d counter name "said"
    }
}
"""
WINDOW = 7.0
"""Seconds of silence to check: an initiation would be sent again after five."""


def _count(node: Node) -> None:
    node.space.nft(COUNTER % node.port)


def _said(node: Node) -> int:
    """The datagrams that it has sent."""
    return node.space.nft_counter("udpringdown", "said")


def _wait_for_silence(node: Node) -> None:
    """Messages in progress may still leave when the link goes down. A keepalive is due each second."""
    said: list[int] = []

    def quiet() -> bool:
        said.append(_said(node))
        return said[-1:] == said[-2:-1]

    until(quiet, "what was on its way has left", interval=2.5)


def _provoke(tunnel: Tunnel) -> None:
    """The far end forgets its session and requests another, repeatedly."""
    tunnel.b.set_peer(tunnel.a, "remove")
    tunnel.b.configure()


def _silent_while_provoked(tunnel: Tunnel) -> None:
    a, b = tunnel.a, tunnel.b
    before = _said(a)
    _provoke(tunnel)
    until(lambda: b.status(a).sent, "the far end asks for a session")
    end = time.monotonic() + WINDOW
    while time.monotonic() < end:
        assert _said(a) == before, "a down interface sent something"
        time.sleep(0.2)
    assert b.status(a).received == 0


def test_down_interface_is_silent(rig: Rig) -> None:
    tunnel = rig.tunnel((SUBJECT, GO), keepalive=1, both_know=True, start=False)
    a, b = tunnel.a, tunnel.b
    b.peers[0].keepalive = 1
    _count(a)
    b.start()
    a.spawn()
    a.configure()
    _silent_while_provoked(tunnel)
    a.bring_up()
    until(lambda: b.status(a).handshake and a.status(b).handshake, "up: the keepalive opens a session")
    a.space.ip("link", "set", a.interface, "down")
    _wait_for_silence(a)
    _silent_while_provoked(tunnel)
    a.space.ip("link", "set", a.interface, "up")
    until(lambda: b.status(a).handshake, "up again: another session")


def test_keepalive_starts_each_time_the_interface_comes_up(rig: Rig) -> None:
    """A persistent keepalive of ten minutes is sent at once, each time the interface comes up."""
    tunnel = rig.tunnel((SUBJECT, GO), keepalive=600)
    a, b = tunnel.a, tunnel.b
    for _ in range(3):
        until(lambda: b.status(a).handshake, "a session")
        a.space.ip("link", "set", a.interface, "down")
        b.set_peer(a, "remove")
        b.configure()
        a.space.ip("link", "set", a.interface, "up")


def test_interface_in_another_namespace_is_watched_too(rig: Rig) -> None:
    """The program gets no rtnetlink message from there."""
    tunnel = rig.tunnel((SUBJECT, GO), keepalive=1, start=False, both_know=True)
    a, b = tunnel.a, tunnel.b
    inside = b.space
    b.peers[0].keepalive = 1
    a.spawn()
    a.configure()
    b.start()
    _count(a)
    a.space.ip("link", "set", a.interface, "netns", inside.name)
    inside.ip("link", "set", a.interface, "up")
    until(lambda: b.status(a).handshake, "up in there: a session")
    inside.ip("link", "set", a.interface, "down")
    _wait_for_silence(a)
    _silent_while_provoked(tunnel)
    inside.ip("link", "set", a.interface, "up")
    until(lambda: b.status(a).handshake, "up again: another session")
