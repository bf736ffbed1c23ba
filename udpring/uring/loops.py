"""The event loop that a reactor runs in: asyncio, uvloop or trio, and anyio on either.

A loop class offers the little that the reactor needs. trio is used only if the program has loaded it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

__all__ = ["AsyncioLoop", "Gate", "Loop", "TrioLoop", "running_loop"]


class Gate(Protocol):
    """An event for one waiting task."""

    def open(self) -> None:
        """Lets the task go on. A second call does nothing."""
        ...

    def wait(self) -> Awaitable[object]:
        """Waits until the gate is open. Call it once."""
        ...


class Loop(Protocol):
    """An event loop, as the reactor uses it. Other threads may call ``soon_from_any_thread`` alone."""

    cancelled: type[BaseException]
    """The exception that cancels a task."""

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Calls ``ready`` whenever ``fd`` is readable, until ``unwatch``."""
        ...

    def unwatch(self, fd: int) -> None:
        """Ends ``watch``."""
        ...

    def soon(self, call: Callable[[], None]) -> None:
        """Calls ``call`` when the tasks that can run now have run."""
        ...

    def soon_from_any_thread(self, call: Callable[[], None]) -> None:
        """The same, from any thread."""
        ...

    def gate(self) -> Gate:
        """A closed gate."""
        ...

    async def insist(self, fresh_gate: Callable[[], Gate | None]) -> None:
        """Waits for one gate after the other until ``fresh_gate`` returns None. Cancellation is put off."""
        ...

    async def turn(self) -> None:
        """Lets the loop run one turn."""
        ...

    def same(self, other: Loop) -> bool:
        """Whether both stand for one loop."""
        ...


class AsyncioGate:
    """A gate of asyncio and uvloop: a future."""

    __slots__ = ("_future",)

    def __init__(self, future: Any) -> None:
        self._future = future

    def open(self) -> None:
        """Resolves the future. It may be cancelled, or its loop closed."""
        if not self._future.done():
            with contextlib.suppress(RuntimeError):
                self._future.set_result(None)

    def wait(self) -> Awaitable[object]:
        """The future."""
        future: Awaitable[object] = self._future
        return future


class AsyncioLoop:
    """asyncio or uvloop."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.cancelled: type[BaseException] = importlib.import_module("asyncio").CancelledError

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """``add_reader``."""
        self.loop.add_reader(fd, ready)

    def unwatch(self, fd: int) -> None:
        """``remove_reader``."""
        if not self.loop.is_closed():
            self.loop.remove_reader(fd)

    def soon(self, call: Callable[[], None]) -> None:
        """``call_soon``: after the callbacks that are ready now."""
        self.loop.call_soon(call)

    def soon_from_any_thread(self, call: Callable[[], None]) -> None:
        """``call_soon_threadsafe``. A closed loop ignores it."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call)

    def gate(self) -> Gate:
        """A gate on a future of the loop."""
        return AsyncioGate(self.loop.create_future())

    async def insist(self, fresh_gate: Callable[[], Gate | None]) -> None:
        """The caller raises CancelledError afterwards, so further cancellations need not be kept."""
        while (gate := fresh_gate()) is not None:
            with contextlib.suppress(self.cancelled):
                await gate.wait()

    async def turn(self) -> None:
        """``asyncio.sleep(0)``."""
        await importlib.import_module("asyncio").sleep(0)

    def same(self, other: Loop) -> bool:
        """Whether both stand for one loop."""
        return isinstance(other, AsyncioLoop) and other.loop is self.loop


class TrioGate:
    """A gate of trio: an event."""

    __slots__ = ("_event",)

    def __init__(self, event: Any) -> None:
        self._event = event

    def open(self) -> None:
        """Sets the event."""
        self._event.set()

    def wait(self) -> Awaitable[object]:
        """Waits for the event."""
        waiting: Awaitable[object] = self._event.wait()
        return waiting


class TrioLoop:
    """trio. A system task watches the descriptor."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._watches: dict[int, Any] = {}
        self.cancelled: type[BaseException] = trio.Cancelled

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Spawns a system task."""
        scope = self._trio.CancelScope()
        self._watches[fd] = scope

        async def watching() -> None:
            with scope, contextlib.suppress(self._trio.ClosedResourceError):
                while not scope.cancel_called:  # afterwards the number may be another file's
                    await self._trio.lowlevel.wait_readable(fd)
                    ready()

        self._trio.lowlevel.spawn_system_task(watching, name="udpring reactor")

    def unwatch(self, fd: int) -> None:
        """Cancels the system task, and ends its wait before the descriptor is closed."""
        scope = self._watches.pop(fd)
        with contextlib.suppress(RuntimeError):  # trio has ended
            scope.cancel()
            self._trio.lowlevel.notify_closing(fd)

    def soon(self, call: Callable[[], None]) -> None:
        """``run_sync_soon``. trio runs it after the tasks of this turn."""
        self.soon_from_any_thread(call)

    def soon_from_any_thread(self, call: Callable[[], None]) -> None:
        """``run_sync_soon``. A trio that has ended ignores it."""
        with contextlib.suppress(self._trio.RunFinishedError):
            self._token.run_sync_soon(call)

    def gate(self) -> Gate:
        """A gate on an event."""
        return TrioGate(self._trio.Event())

    async def insist(self, fresh_gate: Callable[[], Gate | None]) -> None:
        """Waits under a shield."""
        with self._trio.CancelScope(shield=True):
            while (gate := fresh_gate()) is not None:
                await gate.wait()

    async def turn(self) -> None:
        """A checkpoint."""
        await self._trio.lowlevel.checkpoint()

    def same(self, other: Loop) -> bool:
        """Whether both stand for one run of trio."""
        return isinstance(other, TrioLoop) and other._token is self._token


def running_loop() -> Loop:
    """The loop of the current task. Raises RuntimeError if none runs in this thread."""
    trio = sys.modules.get("trio")
    low = getattr(trio, "lowlevel", None)  # another thread may be importing it
    if low is not None:
        with contextlib.suppress(RuntimeError):
            low.current_task()
            return TrioLoop(trio)
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        with contextlib.suppress(RuntimeError):
            return AsyncioLoop(asyncio.get_running_loop())
    raise RuntimeError("no event loop runs in this thread: open a reactor in a task of asyncio or trio")
