"""FQ-CoDel after the pseudocode of RFC 8289 (section 5) and RFC 8290 (section 4)."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

__all__ = ["INTERVAL", "QUANTUM", "TARGET", "FlowQueue", "Queued"]

TARGET = 5_000_000
INTERVAL = 100_000_000
QUANTUM = 16384
ROOT_BITS = 16


@dataclass
class Queued:
    """A packet in a queue. ``marked`` is set in place of a drop if its sender supports ECN."""

    name: int
    length: int
    since: int
    ecn: bool
    marked: bool = False


def control_law(time: int, count: int) -> int:
    """RFC 8289 5.4, in whole nanoseconds."""
    return time + (INTERVAL << ROOT_BITS) // math.isqrt(count << 2 * ROOT_BITS)


@dataclass
class Codel:
    """One queue of RFC 8289. The names of the attributes are the RFC's."""

    queue: deque[Queued] = field(default_factory=deque)
    first_above_time: int = 0
    drop_next: int = 0
    count: int = 0
    lastcount: int = 0
    dropping: bool = False
    deficit: int = 0
    listed: bool = False

    def dodequeue(self, now: int, longest: int) -> tuple[Queued | None, bool]:
        """The next packet, and whether it may be dropped."""
        if not self.queue:
            self.first_above_time = 0
            return None, False
        size = sum(packet.length for packet in self.queue)
        packet = self.queue.popleft()
        if now - packet.since < TARGET or size <= longest:
            self.first_above_time = 0
            return packet, False
        if self.first_above_time == 0:
            self.first_above_time = now + INTERVAL
        return packet, now >= self.first_above_time

    def dequeue(self, now: int, longest: int, dropped: list[int]) -> Queued | None:
        """The packet to send."""
        packet, ok_to_drop = self.dodequeue(now, longest)
        if self.dropping:
            if not ok_to_drop:
                self.dropping = False
            while self.dropping and now >= self.drop_next:
                assert packet
                self.count += 1
                if packet.ecn:
                    packet.marked = True
                    self.drop_next = control_law(self.drop_next, self.count)
                    return packet
                dropped.append(packet.name)
                packet, ok_to_drop = self.dodequeue(now, longest)
                if not ok_to_drop:
                    self.dropping = False
                else:
                    self.drop_next = control_law(self.drop_next, self.count)
        elif ok_to_drop:
            assert packet
            if packet.ecn:
                packet.marked = True
            else:
                dropped.append(packet.name)
                packet, ok_to_drop = self.dodequeue(now, longest)
            self.dropping = True
            delta = self.count - self.lastcount
            self.count = 1
            if delta > 1 and now - self.drop_next < 16 * INTERVAL:
                self.count = delta
            self.drop_next = control_law(now, self.count)
            self.lastcount = self.count
        return packet


class FlowQueue:
    """RFC 8290 4.2. The number of a packet's queue comes from the code under test."""

    def __init__(self) -> None:
        self.flows: dict[int, Codel] = {}
        self.new: deque[Codel] = deque()
        self.old: deque[Codel] = deque()
        self.longest = 0
        self.dropped: list[int] = []

    def put(self, number: int, packet: Queued) -> None:
        """Appends it to its flow."""
        flow = self.flows.setdefault(number, Codel())
        flow.queue.append(packet)
        self.longest = max(self.longest, packet.length)
        if not flow.listed:
            flow.listed = True
            flow.deficit = QUANTUM
            self.new.append(flow)

    def take(self, now: int) -> Queued | None:
        """The packet to send."""
        while self.new or self.old:
            flows = self.new or self.old
            flow = flows[0]
            if flow.deficit <= 0:
                flow.deficit += QUANTUM
                self.old.append(flows.popleft())
                continue
            packet = flow.dequeue(now, self.longest, self.dropped)
            if packet:
                flow.deficit -= packet.length
                return packet
            flows.popleft()
            if flows is self.new and self.old:
                self.old.append(flow)
            else:
                flow.listed = False
        return None
