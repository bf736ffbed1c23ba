"""A session older than 120 s is replaced under traffic, and TCP does not notice.

All pairs run at once in one test, so the two minutes are spent only once.
"""

from __future__ import annotations

import time

import pytest
from lab import GO, SUBJECT, Program, Rig, Tunnel
from lab.traffic import TcpStream

SECONDS = 131  # the initiator rekeys on the first packet it sends after 120 s
RATE = 100_000  # bytes a second, each way


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.xdist_group("rekey")
def test_rekey_after_two_minutes_without_a_lost_byte(rig: Rig) -> None:
    rekeyed_without_a_lost_byte(rig, [(SUBJECT, GO), (GO, SUBJECT), (SUBJECT, SUBJECT)])


def rekeyed_without_a_lost_byte(rig: Rig, pairs: list[tuple[Program, Program]]) -> None:
    """TCP in both directions through each pair. Each pair rekeys once, after two minutes."""
    tunnels = [rig.tunnel(pair, topology=rig.topology(), psk=pair[0] is pair[1]) for pair in pairs]
    streams: list[TcpStream] = []
    for tunnel in tunnels:
        tunnel.ping()
        a, b = tunnel.a, tunnel.b
        streams += [
            TcpStream(a.space, b.space, b.inner4, seconds=SECONDS, rate=RATE),
            TcpStream(b.space, a.space, a.inner6, seconds=SECONDS, rate=RATE),
        ]
    seen = _handshakes_while_running(tunnels, streams)
    for stream in streams:
        stream.finish()
        assert stream.sent_bytes > 0.9 * SECONDS * RATE
        assert stream.longest_silence < 3, "the rekey stalled the stream"
    for tunnel, handshakes in zip(tunnels, seen, strict=True):
        names = f"{tunnel.a.program} x {tunnel.b.program}: handshakes at {handshakes}"
        assert len(handshakes) == 2, names
        # wg shows whole seconds.
        assert 119 <= handshakes[1] - handshakes[0] <= 127, names
        tunnel.ping(back=True)


def _handshakes_while_running(tunnels: list[Tunnel], streams: list[TcpStream]) -> list[list[int]]:
    """The handshake times that each initiator shows, queried once a second."""
    seen: list[list[int]] = [[] for _ in tunnels]
    deadline = time.monotonic() + SECONDS + 30
    while any(stream.running for stream in streams) and time.monotonic() < deadline:
        for tunnel, handshakes in zip(tunnels, seen, strict=True):
            shook = tunnel.a.status(tunnel.b).handshake
            if shook not in handshakes:
                handshakes.append(shook)
        time.sleep(1)
    return seen
