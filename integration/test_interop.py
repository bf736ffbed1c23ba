"""The subject and wireguard-go, each as initiator and responder, over IPv4 and IPv6, with or without PSK."""

from __future__ import annotations

import pytest
from lab import GO, SUBJECT, Program, Rig, Tunnel
from lab.traffic import datagrams

ROLES = [
    pytest.param((SUBJECT, GO), id="subject-initiates"),
    pytest.param((GO, SUBJECT), id="subject-responds"),
    pytest.param((SUBJECT, SUBJECT), id="subject-both"),
]
OUTER = [pytest.param(4, id="outer4"), pytest.param(6, id="outer6")]
KEYS = [pytest.param(False, id="no-psk"), pytest.param(True, id="psk")]

Programs = tuple[Program, Program]


@pytest.mark.traffic
@pytest.mark.parametrize("psk", KEYS)
@pytest.mark.parametrize("family", OUTER)
@pytest.mark.parametrize("programs", ROLES)
def test_traffic(rig: Rig, programs: Programs, family: int, psk: bool) -> None:
    traffic_flows(rig.tunnel(programs, family=family, psk=psk), family)


def traffic_flows(tunnel: Tunnel, family: int) -> None:
    """Pings and TCP pass in both directions, and both ends count them. ``family``: the outer IP version."""
    a, b = tunnel.a, tunnel.b
    # The very first packet waits for the handshake and is not lost.
    done = a.space.run("ping", "-n", "-c", "1", "-W", "20", b.inner4, check=False)
    assert done.returncode == 0, f"the first packet was lost: {done.stdout}"
    tunnel.ping()
    tunnel.ping(back=True)
    for inner in (4, 6):
        tunnel.tcp_both_ways(1 << 20, family=inner)
    for here, there in ((a, b), (b, a)):
        status = here.status(there)
        assert status.handshake > 0
        assert status.received > 2 << 20
        assert status.sent > 2 << 20
        assert status.endpoint == there.outer(family)


@pytest.mark.parametrize("programs", ROLES)
def test_every_datagram_size(rig: Rig, programs: Programs) -> None:
    """UDP payloads of 0 to 1392 bytes fit an MTU of 1420. Larger ones are fragmented inside the tunnel."""
    tunnel = rig.tunnel(programs)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    sizes = [*range(1393), 1393, 1400, 2000, 8192, 32768, 65507]
    datagrams(a.space, b.space, a.inner4, b.inner4, sizes)
    datagrams(b.space, a.space, b.inner4, a.inner4, sizes)
    sizes = [*range(0, 1372, 7), 1371, 1372, 1373, 1400, 9000, 65000]
    datagrams(a.space, b.space, a.inner6, b.inner6, sizes)
    datagrams(b.space, a.space, b.inner6, a.inner6, sizes)


@pytest.mark.parametrize("programs", ROLES[:2])
def test_wrong_psk_gives_no_session(rig: Rig, programs: Programs) -> None:
    psk_is_needed(rig.tunnel(programs, psk=True, start=False))


def psk_is_needed(tunnel: Tunnel) -> None:
    """There is no session until both ends have the key. The tunnel must not be started."""
    tunnel.b.peers[0].psk = None
    tunnel.a.start()
    tunnel.b.start()
    done = tunnel.a.space.run("ping", "-n", "-c", "3", "-i", "0.2", "-w", "2", tunnel.b.inner4, check=False)
    assert done.returncode == 1, "traffic passed without the right preshared key"
    assert tunnel.a.status(tunnel.b).handshake == 0
    # With the key, the next handshake works.
    tunnel.b.peers[0].psk = tunnel.a.peers[0].psk
    tunnel.b.configure()
    tunnel.ping()
