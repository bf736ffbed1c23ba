"""Files of the awaitable ring, with the names of ``io`` and ``aiofiles``."""

from __future__ import annotations

import codecs
import errno
import io
import os
import stat
import types
import warnings
from collections.abc import AsyncIterator, Generator, Iterable
from typing import Any, Generic, Literal, Self, TypeVar, overload

from udpring.errors import ClosedError
from udpring.uring.call import Payload
from udpring.uring.completion import Completion
from udpring.uring.descriptors import close_descriptor
from udpring.uring.reactor import Reactor
from udpring.uring.results import Stat
from udpring.uring.text_files import TextFile

__all__ = ["File", "Opening", "open_file"]

PIECE = 1 << 20
"""Bytes that one operation reads at most when the length is not known."""
LINE_PIECE = 1 << 16
"""Bytes that are read ahead to find the end of a line."""

_ACCESS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}

FilePath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
BinaryMode = Literal["rb", "wb", "xb", "ab", "r+b", "w+b", "x+b", "a+b", "rb+", "wb+", "xb+", "ab+"]
TextMode = Literal[
    "r", "w", "x", "a", "rt", "wt", "xt", "at",
    "r+", "w+", "x+", "a+", "r+t", "w+t", "x+t", "a+t", "rt+", "wt+", "xt+", "at+",
]  # fmt: skip
_NEWLINES = (None, "", "\n", "\r", "\r\n")

Opened = TypeVar("Opened", bound="File | TextFile")


def open_flags(mode: str) -> int:
    """The flags of open(2) for a mode of ``open``. Raises ValueError for any other."""
    kind = mode.replace("b" if "b" in mode else "t", "", 1).replace("+", "", 1)
    if kind not in _ACCESS:
        raise ValueError(f"mode {mode!r}: r, w, x or a, then b for bytes, and + to read and write")
    flags = _ACCESS[kind]
    return flags & ~os.O_ACCMODE | os.O_RDWR if "+" in mode else flags


def _check_text(
    mode: str, direct: bool, encoding: str | None, errors: str | None, newline: str | None
) -> None:
    """Before the file is opened, and perhaps truncated."""
    if "b" in mode:
        if (encoding, errors, newline) != (None, None, None):
            raise ValueError(f"mode {mode!r}: encoding, errors and newline are for text")
        return
    if direct:
        raise ValueError(
            f"mode {mode!r}: direct needs bytes, as the lengths of texts are not those of blocks"
        )
    if newline not in _NEWLINES:
        raise ValueError(f"newline {newline!r}: None, '', '\\n', '\\r' or '\\r\\n'")
    codecs.lookup(encoding or "utf-8")
    codecs.lookup_error(errors or "strict")


class Opening(Generic[Opened]):
    """What ``open_file`` returns: ``await`` it, or enter it with ``async with``."""

    def __init__(
        self,
        path: FilePath,
        mode: str,
        direct: bool,
        permissions: int,
        text: tuple[str | None, str | None, str | None],
        reactor: Reactor,
    ) -> None:
        self._path, self._mode, self._direct = path, mode, direct
        self._flags = open_flags(mode) | (os.O_DIRECT if direct else 0)
        _check_text(mode, direct, *text)
        self._permissions = permissions
        self._text = text
        self._reactor = reactor
        self._file: Any = None

    def __await__(self) -> Generator[Any, Any, Opened]:
        return self._open().__await__()

    async def _open(self) -> Opened:
        opened = await self._reactor.do("openat2", self._path, self._flags, mode=self._permissions)
        if opened.result < 0:
            raise OSError(-opened.result, os.strerror(-opened.result), os.fsdecode(self._path))
        file = File(self._reactor, opened.result, self._path, self._mode, direct=self._direct)
        found: Any = file if "b" in self._mode else TextFile(file, *self._text)
        return found  # type: ignore[no-any-return]

    async def __aenter__(self) -> Opened:
        self._file = file = await self
        return file

    async def __aexit__(self, *exception: object) -> None:
        await self._file.close()


@overload
def open_file(
    path: FilePath,
    mode: BinaryMode = "rb",
    *,
    direct: bool = False,
    permissions: int = 0o666,
    reactor: Reactor | None = None,
) -> Opening[File]: ...
@overload
def open_file(
    path: FilePath,
    mode: TextMode,
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    permissions: int = 0o666,
    reactor: Reactor | None = None,
) -> Opening[TextFile]: ...
@overload
def open_file(
    path: FilePath,
    mode: str,
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    direct: bool = False,
    permissions: int = 0o666,
    reactor: Reactor | None = None,
) -> Opening[Any]: ...
def open_file(
    path: FilePath,
    mode: str = "rb",
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    direct: bool = False,
    permissions: int = 0o666,
    reactor: Reactor | None = None,
) -> Opening[Any]:
    """Opens a file: ``async with open_file(path) as file:``, or ``file = await open_file(path)``.

    ``mode``: as for ``open``: with "b" it is a ``File`` of bytes, else a ``TextFile``. By default bytes.
    ``encoding``, ``errors``, ``newline``: of text, as for ``open``. ``direct``: O_DIRECT of open(2), for
    bytes. Offsets and lengths must then be multiples of the block size. ``permissions`` of a file that is
    created. ``reactor``: by default the one that the current task is inside of.

    Raises ValueError for a bad mode, LookupError for an unknown encoding, RuntimeError without a reactor,
    OSError when it is awaited.
    """
    text = (encoding, errors, newline)
    return Opening(path, mode, direct, permissions, text, reactor or Reactor.current())


class File:
    """An open file. One task at a time may use its position. ``pread`` and ``pwrite`` have no such limit.

    Every method raises OSError with the error of the operation, ClosedError after ``close``.
    """

    def __init__(self, reactor: Reactor, fd: int, name: FilePath, mode: str, *, direct: bool = False) -> None:
        self._reactor, self._fd = reactor, fd
        self.name = name
        self.mode = mode
        self._direct = direct
        # Bytes that were read, and how many of them were taken. The position is behind all of them.
        self._ahead, self._at = b"", 0
        kind = os.fstat(fd).st_mode
        self._seekable = stat.S_ISREG(kind) or stat.S_ISBLK(kind)
        self._position = 0
        if self._seekable and "a" in mode:
            self._position = os.lseek(fd, 0, os.SEEK_END)

    # -- life --

    @property
    def closed(self) -> bool:
        """Whether the file was closed."""
        return self._fd < 0

    def fileno(self) -> int:
        """The descriptor."""
        if self._fd < 0:
            raise ClosedError(f"the file {os.fsdecode(self.name)!r} is closed")
        return self._fd

    async def close(self) -> None:
        """Closes the descriptor. A second close does nothing."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._ahead, self._at = b"", 0
        await close_descriptor(self._reactor, fd)

    async def __aenter__(self) -> Self:
        self.fileno()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {os.fsdecode(self.name)!r} {self.mode}{' closed' * self.closed}>"

    # -- at an offset --

    async def pread(self, length: int, offset: int) -> bytes:
        """Up to ``length`` bytes at ``offset``. Less at the end of the file."""
        return (await self._checked("read", length, offset=offset)).data

    async def preadinto(self, buffer: Any, offset: int) -> int:
        """Reads into ``buffer`` at ``offset``. Returns the number of bytes."""
        return (await self._checked("readinto", buffer, offset=offset)).result

    async def pwrite(self, payload: Payload, offset: int) -> int:
        """Writes all of ``payload`` at ``offset``. Returns its length."""
        view = memoryview(payload).cast("B")
        done = 0
        while done < len(view):
            piece = (
                view[done:] if done or self._direct else payload
            )  # of a view the ring makes an aligned copy
            done += (await self._checked("write", piece, offset=offset + done)).result
        return done

    async def _checked(self, name: str, *arguments: Any, **options: Any) -> Completion:
        completion = await self._reactor.do(name, self.fileno(), *arguments, **options)
        if completion.result < 0:
            raise OSError(-completion.result, os.strerror(-completion.result), os.fsdecode(self.name))
        return completion

    # -- at the position --

    @property
    def _offset(self) -> int | None:
        return self._position if self._seekable else None

    async def read(self, length: int = -1) -> bytes:
        """Up to ``length`` bytes. A negative ``length``: all up to the end of the file."""
        if length < 0:
            return await self.readall()
        if self._unread:
            return self._take_ahead(length)
        data = (await self._fetch(length)).data
        self._position += len(data)
        return data

    read1 = read

    async def readall(self) -> bytes:
        """All bytes up to the end of the file."""
        pieces = [self._take_ahead(self._unread)]
        while True:
            left, wanted = -1, LINE_PIECE
            if self._seekable:
                left = os.fstat(self.fileno()).st_size - self._position
                # One byte more than the file has: a shorter result is the end of the file.
                wanted = left + 1 if 0 <= left <= PIECE and not self._direct else PIECE
            data = (await self._fetch(wanted)).data
            self._position += len(data)
            pieces.append(data)
            if not data or len(data) == left < wanted:
                return b"".join(pieces)

    async def readinto(self, buffer: Any) -> int:
        """Reads into ``buffer``. Returns the number of bytes, 0 at the end of the file."""
        if self._unread:
            view = memoryview(buffer).cast("B")
            data = self._take_ahead(len(view))
            view[: len(data)] = data
            return len(data)
        count = (await self._checked("readinto", buffer, offset=self._offset)).result
        self._position += count
        return count

    async def readline(self, length: int = -1) -> bytes:
        """One line with its end, or up to ``length`` bytes of it. Empty at the end of the file."""
        searched = 0
        while True:
            end = self._ahead.find(b"\n", self._at + searched) + 1 - self._at
            if 0 <= length <= self._unread and not 0 < end <= length:
                return self._take_ahead(length)
            if end > 0:
                return self._take_ahead(end)
            searched = self._unread
            data = (await self._fetch(LINE_PIECE)).data
            self._position += len(data)
            self._ahead, self._at = self._ahead[self._at :] + data, 0
            if not data:
                return self._take_ahead(self._unread)

    async def readlines(self) -> list[bytes]:
        """All lines up to the end of the file."""
        return [line async for line in self]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def write(self, payload: Payload) -> int:
        """Writes all of ``payload``. Returns its length.

        A cancelled write may have written a part. The position is behind that part.
        """
        self._forget_ahead()
        view = memoryview(payload).cast("B")
        done = 0
        while done < len(view):
            piece = (
                view[done:] if done or self._direct else payload
            )  # of a view the ring makes an aligned copy
            count = (await self._checked("write", piece, offset=self._offset, discard=self._written)).result
            self._position += count
            done += count
        return done

    async def writelines(self, lines: Iterable[Payload]) -> None:
        """Writes each of ``lines``, without adding ends of lines."""
        await self.write(b"".join(bytes(line) for line in lines))

    def _written(self, completion: Completion) -> None:
        self._position += max(0, completion.result)

    async def _fetch(self, length: int) -> Completion:
        """Reads at the position, without moving it. Bytes of a pipe that a cancelled task left are kept."""
        keep = None if self._seekable else self._keep
        return await self._checked("read", length, offset=self._offset, discard=keep)

    def _keep(self, completion: Completion) -> None:
        self._ahead += completion.data
        self._position += len(completion.data)

    @property
    def _unread(self) -> int:
        return len(self._ahead) - self._at

    def _take_ahead(self, length: int) -> bytes:
        data = self._ahead[self._at : self._at + length]
        self._at += len(data)
        if self._at == len(self._ahead):
            self._ahead, self._at = b"", 0
        return data

    def _forget_ahead(self) -> None:
        self._position -= self._unread
        self._ahead, self._at = b"", 0

    async def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position, as ``io.IOBase.seek``. Returns it."""
        if not self._seekable:
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE), os.fsdecode(self.name))
        if whence == io.SEEK_CUR:
            offset += await self.tell()
        elif whence == io.SEEK_END:
            offset += os.lseek(self.fileno(), 0, os.SEEK_END)
        elif whence != io.SEEK_SET:
            raise ValueError(f"whence {whence}: SEEK_SET, SEEK_CUR or SEEK_END")
        if offset < 0:
            raise ValueError(f"a position of {offset}: at least 0")
        self._ahead, self._at = b"", 0
        self._position = offset
        return offset

    async def tell(self) -> int:
        """The position."""
        self.fileno()
        return self._position - self._unread

    # -- the file as a whole --

    async def truncate(self, length: int | None = None) -> int:
        """Changes the length of the file, by default to the position. Returns it."""
        length = await self.tell() if length is None else length
        if self._seekable:
            self._forget_ahead()  # it may have been cut off
        await self._checked("ftruncate", length)
        return length

    async def flush(self) -> None:
        """Nothing is buffered here, so it does nothing. ``fsync`` makes data durable."""
        self.fileno()

    async def fsync(self) -> None:
        """Writes data and metadata to the device."""
        await self._checked("fsync")

    async def fdatasync(self) -> None:
        """Writes data to the device, and the metadata needed to read it."""
        await self._checked("fdatasync")

    async def stat(self) -> Stat:
        """The state of the file (statx(2))."""
        return (await self._reactor.do("statx", file=self.fileno())).stat

    async def readable(self) -> bool:
        """Whether ``mode`` allows reading."""
        self.fileno()
        return "r" in self.mode or "+" in self.mode

    async def writable(self) -> bool:
        """Whether ``mode`` allows writing."""
        self.fileno()
        return "r" not in self.mode or "+" in self.mode

    async def seekable(self) -> bool:
        """Whether it has a position: a regular file or a block device."""
        self.fileno()
        return self._seekable

    async def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.fileno())
