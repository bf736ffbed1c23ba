"""Why a start failed, as one line with a cure.

Limits, sandboxes and full disks may refuse any call: in the core, in asyncio, in an import. ``explained``
turns the exception into a HostError. ``run_loop`` first tries the resources that asyncio needs, because a
failure inside asyncio would leave a half-made loop and a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from udpring.errors import HostError, RingError

__all__ = [
    "DESCRIPTORS",
    "ROOTLESS_DESCRIPTORS",
    "SHORTAGES",
    "cure_of",
    "explained",
    "raise_descriptor_limit",
    "require_descriptors",
    "run_loop",
]

T = TypeVar("T")

DESCRIPTORS = 32
"""Free descriptors that a node with one worker needs: it takes up to 29 to start and keeps 20, and clients
need more."""
ROOTLESS_DESCRIPTORS = 40
"""The same for a rootless node, which keeps 32 if it is confined. Programs and look-ups inside need more."""

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSYS})
"""Errors of the host, for any call."""

_FILES = "raise the limit: ulimit -n 1024, or LimitNOFILE= of the unit"
_MEMORY = "free memory, or raise the limits: ulimit -v, ulimit -l, the cgroup's memory.max"
_CURES = {
    errno.EMFILE: _FILES,
    errno.ENFILE: "raise the host's limit: sysctl -w fs.file-max=N",
    errno.ENOMEM: _MEMORY,
    errno.ENOBUFS: _MEMORY,
    errno.EAGAIN: "raise a limit: of processes, ulimit -u or pids.max; of memory, ulimit -v",
    errno.EPERM: "run it as root, or allow the call in the sandbox: seccomp, AppArmor, SELinux",
    errno.EACCES: "run it as root, or allow it in the sandbox: AppArmor, SELinux",
    errno.ENOSYS: "allow the call in the sandbox, its seccomp filter, or use another kernel",
    errno.EAFNOSUPPORT: "allow the address family, RestrictAddressFamilies= of the unit, or load its module",
    errno.ENOSPC: "free space or inodes there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.EROFS: "mount a writable filesystem there: mount -t tmpfs tmpfs DIRECTORY",
    errno.EADDRINUSE: "choose another ListenPort, or stop the program that has this one: ss -lnup",
    errno.EADDRNOTAVAIL: "choose an address that this host has: ip address show",
    errno.ENOTSUP: "install OpenSSL 3 with its default provider: see udpring doctor",
}


def cure_of(number: int) -> str:
    """The cure for a call that failed with this errno."""
    return _CURES.get(number, "see: udpring doctor")


def explained(failed: BaseException) -> HostError | None:
    """A HostError with a cure, if the host refused. None: ``failed`` is a fault of the program."""
    if isinstance(failed, HostError):
        return failed
    if isinstance(failed, MemoryError):
        return HostError("out of memory", errno=errno.ENOMEM, cure=_MEMORY)
    if isinstance(failed, ImportError):
        return _of_import(failed)
    if isinstance(failed, RuntimeError) and "thread" in str(failed):
        return HostError(
            f"a thread cannot be started: {failed}", errno=errno.EAGAIN, cure=cure_of(errno.EAGAIN)
        )
    if not isinstance(failed, OSError):
        return None
    number = failed.errno or 0
    text = str(failed) if isinstance(failed, RingError) else failed.strerror or str(failed)
    if failed.filename is not None:
        text = f"{os.fsdecode(failed.filename)}: {text}"
    return HostError(text, errno=number, cure=cure_of(number))


def _of_import(failed: ImportError) -> HostError:
    """For a library that cannot be loaded. The loader gives a text but no errno."""
    text = " ".join(str(failed).split())
    cure = "install it again: pip install ."
    for number, words in (
        (errno.EMFILE, (os.strerror(errno.EMFILE), "Error 24")),
        (errno.ENOMEM, (os.strerror(errno.ENOMEM), "map segment", "Error 12")),
    ):
        if any(word in text for word in words):
            cure = cure_of(number)
    return HostError(f"a library cannot be loaded: {text}", cure=cure)


def require_descriptors(needed: int = DESCRIPTORS) -> None:
    """Raises HostError if this process may not open that many more files."""
    held: list[int] = []
    try:
        held += os.pipe()
        while len(held) < needed:
            held.append(os.dup(held[0]))
    except OSError as refused:
        if refused.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise HostError(
            f"this process can open only {len(held)} more files, and a node needs {needed}",
            errno=refused.errno,
            cure=cure_of(refused.errno),
        ) from None
    finally:
        for number in held:
            os.close(number)


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open files (RLIMIT_NOFILE) to the hard one, which takes no right. Returns the
    limit."""
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may deny it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def run_loop(work: Callable[[], Coroutine[Any, Any, T]], descriptors: int = DESCRIPTORS) -> T:
    """``asyncio.run(work())``. Raises HostError if the host refuses something that an event loop needs."""
    import asyncio  # noqa: PLC0415 - after the fork, so that the parent is small
    import select  # noqa: PLC0415
    import socket  # noqa: PLC0415

    require_descriptors(descriptors)
    what = "a pair of UNIX sockets (socketpair)"
    try:
        one, other = socket.socketpair()
        with one, other:
            what = "epoll (epoll_create1)"
            with select.epoll() as poller:
                what = "epoll (epoll_ctl)"
                poller.register(one, select.EPOLLIN)
                what = "epoll (epoll_wait)"
                poller.poll(0)
    except OSError as refused:
        number = refused.errno or 0
        text = f"the event loop needs {what}: {refused.strerror}"
        raise HostError(text, errno=number, cure=cure_of(number)) from None
    with asyncio.Runner() as runner:
        return runner.run(work())
