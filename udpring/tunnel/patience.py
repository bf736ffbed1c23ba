"""``Patience``: ends the wait of a thread in poll(2)."""

from __future__ import annotations

import os
import select
from types import TracebackType

__all__ = ["Patience", "ready_first"]


class Patience:
    """``end`` may be called in any thread. ``descriptor`` is ready from then on."""

    def __init__(self) -> None:
        self.descriptor, self._other = os.pipe2(os.O_CLOEXEC)

    def end(self) -> None:
        """May be called again."""
        other, self._other = self._other, -1
        if other >= 0:
            os.close(other)

    def __enter__(self) -> Patience:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        os.close(self.descriptor)


def ready_first(wanted: int, patience: int | None) -> bool:
    """Waits until ``wanted`` is readable. False: ``patience`` was ready first."""
    waiting = select.poll()
    waiting.register(wanted, select.POLLIN)
    if patience is not None:
        waiting.register(patience, select.POLLIN)
    return any(number == wanted for number, _ in waiting.poll())
