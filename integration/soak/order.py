"""What the sequence numbers of one UDP flow may do at its receiver.

None may come twice, ever. None may come after a higher one, unless something is under way that permits it: a
route, an address or an MTU that changes lets the kernel refuse a packet, which is then sent again behind
others.
Some may be missing: UDP loses.
"""

from __future__ import annotations

#: How many numbers back a duplicate is still known: more than any queue on the way holds.
WINDOW = 1 << 14


class Order:
    """Feed it each number in the order of arrival; what it returns is the violation, or nothing."""

    def __init__(self) -> None:
        self.highest = -1
        self.received = 0
        self.late = 0
        self._seen = 0  # bit i: highest - i came

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
        """Numbers up to the highest that never came."""
        return self.highest + 1 - self.received
