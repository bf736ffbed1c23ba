"""Virtual time and a network between nodes. Nothing waits: time jumps to the next thing that is due.

One heap holds everything scheduled: arrivals, timers of the event loops, resumptions. Work of a frozen node
happens when the node resumes, as for a stopped process or a machine that slept.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from udpring.tunnel.plane_values import SocketAddress

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
START = 1_000 * SECOND
WALL = 1_800_000_000 * SECOND


class Violation(AssertionError):
    """An invariant is violated."""


class Handle:
    """The result of call_soon and call_at. It has the parts of asyncio's that the control loop uses."""

    __slots__ = ("call", "cancelled", "when")

    def __init__(self, call: Callable[[], None], when: int) -> None:
        self.call: Callable[[], None] | None = call
        self.when = when
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.call = None


class Future:
    """The only future that the control loop makes: resolved when the plane cannot continue."""

    def __init__(self) -> None:
        self.result: Any = None
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any) -> None:
        self.result, self._done = result, True

    def cancel(self) -> None:
        self._done = True


class Loop:
    """An event loop of one node. Its clock stands still while the machine sleeps (CLOCK_MONOTONIC)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.slept = 0
        self.owner: Any = None
        self.reader: Callable[[], None] | None = None
        self.timers: dict[Handle, None] = {}

    def time(self) -> float:
        return (self._world.now - self.slept) / SECOND

    def create_future(self) -> Future:
        return Future()

    def add_reader(self, fd: int, call: Callable[[], None]) -> None:
        self.reader = call

    def remove_reader(self, fd: int) -> None:
        self.reader = None

    def call_soon(self, call: Callable[[], None]) -> Handle:
        handle = Handle(call, self._world.now)
        self._world.push(self._world.now, self.owner, self._run, handle)
        return handle

    def call_at(self, when: float, call: Callable[[], None]) -> Handle:
        at = max(self._world.now, int(when * SECOND) + 1 + self.slept)
        handle = Handle(call, at)
        self.timers[handle] = None
        self._world.push(at, self.owner, self._run, handle)
        return handle

    def call_later(self, delay: float, call: Callable[[], None]) -> Handle:
        """For work that may wait. It is not among the timers of the protocol."""
        handle = Handle(call, self._world.now + int(delay * SECOND) + 1)
        self._world.push(handle.when, self.owner, self._run, handle)
        return handle

    def armed(self) -> int:
        """The number of armed timers."""
        for handle in [handle for handle in self.timers if handle.cancelled]:
            del self.timers[handle]
        return len(self.timers)

    def machine_sleeps(self, duration: int) -> None:
        """The machine sleeps, so timers fire this much later."""
        self.slept += duration
        for handle in list(self.timers):
            del self.timers[handle]
            if not handle.cancelled:
                handle.when += duration
                self.timers[handle] = None
                self._world.push(handle.when, self.owner, self._run, handle)

    def _run(self, handle: Handle) -> None:
        if handle.cancelled or handle.call is None:
            self.timers.pop(handle, None)
            return
        if handle.when > self._world.now:
            return  # delayed by a sleep; the heap has it a second time
        if self.owner.stalled_until > self._world.now:
            self._world.push(self.owner.stalled_until, self.owner, self._run, handle)
            return
        self.timers.pop(handle, None)
        call, handle.call = handle.call, None
        call()


@dataclass(slots=True)
class Datagram:
    """One copy in flight. ``origin`` is the same for all copies of one message."""

    message: Any
    source: SocketAddress
    to: SocketAddress
    origin: int
    sender: Any


@dataclass(slots=True)
class Path:
    """Loss, delay and copies on the network. Times in ns."""

    loss: float = 0.0
    twice: float = 0.0
    least: int = 5 * MILLISECOND
    most: int = 25 * MILLISECOND


KIND_PATH = Path(least=10 * MILLISECOND, most=10 * MILLISECOND)
#: The number of datagrams kept for replays.
KEPT = 64


class World:
    """Time, heap and network. ``trace`` collects lines if it is a list."""

    def __init__(self, seed: int, trace: list[str] | None = None) -> None:
        self.now = START
        self.rng = random.Random(seed)
        self.path = Path()
        self.trace = trace
        self.at: dict[SocketAddress, Any] = {}
        self.parted: set[frozenset[int]] = set()
        self.log: list[Datagram] = []
        self._heap: list[tuple[int, int, Any, Callable[[Any], None], Any]] = []
        self._number = 0
        self._origin = 0

    def push(self, at: int, owner: Any, call: Callable[[Any], None], argument: Any) -> None:
        self._number += 1
        heapq.heappush(self._heap, (at, self._number, owner, call, argument))

    def run_until(self, end: int, stop: Callable[[], bool] | None = None) -> bool:
        """Runs everything due by ``end``. Ends early with True when ``stop`` returns true."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            at, _, owner, call, argument = heapq.heappop(heap)
            if at > self.now:
                self.now = at
            if owner is not None:
                if owner.dead:
                    continue
                if owner.frozen_until > self.now:
                    self.push(owner.frozen_until, owner, call, argument)
                    continue
            call(argument)
            if stop is not None and stop():
                return True
        self.now = max(self.now, end)
        return False

    # ---- the network ----

    def send(self, node: Any, message: Any, to: SocketAddress) -> None:
        """Sends from a node's present address. The seed decides what the network does."""
        self._origin += 1
        datagram = Datagram(message, node.address, to, self._origin, node)
        node.traversed()
        node.last_said = self.now
        node.said += 1
        if len(self.log) < KEPT:
            self.log.append(datagram)
        else:
            self.log[self._origin % KEPT] = datagram
        path, rng = self.path, self.rng
        if path.loss and rng.random() < path.loss:
            return
        copies = 2 if path.twice and rng.random() < path.twice else 1
        spread = path.most - path.least
        for _ in range(copies):
            delay = path.least + (int(rng.random() * spread) if spread else 0)
            self.push(self.now + delay, None, self.arrive, datagram)

    def arrive(self, datagram: Datagram) -> None:
        life = self.at.get(datagram.to)
        if life is None or life.dead:
            return
        if self.parted and frozenset((life.number, datagram.sender.number)) in self.parted:
            return
        if life.frozen_until > self.now:
            if not life.deaf:
                self.push(life.frozen_until, life, self.arrive, datagram)
            return
        life.plane.receive(datagram)

    def say(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{(self.now - START) / SECOND:12.3f} s  {text}")
