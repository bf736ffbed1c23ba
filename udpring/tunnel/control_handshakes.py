"""Handshake messages in the control loop: those that arrive, and those that other threads compute.

Without handshake threads the protocol computes each message itself, and ``compute`` is never called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from udpring.tunnel.control_values import BootClock, Route
from udpring.tunnel.handshake_threads import HandshakeThreads
from udpring.tunnel.plane import Event
from udpring.wireguard import events as protocol
from udpring.wireguard.device import Device

__all__ = ["ControlHandshakes"]


class ControlHandshakes:
    """``carry_out``: ``Control.carry_out``. ``failed`` is called in the ``except`` block of a failure after a
    computation."""

    def __init__(
        self,
        device: Device,
        threads: HandshakeThreads | None,
        *,
        clock: BootClock,
        carry_out: Callable[[Iterable[protocol.Outcome]], None],
        failed: Callable[[], None],
    ) -> None:
        self._device = device
        self._threads = threads
        self._clock = clock
        self._carry_out = carry_out
        self._failed = failed

    def show_identity(self) -> None:
        """The threads open initiations with the device's key."""
        if self._threads is not None:
            self._threads.show(self._device.identity)

    def receive(self, event: Event, now: int, wall: int) -> Iterable[protocol.Outcome]:
        """The outcomes of a message."""
        if event.source is None:
            raise ValueError("a handshake event without a source address")
        route = Route(event.source, event.local, event.interface_index)
        return self._device.receive(
            event.message,
            protocol.Source(event.source.ip, event.source.port, route),
            event.peer,
            under_load=event.under_load,
            now=now,
            wall=wall,
            opened=None if self._threads is None else self._threads.opened(event),
        )

    def compute(self, outcome: protocol.Compute) -> None:
        """Has it computed, and goes on later, or at once where the threads have too much to do."""
        if self._threads is None or not self._threads.submit(outcome.job, outcome.then):
            self._carry_out(outcome.then(self._clock.boot(), self._clock.wall()))

    def go_on(self) -> int:
        """Carries out what follows from finished computations. How many there were."""
        finished = [] if self._threads is None else self._threads.take()
        for then in finished:
            try:
                self._carry_out(then(self._clock.boot(), self._clock.wall()))
            except Exception:
                self._failed()
        return len(finished)
