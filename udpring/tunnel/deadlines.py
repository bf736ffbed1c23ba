"""The deadlines of many peers in one heap, so that one timer serves them all."""

from __future__ import annotations

import heapq

__all__ = ["Deadlines"]


class Deadlines:
    """At most one deadline a peer, the earliest on top. Superseded entries are skipped when they surface."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._current: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._current)

    def set(self, peer: int, deadline: int | None) -> None:
        if deadline is None:
            self._current.pop(peer, None)
        elif self._current.get(peer) != deadline:
            self._current[peer] = deadline
            heapq.heappush(self._heap, (deadline, peer))
        if len(self._heap) > 64 + 4 * len(self._current):
            self._heap = [(deadline, peer) for peer, deadline in self._current.items()]
            heapq.heapify(self._heap)

    def get(self, peer: int) -> int | None:
        return self._current.get(peer)

    def first(self) -> int | None:
        """The earliest deadline."""
        heap = self._heap
        while heap and self._current.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: int, maximum: int) -> list[int]:
        """Takes out up to ``maximum`` peers whose deadline has come."""
        peers: list[int] = []
        while len(peers) < maximum:
            deadline = self.first()
            if deadline is None or deadline > now:
                break
            _, peer = heapq.heappop(self._heap)
            del self._current[peer]
            peers.append(peer)
        return peers
