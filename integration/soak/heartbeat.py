"""How long this process was kept from running. An overloaded machine starves all processes alike.

The oracles bound the time that the nodes had, not the time that passed.
"""

from __future__ import annotations

import threading
import time

BEAT = 0.1
#: A beat later than this counts as starvation, by its whole lateness.
LATE = 0.3


class Heartbeat:
    """A thread that wakes ten times a second and sums up its lateness."""

    def __init__(self) -> None:
        self.starved = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        due = time.monotonic() + BEAT
        while not self._over.wait(BEAT):
            now = time.monotonic()
            if now - due > LATE:
                self.starved += now - due
            due = now + BEAT
