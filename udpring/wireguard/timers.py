"""The deadlines of one peer (whitepaper sections 6.1 to 6.5). ``peer.py`` has the actions.

The data plane does not arm a timer for each packet. It stamps times (``PeerStamps``). Deadlines follow from
the stamps when they are needed:

    RETRANSMIT      a handshake is under way: sent + 5 s + jitter
    NEW_HANDSHAKE   unanswered_since + 15 s + jitter: we send and hear nothing
    KEEPALIVE       owed_since + 10 s: we received data and sent nothing; once more if data came meanwhile
    PERSISTENT      last_traversal + interval
    ERASE           last session derived + 540 s

Each deadline comes once for the stamp that it follows from. Jitter is drawn from the given random source,
once each time a timer is armed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from .constants import (
    ERASE_AFTER_TIME,
    KEEPALIVE_TIMEOUT,
    MAX_RETRIES,
    NEW_HANDSHAKE_TIMEOUT,
    REKEY_TIMEOUT,
    REKEY_TIMEOUT_JITTER,
    SECOND,
)
from .events import PeerStamps

__all__ = ["Timer", "Timers"]

_RANDOM_RANGE: Final = 2**32


class Timer(Enum):
    """The five of the table above."""

    RETRANSMIT = auto()
    NEW_HANDSHAKE = auto()
    KEEPALIVE = auto()
    PERSISTENT = auto()
    ERASE = auto()


"""The five of the table above."""


class Timers:
    """The timers of one peer. Times: boot ns; None: not armed."""

    __slots__ = (
        "_again_at",
        "_again_mark",
        "_owed_stamp",
        "_persistent_since",
        "_random",
        "_silence_at",
        "_silence_mark",
        "_silence_stamp",
        "erase_at",
        "persistent_interval",
        "retransmit_at",
        "retries",
    )

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self.retries = 0
        """Initiations sent again since the last requested one."""
        self.retransmit_at: int | None = None
        self.erase_at: int | None = None

        self._silence_stamp = 0  # the unanswered_since that armed this timer
        self._silence_at: int | None = None
        self._silence_mark: tuple[int, int] | None = (
            None  # session and counter when it fired: a later send arms it again
        )

        self._owed_stamp = 0  # the owed_since that was answered
        self._again_at: int | None = None
        self._again_mark = (
            0,
            0,
        )  # session and counter after the previous keepalive: anything later cancels it

        self.persistent_interval = 0  # ns; 0: off
        self._persistent_since = 0  # when it was switched on or last fired

    # ---- events ----

    def handshake_asked(self) -> None:
        """A new session is wanted: the 90 s of attempts start again."""
        self.retries = 0

    def handshake_sent(self, now: int) -> None:
        self.retransmit_at = now + REKEY_TIMEOUT + self.jitter()

    def handshake_postponed(self, earliest: int) -> None:
        """An initiation may not be sent before ``earliest``. The timer sends it then."""
        self.retransmit_at = earliest + self.jitter()

    def handshake_finished(self) -> None:
        """Completed, confirmed or abandoned."""
        self.retransmit_at = None
        self.retries = 0

    def retry(self) -> bool:
        """Counts one more attempt. False: the limit is reached."""
        if self.retries >= MAX_RETRIES:
            return False
        self.retries += 1
        return True

    def session_derived(self, now: int) -> None:
        self.erase_at = now + ERASE_AFTER_TIME

    def given_up(self, now: int, state: PeerStamps) -> None:
        """The handshake was abandoned: remaining keys are erased in 540 s at the latest, and no keepalive is
        owed."""
        self.handshake_finished()
        if self.erase_at is None:
            self.erase_at = now + ERASE_AFTER_TIME
        self._owed_stamp = state.owed_since
        self._again_at = None

    def stop(self, state: PeerStamps) -> None:
        """Disarms all timers. The present stamps of the plane arm none either."""
        self.handshake_finished()
        self.erase_at = None
        self._silence_stamp, self._silence_at = state.unanswered_since, None
        self._silence_mark = (state.session_birth, state.send_counter)
        self._owed_stamp, self._again_at = state.owed_since, None

    def persistent_begin(self, now: int) -> None:
        """The interval counts from now."""
        self._persistent_since = now

    def persistent_set(self, seconds: int, now: int) -> None:
        self.persistent_interval = seconds * SECOND
        self._persistent_since = now

    def jitter(self) -> int:
        """0 to 333 ms."""
        return int.from_bytes(self._random(4), "little") * REKEY_TIMEOUT_JITTER // _RANDOM_RANGE

    # ---- when ----

    def deadline(self, state: PeerStamps) -> int | None:
        """The earliest deadline; None: none until a stamp changes."""
        earliest: int | None = None
        for _, at in self._all(state):
            if at is not None and (earliest is None or at < earliest):
                earliest = at
        return earliest

    def due(self, now: int, state: PeerStamps) -> set[Timer]:
        """The timers that are due at ``now``. They are taken: the same stamp does not fire again, and
        RETRANSMIT and ERASE are disarmed."""
        fired = {timer for timer, at in self._all(state) if at is not None and at <= now}
        if Timer.RETRANSMIT in fired:
            self.retransmit_at = None
        if Timer.ERASE in fired:
            self.erase_at = None
        if Timer.NEW_HANDSHAKE in fired:
            self._silence_at = None
            self._silence_mark = (state.session_birth, state.send_counter)
        if Timer.KEEPALIVE in fired:
            self._keepalive_fired(now, state)
        if Timer.PERSISTENT in fired:
            self._persistent_since = now
        return fired

    def _all(self, state: PeerStamps) -> tuple[tuple[Timer, int | None], ...]:
        return (
            (Timer.RETRANSMIT, self.retransmit_at),
            (Timer.NEW_HANDSHAKE, self._new_handshake(state)),
            (Timer.KEEPALIVE, self._keepalive(state)),
            (Timer.PERSISTENT, self._persistent(state)),
            (Timer.ERASE, self.erase_at),
        )

    def _new_handshake(self, state: PeerStamps) -> int | None:
        if not state.unanswered_since:
            self._silence_stamp = 0
            return None
        if state.unanswered_since != self._silence_stamp:
            self._silence_stamp = state.unanswered_since
            self._silence_at = state.unanswered_since + NEW_HANDSHAKE_TIMEOUT + self.jitter()
        elif self._silence_at is None and (state.session_birth, state.send_counter) != self._silence_mark:
            # It fired, nothing was received since, and more was sent, which arms it again.
            self._silence_at = state.last_sent + NEW_HANDSHAKE_TIMEOUT + self.jitter()
        return self._silence_at

    def _keepalive(self, state: PeerStamps) -> int | None:
        at = self._again_at
        if at is not None:
            birth, counter = self._again_mark
            if state.session_birth != birth or state.send_counter > counter:
                at = self._again_at = None
        if state.owed_since and state.owed_since != self._owed_stamp:
            owed_at = state.owed_since + KEEPALIVE_TIMEOUT
            return owed_at if at is None else min(at, owed_at)
        return at

    def _keepalive_fired(self, now: int, state: PeerStamps) -> None:
        again = state.owed_again and state.owed_since != self._owed_stamp
        self._owed_stamp = state.owed_since
        self._again_at = now + KEEPALIVE_TIMEOUT if again else None
        self._again_mark = (state.session_birth, state.send_counter + 1)

    def _persistent(self, state: PeerStamps) -> int | None:
        if not self.persistent_interval:
            return None
        return max(state.last_traversal, self._persistent_since) + self.persistent_interval
