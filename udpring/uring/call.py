"""One operation of a reactor, and who gets its completions."""

from __future__ import annotations

import errno
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING

from udpring.errors import ClosedError
from udpring.uring.completion import Completion
from udpring.uring.loops import Gate

if TYPE_CHECKING:
    from udpring.uring.reactor import Reactor

__all__ = ["STOPPED", "Call", "Payload", "guarded"]

Payload = bytes | bytearray | memoryview

STOPPED = (-errno.ECANCELED, -errno.EINTR)
"""Results of an operation that was stopped: not started, or interrupted."""


def guarded(call: Callable[[Completion], object], completion: Completion) -> None:
    """Calls the program's code. Its error is reported and does not stop the other operations."""
    try:
        call(completion)
    except Exception as error:
        report = types.SimpleNamespace(
            exc_type=type(error),
            exc_value=error,
            exc_traceback=error.__traceback__,
            err_msg=None,
            object=call,
        )
        sys.unraisablehook(report)


class Call:
    """One operation of a reactor, from queueing to its last completion."""

    __slots__ = (
        "_reactor",
        "cancelled",
        "completion",
        "deadline",
        "discard",
        "gate",
        "held",
        "many",
        "orphan",
        "then",
        "ticket",
    )

    def __init__(
        self,
        reactor: Reactor,
        then: Callable[[Completion], object] | None,
        discard: Callable[[Completion], object] | None,
        many: bool,
    ) -> None:
        self._reactor = reactor
        self.then = then
        self.discard = discard
        self.many = many
        self.ticket = 0
        self.deadline = 0  # the ticket of its linked time-out. 0: none, or over
        self.completion: Completion | None = None  # the last one
        self.held: Completion | None = None  # waits for a notification, or for the outcome of the time-out
        self.gate: Gate | None = None
        self.cancelled = False
        self.orphan = False

    @property
    def done(self) -> bool:
        """Whether the last completion came."""
        return self.completion is not None

    def cancel(self) -> None:
        """Asks the kernel to end the operation. Its last completion still comes. A second call does
        nothing."""
        self._reactor.cancel(self)

    def outcome(self) -> Completion:
        """The last completion. Raises TimeoutError if the deadline ended the operation, ClosedError if the
        reactor's close did."""
        completion = self.completion
        assert completion is not None
        if completion.result in STOPPED and not self.cancelled:
            if self.deadline < 0:
                raise TimeoutError(errno.ETIMEDOUT, "the operation did not end before its deadline")
            if self._reactor.closed:
                raise ClosedError("the reactor was closed before the operation ended")
        return completion

    # -- called by the reactor --

    def take(self, completion: Completion) -> None:
        """One completion of the operation."""
        if completion.more:
            if self.many:
                self._tell(completion)
            else:
                self.held = completion  # a zero-copy send: its notification ends it
            return
        if self.held is not None and not self.many:
            completion = self.held
        elif completion.result in STOPPED and self.deadline > 0:
            self.held = completion  # the time-out's own completion says whether it caused this
            return
        self.finish(completion)

    def expire(self, result: int) -> None:
        """The completion of the linked time-out."""
        self.deadline = -1 if result == -errno.ETIME else 0
        held = self.held
        if held is not None and not held.more:  # a zero-copy send waits for its notification
            self.held = None
            self.finish(held)

    def finish(self, completion: Completion) -> None:
        """The last completion."""
        self.completion = completion
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.open()
        self._tell(completion)

    def _tell(self, completion: Completion) -> None:
        if self.then is not None:
            guarded(self.then, completion)
        elif self.orphan:
            self.drop(completion)

    def drop(self, completion: Completion) -> None:
        """Gives a completion that nobody takes to ``discard``."""
        if self.discard is not None:
            guarded(self.discard, completion)

    def abandon(self) -> None:
        """Nobody waits any more. Any thread may call it: the collector closes coroutines anywhere."""
        self.orphan = True
        self.gate = None
        if self.completion is not None:
            self.drop(self.completion)
        else:
            self._reactor.cancel_from_any_thread(self)
