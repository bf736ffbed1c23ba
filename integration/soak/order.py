"""The allowed order of the sequence numbers of one UDP flow at its receiver.

No number may arrive twice. None may arrive after a higher one, unless something permits it at that time:
after a change of a route, address or MTU the kernel may refuse a packet, which is then sent again behind
others. Numbers may be missing, because UDP loses datagrams.
"""

from __future__ import annotations

#: How far back duplicates are detected: more than any queue on the path holds.
WINDOW = 1 << 14


class Order:
    """Takes each number in the order of arrival. Returns the violation, or nothing."""

    def __init__(self) -> None:
        self.highest = -1
        self.received = 0
        self.late = 0
        self._seen = 0  # bit i: highest - i arrived

    def take(self, number: int, *, may_reorder: bool) -> str:
        ahead = number - self.highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self.highest = number
            self.received += 1
            return ""
        back = -ahead
        if back >= WINDOW:
            return f"number {number} came {back} behind {self.highest}"
        if self._seen >> back & 1:
            return f"number {number} came twice (the highest is {self.highest})"
        self._seen |= 1 << back
        self.received += 1
        self.late += 1
        if not may_reorder:
            return f"number {number} came after {self.highest}"
        return ""

    @property
    def missing(self) -> int:
        """The numbers up to the highest that never arrived."""
        return self.highest + 1 - self.received
