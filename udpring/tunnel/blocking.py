"""Calls that block (name resolution, ``ip``), each in a thread of its own that ends with it.

Not the event loop's executor: its threads stay, and its shutdown waits for a name server that does not
answer. A new thread inherits the network namespace of the caller's.
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
    """Runs ``work()`` in a thread and returns what it returns, or raises what it raises.

    When cancelled it waits for the end of the work first, so that nothing is half done behind the caller's
    back; with ``abandon`` it does not, and the result is thrown away.
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
