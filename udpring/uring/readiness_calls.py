"""Operations on files and pipes as system calls, each with the arguments and the result of ``Operations``."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import stat
from collections.abc import Callable
from typing import Any

from udpring.errors import RingError
from udpring.uring.call import Payload
from udpring.uring.completion import Completion
from udpring.uring.operations import File, Flag, descriptor
from udpring.uring.results import encode_statx

__all__ = ["ReadinessCalls"]


def _blocks_in_threads(fd: int) -> bool:
    """Whether reading waits for a disk instead of a peer. Such a descriptor has no readiness."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False  # the attempt reports it
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)


def _memory(fd: int, length: int) -> Any:
    """Writable memory for ``length`` bytes, aligned to pages if the file was opened with O_DIRECT."""
    if length and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
        return mmap.mmap(-1, length)
    return bytearray(length)


class ReadinessCalls:
    """Operations of ``ReadinessRing``. Every method raises RingError, ClosedError and WrongThreadError, as
    ``Operations`` does."""

    def _on_readiness(
        self, fd: int, events: int, attempt: Callable[[], Completion], flags: Flag, *, multishot: bool = False
    ) -> int:
        raise AssertionError("the ring waits")  # pragma: no cover

    def _on_thread(self, call: Callable[[], Completion], flags: Flag) -> int:
        raise AssertionError("the ring has threads")  # pragma: no cover

    def nop(self, *, result: int | None = None, flags: Flag = Flag.NONE) -> int:
        """Does nothing. ``result`` becomes its result."""
        return self._on_readiness(-1, 0, lambda: Completion(0, result or 0, 0), flags)

    def poll_add(
        self, file: File, events: int = select.POLLIN, *, multishot: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Ends with the events that are ready."""
        if multishot:
            raise RingError("a multishot poll needs io_uring", errno=errno.EOPNOTSUPP)
        fd = descriptor(file)

        def attempt() -> Completion:
            poll = select.poll()
            poll.register(fd, events)
            found = poll.poll(0)
            if not found:
                raise BlockingIOError
            if found[0][1] & select.POLLNVAL:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return Completion(0, found[0][1], 0)

        return self._on_readiness(fd, events, attempt, flags)

    # -- bytes --

    def read(
        self,
        file: File,
        length: int,
        *,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Reads up to ``length`` bytes at the current position, or at ``offset``."""
        fd = descriptor(file)
        at = -1 if offset is None else offset

        def attempt(how: int) -> Completion:
            memory = _memory(fd, length)
            count = os.preadv(fd, [memory], at, how | rw_flags)
            return Completion(0, count, 0, bytes(memory[:count]))

        return self._transfer(fd, select.POLLIN, attempt, flags)

    def readinto(
        self,
        file: File,
        buffer: Any,
        *,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Reads into ``buffer``."""
        fd, view = descriptor(file), memoryview(buffer).cast("B")
        at = -1 if offset is None else offset

        def attempt(how: int) -> Completion:
            return Completion(0, os.preadv(fd, [view], at, how | rw_flags), 0)

        return self._transfer(fd, select.POLLIN, attempt, flags)

    def write(
        self,
        file: File,
        payload: Payload,
        *,
        offset: int | None = None,
        copy: bool = True,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Writes ``payload``, or a copy of it."""
        fd = descriptor(file)
        at = -1 if offset is None else offset
        data = bytes(payload) if copy else payload

        def attempt(how: int) -> Completion:
            memory: Any = data
            if copy and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT and data:
                memory = mmap.mmap(-1, len(data))
                memory[:] = data
            return Completion(0, os.pwritev(fd, [memory], at, how | rw_flags), 0)

        return self._transfer(fd, select.POLLOUT, attempt, flags)

    def _transfer(self, fd: int, events: int, attempt: Callable[[int], Completion], flags: Flag) -> int:
        if _blocks_in_threads(fd):
            return self._on_thread(lambda: attempt(0), flags)

        def now() -> Completion:
            try:
                return attempt(os.RWF_NOWAIT)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
            os.set_blocking(fd, False)
            return attempt(0)

        return self._on_readiness(fd, events, now, flags)

    def splice(
        self,
        source: File,
        target: File,
        length: int,
        *,
        source_offset: int | None = None,
        target_offset: int | None = None,
        splice_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Moves data between a pipe and a file."""
        from_fd, to_fd = descriptor(source), descriptor(target)

        def move(how: int) -> Completion:
            count = os.splice(from_fd, to_fd, length, source_offset, target_offset, splice_flags | how)
            return Completion(0, count, 0)

        if _blocks_in_threads(from_fd) or _blocks_in_threads(to_fd):
            return self._on_thread(lambda: move(0), flags)
        os.set_blocking(to_fd, False)
        return self._on_readiness(to_fd, select.POLLOUT, lambda: move(os.SPLICE_F_NONBLOCK), flags)

    # -- files --

    def _plain(self, call: Callable[[], int | None], flags: Flag) -> int:
        return self._on_thread(lambda: Completion(0, call() or 0, 0), flags)

    def openat2(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        open_flags: int = os.O_RDONLY,
        *,
        mode: int = 0o666,
        dir_fd: File | None = None,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Opens a file. The result is its descriptor."""
        folder = None if dir_fd is None else descriptor(dir_fd)
        return self._plain(lambda: os.open(path, open_flags, mode, dir_fd=folder), flags)

    def close_file(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Closes a descriptor."""
        fd = descriptor(file)
        if _blocks_in_threads(fd):
            return self._plain(lambda: os.close(fd), flags)

        def attempt() -> Completion:
            os.close(fd)
            return Completion(0, 0, 0)

        return self._on_readiness(fd, 0, attempt, flags)

    def statx(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        *,
        file: File | None = None,
        dir_fd: File | None = None,
        follow_symlinks: bool = True,
        flags: Flag = Flag.NONE,
    ) -> int:
        """The state of a path, or of an open ``file``. ``completion.stat`` has it."""
        if (path is None) == (file is None):
            raise ValueError("statx: either a path or file=")
        folder = None if dir_fd is None else descriptor(dir_fd)
        fd = None if file is None else descriptor(file)

        def call() -> Completion:
            if path is None:
                assert fd is not None
                found = os.fstat(fd)
            else:
                found = os.stat(path, dir_fd=folder, follow_symlinks=follow_symlinks)
            return Completion(0, 0, 0, encode_statx(found))

        return self._on_thread(call, flags)

    def fsync(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Writes the file's data and metadata to its device."""
        fd = descriptor(file)
        return self._plain(lambda: os.fsync(fd), flags)

    def fdatasync(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Writes the file's data, and the metadata needed to read it."""
        fd = descriptor(file)
        return self._plain(lambda: os.fdatasync(fd), flags)

    def ftruncate(self, file: File, length: int, *, flags: Flag = Flag.NONE) -> int:
        """Changes the length of a file."""
        fd = descriptor(file)
        return self._plain(lambda: os.ftruncate(fd, length), flags)
