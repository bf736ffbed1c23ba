"""Through a NAT whose UDP mappings live a few seconds."""

from __future__ import annotations

import time

import pytest
from lab import GO, SUBJECT, Program, Rig, until
from lab.traffic import ping, tcp, unreached

INSIDE = [
    pytest.param((SUBJECT, GO), id="subject-inside"),
    pytest.param((GO, SUBJECT), id="subject-outside"),
]
Programs = tuple[Program, Program]
KEEPALIVE = 32  # bytes


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("programs", INSIDE)
def test_persistent_keepalive_holds_the_mapping(rig: Rig, programs: Programs, family: int) -> None:
    topology = rig.topology("nat", "--udp-timeout", "4")
    tunnel = rig.tunnel(programs, topology=topology, family=family, keepalive=1)
    a, b = tunnel.a, tunnel.b
    # A persistent keepalive needs no traffic to begin with.
    until(lambda: b.status(a).handshake > 0, "the keepalive makes a session")
    where = b.status(a).endpoint
    outside = topology["nat"].ipv4s[1] if family == 4 else topology["nat"].ipv6s[1]
    assert outside in where
    before = b.status(a).received
    # Idle except for keepalives, for six lifetimes of a mapping.
    until(lambda: b.status(a).received >= before + 6 * KEEPALIVE, "keepalives arrive")
    assert (b.status(a).received - before) % KEEPALIVE == 0, "something else than keepalives came"
    # From outside to inside, at once.
    ping(b.space, a.inner4, deadline=5)
    tcp(b.space, a.space, a.inner4, 1 << 20)
    assert b.status(a).endpoint == where


@pytest.mark.parametrize("programs", INSIDE)
def test_nat_mapping_expires_and_is_renewed(rig: Rig, programs: Programs) -> None:
    """Without a keepalive the mapping expires. Traffic from inside renews it."""
    topology = rig.topology("nat", "--udp-timeout", "4")
    tunnel = rig.tunnel(programs, topology=topology)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    tunnel.ping(back=True)
    where = b.status(a).endpoint
    # Only a packet shows the end of a mapping, and a packet would keep it alive: wait for its lifetime.
    begin = time.monotonic()
    until(lambda: time.monotonic() > begin + 5, "the mapping expires")
    assert unreached(b.space, a.inner4), "the mapping should have expired: the NAT test would prove nothing"
    ping(a.space, b.inner4)
    assert b.status(a).endpoint != where, "the new mapping has another port, and b follows it"
    ping(b.space, a.inner4, deadline=5)
