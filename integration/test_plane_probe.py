"""Probes for routes that lose trains: the peer is the test."""

from __future__ import annotations

import errno
import socket
import time

import pytest
from test_plane import INNER_PEER, Bench, bench, keyed, pytestmark, udp_packet

from udpring._native import lib

__all__ = ["bench", "keyed", "pytestmark"]

UDP_SEGMENT = 103
SINGLES, TRAIN = lib.UDPRING_PROBE_SINGLES, lib.UDPRING_PROBE_TRAIN


def hear(node: Bench, *counters: int) -> None:
    for counter in counters:
        node.send(node.seal(b"", counter=counter))


def next_message(node: Bench) -> tuple[int, bytes]:
    """That the node sends for this call, or an answer before it."""
    node.app.sendto(b"x", (INNER_PEER, 6000))
    return node.receive()


@pytest.mark.parametrize(("first", "answer"), [(8, 3), (12, 7), (800, 3)])
def test_a_probe_is_answered_once(keyed: Bench, first: int, answer: int) -> None:
    hear(keyed, first, first + 1, first + 2)
    counter, inner = keyed.receive()
    assert inner == b""
    assert counter % 8 == answer
    assert next_message(keyed)[1] != b""


def test_a_probe_is_answered_in_any_order(keyed: Bench) -> None:
    hear(keyed, 10, 8, 9)
    counter, inner = keyed.receive()
    assert (counter % 8, inner) == (3, b"")


@pytest.mark.parametrize("counters", [(8, 9), (9, 10, 11), (8, 10), (10, 12), (11, 15, 19), (7, 8, 9)])
def test_other_keepalives_are_not_answered(keyed: Bench, counters: tuple[int, ...]) -> None:
    before = keyed.state().rx_bytes
    hear(keyed, *counters)
    keyed.wait(lambda: keyed.state().rx_bytes - before == 32 * len(counters))
    assert next_message(keyed)[1] != b""


def test_data_is_no_probe(keyed: Bench) -> None:
    for counter in (8, 9, 10):
        keyed.send(keyed.seal(udp_packet(b"data"), counter=counter))
        assert keyed.app.recv(100) == b"data"
    assert next_message(keyed)[1] != b""


def answers(node: Bench) -> list[int]:
    """Of the events up to now."""
    return [event.result for event in node.events() if event.kind == lib.UDPRING_EVENT_PROBE_ANSWERED]


def probe(node: Bench) -> list[int]:
    """Its counters, as they arrive."""
    if lib.udpring_plane_peer_probe(node.plane, node.peer) == -errno.EPERM:
        pytest.skip("trains are switched off by UDPRING_OFFLOADS")
    heard = [node.receive() for _ in range(6)]
    assert [inner for _, inner in heard] == [b""] * 6
    node.events()
    return [counter for counter, _ in heard]


def test_a_probe_is_a_train_and_singles(keyed: Bench) -> None:
    counters = probe(keyed)
    first = counters[0]
    assert first % 8 == 0
    assert counters == [first + place for place in (0, 1, 2, 4, 5, 6)]
    after, inner = next_message(keyed)
    assert (after, inner != b"") == (first + 8, True)


@pytest.mark.parametrize("kind", [SINGLES, TRAIN])
def test_an_answer_counts_once(keyed: Bench, kind: int) -> None:
    answer = 16 + 4 * kind + 3
    probe(keyed)
    hear(keyed, answer)
    found: list[int] = []

    def posted() -> bool:
        found.extend(answers(keyed))
        return bool(found)

    keyed.wait(posted)
    before = keyed.state().rx_bytes
    hear(keyed, answer + 8)
    keyed.wait(lambda: keyed.state().rx_bytes == before + 32)
    assert found + answers(keyed) == [kind]


def test_an_ordinary_keepalive_is_no_answer(keyed: Bench) -> None:
    """It follows other messages of its group."""
    probe(keyed)
    before = keyed.state().rx_bytes
    hear(keyed, 22, 23, 25, 27)
    keyed.wait(lambda: keyed.state().rx_bytes - before == 4 * 32)
    assert answers(keyed) == []


def test_an_answer_to_nothing_posts_nothing(keyed: Bench) -> None:
    """Those of earlier tests are answered first: the peer is the same."""
    before = keyed.state().rx_bytes
    hear(keyed, 3, 7)
    keyed.wait(lambda: keyed.state().rx_bytes - before == 64)
    keyed.events()
    hear(keyed, 11, 15)
    keyed.wait(lambda: keyed.state().rx_bytes - before == 128)
    assert answers(keyed) == []


def test_a_peer_that_roams_does_not_flood_the_mailbox(keyed: Bench) -> None:
    """Each change of its endpoint asks anew about trains, but not at once."""
    keyed.app.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 500)
    begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    asked = turn = 0
    with keyed.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(30)
        while turn < 20 or (keyed.stats().tx.trains and not asked):
            turn += 1
            here = (other, keyed.peer_socket)[turn % 2]
            here.sendto(keyed.seal(b""), ("127.0.0.1", keyed.port))
            port = here.getsockname()[1]
            keyed.wait(lambda port=port: keyed.state().endpoint.port == port)  # type: ignore[misc]
            keyed.app.sendto(bytes(1500), (INNER_PEER, 6000))
            for _ in range(3):
                here.recv(1000)
            asked += sum(event.kind == lib.UDPRING_EVENT_TRAINS for event in keyed.events())
    passed = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - begun
    assert asked <= 1 + passed / 0.5e9
