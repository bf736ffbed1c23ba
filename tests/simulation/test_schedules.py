"""Thousands of short lives of two to five nodes. Tests of the oracles, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from udpring.wireguard import peer, timers
from udpring.wireguard.events import Outcome

from .run import Result, run_batch, run_schedule
from .schedule import Action, Schedule, drawn
from .shrink import shrunk
from .world import SECOND

SCHEDULES = 500


@pytest.mark.parametrize("part", range(12))
def test_every_schedule_holds(part: int) -> None:
    result = run_batch(range(part * SCHEDULES, (part + 1) * SCHEDULES))
    assert not result.failed, "scripts/simulate --replay SEED shows one"
    assert result.done == SCHEDULES
    assert result.handshakes > 2 * SCHEDULES
    assert result.virtual > 10 * SCHEDULES


def test_every_schedule_holds_with_real_cryptography() -> None:
    result = Result()
    for seed in range(100):
        assert not run_schedule(replace(drawn(seed), real_crypto=True), None, result), seed
    assert result.done == 100


def test_a_seed_gives_the_same_run_again() -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        assert not run_schedule(drawn(4), trace)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10


def _never_keeps_timestamps(receive: Callable[..., list[Outcome]]) -> Callable[..., list[Outcome]]:
    def receive_initiation(self: Any, *arguments: Any) -> list[Outcome]:
        self._timestamp_received = b""
        return receive(self, *arguments)

    return receive_initiation


def _both_drop_theirs(self: Any, now: int) -> bool:
    return self._outgoing is not None and now - self._outgoing.sent_at < peer.CROSSING_TIME


FAULTS = {
    "handshakes too often": (peer.Peer, "_earliest", lambda self: 0, "after a handshake message"),
    "replays taken": (
        peer.Peer,
        "receive_initiation",
        _never_keeps_timestamps(peer.Peer.receive_initiation),
        "accepts a message twice",
    ),
    "crossed handshakes lost": (peer.Peer, "_ours_goes_on", _both_drop_theirs, "nothing arrives"),
    "silence unnoticed": (timers.Timers, "_new_handshake", lambda self, state: None, "nothing arrives"),
    "data unanswered": (timers.Timers, "_keepalive", lambda self, state: None, "leaves data unanswered"),
    "too many attempts": (timers, "MAX_RETRIES", 25, "times to reach a dead peer"),
    "keys kept": (timers.Timers, "session_derived", lambda self, now: None, "still holds"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_protocol_is_seen(fault: str) -> None:
    owner, name, wrong, said = FAULTS[fault]
    with mock.patch.object(owner, name, wrong):
        result = run_batch(range(400))
    assert [text for _, text in result.failed if said in text], result.failed


def test_a_failing_schedule_is_shortened() -> None:
    schedule = replace(drawn(4), actions=[(i, "clock", 0, i) for i in range(20)])
    left = shrunk(schedule, lambda each: any(action[3] == 13 for action in each.actions))
    assert left == [(sum(range(14)), "clock", 0, 13)]


def _two_nodes(actions: list[Action]) -> Schedule:
    """Only the first node of each pair has data to send at the end."""
    plain = replace(drawn(0), nodes=2, pairs=[(0, 1)], known=[True], keepalives=[(0, 0)])
    return replace(plain, one_way=True, ending="", actions=actions)


def test_one_packet_suffices_after_a_short_down() -> None:
    """The plane requested a session less than half a second before. The interface was down in between."""
    actions: list[Action] = [
        (0, "part", 0, 1, True),
        (SECOND, "send", 0, 1, 1),
        (SECOND // 10, "interface", 0, SECOND // 10),
        (SECOND * 3 // 20, "send", 0, 1, 1),
    ]
    assert not run_schedule(_two_nodes(actions))


def test_one_packet_suffices_without_private_key() -> None:
    """There is a session, which expired when the previous key was removed."""
    actions: list[Action] = [
        (0, "send", 0, 1, 1),
        (SECOND, "no_key", 0, 4 * SECOND),
        (SECOND, "send", 0, 1, 1),
    ]
    assert not run_schedule(_two_nodes(actions))
