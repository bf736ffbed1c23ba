"""A reactor on its own thread, for programs without an event loop and for the workers of a server."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar

from udpring.errors import ClosedError
from udpring.uring.completion import Completion
from udpring.uring.reactor import Reactor

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["ReactorThread"]

Result = TypeVar("Result")


class ReactorThread:
    """Runs an event loop with a reactor on a new thread. Any thread may call it.

    ``options`` are those of ``Reactor``. Raises HostError if the reactor cannot be opened.
    """

    def __init__(self, *, name: str = "udpring-reactor", **options: Any) -> None:
        self._asyncio = importlib.import_module("asyncio")
        self._options = options
        self._started = importlib.import_module("concurrent.futures").Future()
        self._lock = threading.Lock()
        self._stopped = False
        self._loop: Any = None
        self._stop: Any = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self.reactor: Reactor = self._started.result()
        """The reactor. Use it in coroutines of ``run`` alone."""

    def _main(self) -> None:
        try:
            self._asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = self._asyncio.get_running_loop()
        self._stop = self._asyncio.Event()
        async with Reactor(**self._options) as reactor:
            self._started.set_result(reactor)
            await self._stop.wait()

    def run(self, function: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any) -> Future[Result]:
        """Runs a coroutine function as a task inside the reactor. Cancelling the future cancels the task.

        Raises ClosedError after ``stop``.
        """
        with self._lock:
            if self._stopped:
                raise ClosedError("this reactor's thread was stopped: start a new one")
            started: Future[Result] = self._asyncio.run_coroutine_threadsafe(
                self._inside(function, arguments), self._loop
            )
        return started

    async def _inside(
        self, function: Callable[..., Coroutine[Any, Any, Result]], arguments: tuple[Any, ...]
    ) -> Result:
        with self.reactor.as_current():
            return await function(*arguments)

    def call(self, name: str, *arguments: Any, **options: Any) -> Future[Completion]:
        """One operation, as ``Reactor.do``."""

        async def one() -> Completion:
            return await self.reactor.do(name, *arguments, **options)

        return self.run(one)

    def stop(self) -> None:
        """Closes the reactor, cancels all tasks and waits for the thread. Futures raise ClosedError or
        CancelledError. A second call does nothing."""
        self.stop_soon()
        self._thread.join()

    def stop_soon(self) -> None:
        """The same, without waiting for the thread."""
        with self._lock:
            first, self._stopped = not self._stopped, True
        if first:
            self._loop.call_soon_threadsafe(self._stop.set)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
