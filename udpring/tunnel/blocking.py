"""Runs blocking calls (name resolution, ``ip``), each in a thread of its own.

The event loop's executor will not do: its threads stay, and its shutdown waits for a name server that does
not answer. A new thread inherits the network namespace of the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

from udpring.errors import HostError
from udpring.tunnel.refusals import cure_of

__all__ = ["run_blocking"]

T = TypeVar("T")


async def run_blocking(work: Callable[[], T], *, name: str, abandon: bool = False) -> T:
    """Runs ``work()`` in a thread. Returns its result or raises its exception.

    A cancelled call waits for the end of the work, so that nothing is left half done. With ``abandon`` it
    does not wait, and the result is lost.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: BaseException | None) -> None:
        if done.cancelled():
            return
        if failure is not None:
            done.set_exception(failure)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            failure = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as refused:
        cure = cure_of(errno.EAGAIN)
        raise HostError(f"no thread for {name}: {refused}", errno=errno.EAGAIN, cure=cure) from None
    if abandon:
        return await done
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait({done})
        raise
