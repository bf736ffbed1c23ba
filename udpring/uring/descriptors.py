"""Closing a descriptor by the ring, whatever happens to the task that closes it."""

from __future__ import annotations

import os

from udpring.uring.call import STOPPED
from udpring.uring.completion import Completion
from udpring.uring.reactor import Reactor

__all__ = ["close_descriptor", "close_soon"]


def close_soon(reactor: Reactor, fd: int) -> None:
    """Closes ``fd`` in the reactor's next turn, or at once if the reactor is closed."""
    if reactor.closed:
        os.close(fd)
    else:
        reactor.start("close_file", fd, then=lambda completion: _close_if_stopped(fd, completion))


async def close_descriptor(reactor: Reactor, fd: int) -> None:
    """Closes ``fd`` and waits for it. Raises OSError with a late error of a file system."""
    if reactor.closed:
        os.close(fd)
        return
    completion = await reactor.do("close_file", fd, then=lambda completion: _close_if_stopped(fd, completion))
    if completion.result not in STOPPED:
        completion.check()


def _close_if_stopped(fd: int, completion: Completion) -> None:
    """A cancelled task or a closing reactor stops the operation too. The descriptor must be closed still."""
    if completion.result in STOPPED:
        os.close(fd)
