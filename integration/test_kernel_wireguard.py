"""The subject and the kernel's own WireGuard, each as initiator and responder.

Without WireGuard in the kernel all tests are skipped. `scripts/vm` runs them under Debian's kernel.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import SUBJECT, Program, Rig, until
from lab.kernel import KERNEL, missing
from lab.node import endpoint
from lab.traffic import datagrams, ping
from test_aes import AES, CHACHA, no_answer, set_cipher
from test_flood import honest_peer_is_served
from test_interop import psk_is_needed, traffic_flows
from test_rekey import rekeyed_without_a_lost_byte
from test_roaming import new_address_is_followed, new_port_is_followed

ROLES = [
    pytest.param((SUBJECT, KERNEL), id="subject-initiates"),
    pytest.param((KERNEL, SUBJECT), id="subject-responds"),
]
MOVERS = [pytest.param("a", id="initiator-moves"), pytest.param("b", id="responder-moves")]
KEEPALIVE = 32  # bytes

Programs = tuple[Program, Program]


@pytest.fixture(scope="module", autouse=True)
def _kernel_has_it() -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.mark.parametrize(
    ("family", "psk"), [pytest.param(4, False, id="outer4"), pytest.param(6, True, id="outer6-psk")]
)
@pytest.mark.parametrize("programs", ROLES)
def test_traffic(rig: Rig, programs: Programs, family: int, psk: bool) -> None:
    traffic_flows(rig.tunnel(programs, family=family, psk=psk), family)


@pytest.mark.parametrize("programs", ROLES)
def test_datagram_sizes(rig: Rig, programs: Programs) -> None:
    """Each padding, the largest sizes that fit the MTU, and fragments."""
    tunnel = rig.tunnel(programs)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    sizes = [*range(33), *range(33, 1376, 61), *range(1376, 1394), 1400, 2000, 8192, 65507]
    datagrams(a.space, b.space, a.inner4, b.inner4, sizes)
    datagrams(b.space, a.space, b.inner4, a.inner4, sizes)


@pytest.mark.parametrize("programs", ROLES)
def test_wrong_psk_gives_no_session(rig: Rig, programs: Programs) -> None:
    psk_is_needed(rig.tunnel(programs, psk=True, start=False))


@pytest.mark.parametrize("mover", MOVERS)
@pytest.mark.parametrize("programs", ROLES)
def test_new_port(rig: Rig, programs: Programs, mover: str) -> None:
    new_port_is_followed(rig.tunnel(programs), mover)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mover", MOVERS)
@pytest.mark.parametrize("programs", ROLES)
def test_new_address(rig: Rig, programs: Programs, mover: str, family: int) -> None:
    new_address_is_followed(rig.tunnel(programs, family=family), mover, family)


@pytest.mark.parametrize("programs", ROLES)
def test_replies_come_from_the_address_that_was_addressed(rig: Rig, programs: Programs) -> None:
    tunnel = rig.tunnel(programs, start=False)
    a, b = tunnel.a, tunnel.b
    b.space.ip("addr", "add", "10.99.0.50/24", "dev", "under")
    a.peers[0].endpoint = endpoint("10.99.0.50", b.port)
    a.start()
    b.start()
    tunnel.ping()
    assert a.status(b).endpoint == endpoint("10.99.0.50", b.port)


@pytest.mark.parametrize("programs", ROLES)
def test_persistent_keepalive_opens_and_keeps_a_session(rig: Rig, programs: Programs) -> None:
    tunnel = rig.tunnel(programs, keepalive=1)
    a, b = tunnel.a, tunnel.b
    until(lambda: b.status(a).handshake > 0, "the keepalive makes a session")
    before = b.status(a).received
    until(lambda: b.status(a).received >= before + 4 * KEEPALIVE, "keepalives arrive")
    assert (b.status(a).received - before) % KEEPALIVE == 0, "something else than keepalives came"
    ping(b.space, a.inner4)


@pytest.mark.parametrize("programs", ROLES)
def test_data_without_an_answer_gets_a_keepalive(rig: Rig, programs: Programs) -> None:
    """a receives the answer to its ping, has nothing more to send, and sends a keepalive after ten
    seconds."""
    tunnel = rig.tunnel(programs)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    shook, before = a.status(b).handshake, b.status(a).received
    until(lambda: b.status(a).received > before, "a's keepalive arrives")
    assert b.status(a).received == before + KEEPALIVE
    assert a.status(b).handshake == shook


@pytest.mark.parametrize("programs", ROLES)
def test_responder_restarts(rig: Rig, programs: Programs) -> None:
    """The initiator notices 15 s of unanswered data (10 s keepalive + 5 s rekey time-out) and starts a
    handshake."""
    tunnel = rig.tunnel(programs)
    tunnel.ping()
    tunnel.b.kill()
    tunnel.b.restart()
    ping(tunnel.a.space, tunnel.b.inner4, deadline=40)
    tunnel.ping(back=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("programs", ROLES)
def test_cookie_under_load(rig: Rig, tmp_path: Path, programs: Programs) -> None:
    honest_peer_is_served(rig, tmp_path, programs)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.xdist_group("rekey")
def test_rekey_after_two_minutes_without_a_lost_byte(rig: Rig) -> None:
    rekeyed_without_a_lost_byte(rig, [(SUBJECT, KERNEL), (KERNEL, SUBJECT)])


@pytest.mark.parametrize("back", [False, True], ids=["initiates", "responds"])
def test_kernel_takes_no_message_of_another_cipher(rig: Rig, back: bool) -> None:
    tunnel = rig.tunnel((SUBJECT, KERNEL), both_know=True)
    a, b = tunnel.a, tunnel.b
    set_cipher(a, b, AES)
    no_answer(tunnel, back=back)
    assert a.status(b).handshake == 0
    assert b.status(a).handshake == 0
    assert b.status(a).received == 0
    set_cipher(a, b, CHACHA)
    tunnel.ping()
