"""Facts that are kept for a while, and no more than so many: the ones not used for longest go first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["BoundedMemory"]

K = TypeVar("K")
V = TypeVar("V")


class BoundedMemory(Generic[K, V]):
    """At most ``most`` values by key, least recently used first. Each may have a time at which it ends."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: K, value: V, until: float = float("inf")) -> None:
        """Keeps the value, and forgets the one not used for longest where there are too many."""
        self._kept[key] = (value, until)
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def get(self, key: K, now: float = 0.0) -> V | None:
        """The value, unless its time has ended by ``now``."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        value, until = kept
        if until <= now:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def pop(self, key: K) -> None:
        """Forgets the value, if there is one."""
        self._kept.pop(key, None)

    def clear(self) -> None:
        """Forgets all."""
        self._kept.clear()

    def items(self) -> list[tuple[K, V]]:
        """All that are kept, also those whose time has ended."""
        return [(key, value) for key, (value, _) in self._kept.items()]
