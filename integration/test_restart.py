"""An end that dies and comes back, and a peer that is unreachable for a while."""

from __future__ import annotations

import pytest
from lab import GO, SUBJECT, Program, Rig, until
from lab.traffic import ping, unreached

PAIRS = [
    pytest.param((SUBJECT, GO), id="subject-initiates"),
    pytest.param((GO, SUBJECT), id="subject-responds"),
]
Programs = tuple[Program, Program]
INITIATION = 148  # bytes


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("programs", PAIRS)
def test_initiator_restarts(rig: Rig, programs: Programs, how: str) -> None:
    """It has lost its session and makes a new one with its first packet."""
    tunnel = rig.tunnel(programs)
    tunnel.ping()
    getattr(tunnel.a, how)()
    tunnel.a.restart()
    tunnel.ping(deadline=12)
    tunnel.tcp_both_ways(1 << 18)


@pytest.mark.parametrize(
    ("programs", "how"), [((SUBJECT, GO), "kill"), ((GO, SUBJECT), "kill"), ((GO, SUBJECT), "stop")]
)
def test_responder_restarts(rig: Rig, programs: Programs, how: str) -> None:
    """The initiator notices 15 s of unanswered data (10 s keepalive + 5 s rekey time-out) and starts a
    handshake."""
    tunnel = rig.tunnel(programs)
    tunnel.ping()
    getattr(tunnel.b, how)()
    tunnel.b.restart()
    ping(tunnel.a.space, tunnel.b.inner4, deadline=40)
    tunnel.ping(back=True)
    tunnel.tcp_both_ways(1 << 18)


@pytest.mark.parametrize("programs", PAIRS)
def test_both_restart(rig: Rig, programs: Programs) -> None:
    tunnel = rig.tunnel(programs, both_know=True)
    tunnel.ping()
    for end in (tunnel.a, tunnel.b):
        end.kill()
    for end in (tunnel.a, tunnel.b):
        end.restart()
    tunnel.ping(back=True)
    tunnel.ping()


@pytest.mark.parametrize("programs", PAIRS)
def test_unreachable_then_reachable(rig: Rig, programs: Programs) -> None:
    """A path that loses everything: initiations continue every 5 s and count as bytes sent. Then the path
    heals."""
    tunnel = rig.tunnel(programs, topology=rig.topology("lossy", "--loss", "100"))
    a, b = tunnel.a, tunnel.b
    assert unreached(a.space, b.inner4)
    assert a.status(b).handshake == 0
    until(lambda: a.status(b).sent >= 2 * INITIATION, "a second initiation")
    assert a.status(b).sent % INITIATION == 0, "only initiations can have been sent"
    tunnel.topology.set("loss", "0")
    ping(a.space, b.inner4, deadline=30)
    tunnel.ping(back=True)


@pytest.mark.parametrize("programs", PAIRS)
def test_port_closed_then_open(rig: Rig, programs: Programs) -> None:
    """No process listens yet, and the host reports that by ICMP. The tunnel survives."""
    tunnel = rig.tunnel(programs, start=False)
    a, b = tunnel.a, tunnel.b
    a.start()
    assert unreached(a.space, b.inner4)
    b.start()
    ping(a.space, b.inner4)
