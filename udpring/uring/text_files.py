"""Text of files of the awaitable ring, with the methods of ``io.TextIOBase`` and ``aiofiles``."""

from __future__ import annotations

import codecs
import collections
import errno
import io
import locale
import os
import types
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Self

from udpring.uring.results import Stat

if TYPE_CHECKING:
    from udpring.uring.files import File

__all__ = ["TextFile"]

PIECE = 1 << 16
"""Bytes that are read and decoded at once."""
_LOOK = 512
"""Bytes that ``tell`` decodes at once until it is near the position."""
_WORD = 64
"""Bits of a byte position, and of a decoder's flags, in the number that ``tell`` returns."""

State = tuple[bytes, int]


class TextFile:
    """A file whose bytes are decoded and encoded. One task at a time may use it.

    ``encoding``, ``errors`` and ``newline`` mean what they mean to ``open``. Every method raises OSError with
    the error of the operation, ClosedError after ``close``, UnicodeError for text that the encoding lacks,
    unless ``errors`` says otherwise. ``write`` writes at once. Nothing waits for ``flush``.
    """

    def __init__(self, file: File, encoding: str | None, errors: str | None, newline: str | None) -> None:
        self.buffer = file
        """The binary file below."""
        self.encoding = encoding or locale.getpreferredencoding(do_setlocale=False)
        self.errors = errors or "strict"
        self._newline = newline
        self._decoder = self._new_decoder()
        self._encoder = codecs.getincrementalencoder(self.encoding)(self.errors)
        if file._position:
            self._encoder.setstate(0)  # no byte order mark in the middle
        # Decoded text, how much of it was taken, and where it came from: the decoder's state before each
        # piece, the bytes, and how many characters they gave. ``_start`` is where the first piece begins.
        self._text, self._at = "", 0
        self._pieces: collections.deque[tuple[State, bytes, int]] = collections.deque()
        self._start = 0

    def _new_decoder(self) -> Any:
        decoder: Any = codecs.getincrementaldecoder(self.encoding)(self.errors)
        if self._newline:
            return decoder
        return io.IncrementalNewlineDecoder(decoder, translate=self._newline is None)

    # -- reading --

    async def _fill(self) -> bool:
        """Decodes one more piece. False at the end of the file."""
        while self._pieces and self._at >= self._pieces[0][2]:
            _, data, length = self._pieces.popleft()
            self._text, self._at = self._text[length:], self._at - length
            self._start += len(data)
        # A long line is read in growing pieces, so that its text is not copied too often.
        data = await self.buffer.read(max(PIECE, len(self._text)))
        state: State = self._decoder.getstate()
        text = self._decoder.decode(data, not data)
        if not self._pieces:
            self._start = self.buffer._position - self.buffer._unread - len(data)
        self._pieces.append((state, data, len(text)))
        self._text += text
        return bool(data)

    def _take(self, length: int) -> str:
        text = self._text[self._at : self._at + length]
        self._at += len(text)
        return text

    def _forget(self) -> None:
        self._text, self._at = "", 0
        self._pieces.clear()

    async def read(self, length: int | None = -1) -> str:
        """Up to ``length`` characters. A negative ``length`` or None: all up to the end of the file."""
        if length is None or length < 0:
            data = await self.buffer.read()
            text = self._text[self._at :] + str(self._decoder.decode(data, True))
            self._forget()
            return text
        while len(self._text) - self._at < length and await self._fill():
            pass
        return self._take(length)

    def _line_end(self, start: int) -> int:
        """The index behind the next end of a line. 0: there is none."""
        text = self._text
        if self._newline is None:
            return text.find("\n", start) + 1
        if self._newline:
            found = text.find(self._newline, start)
            return 0 if found < 0 else found + len(self._newline)
        line_feed, carriage = text.find("\n", start), text.find("\r", start)
        if carriage < 0 or 0 <= line_feed < carriage:
            return line_feed + 1
        return carriage + 1 + (text[carriage + 1 : carriage + 2] == "\n")

    async def readline(self, length: int = -1) -> str:
        """One line with its end, or up to ``length`` characters of it. Empty at the end of the file."""
        searched = 0
        while True:
            end = self._line_end(self._at + searched)
            unread = len(self._text) - self._at
            if 0 <= length <= unread and not 0 < end <= self._at + length:
                return self._take(length)
            if end:
                return self._take(end - self._at)
            searched = max(0, unread - 1)  # the end of a line may have two characters
            if not await self._fill() and len(self._text) - self._at == unread:
                return self._take(unread)

    async def readlines(self, hint: int | None = -1) -> list[str]:
        """The lines up to the end of the file, or until they have more than ``hint`` characters together."""
        lines, length = [], 0
        async for line in self:
            lines.append(line)
            length += len(line)
            if hint is not None and 0 < hint < length:
                break
        return lines

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The ends of lines seen so far, as ``io.TextIOBase.newlines``."""
        found: str | tuple[str, ...] | None = getattr(self._decoder, "newlines", None)
        return found

    # -- writing --

    async def write(self, text: str) -> int:
        """Writes all of ``text`` at the position, which ``tell`` returns. Returns its length."""
        if self._pieces:
            await self.seek(await self.tell())
        ends = self._newline if self._newline in ("\r", "\r\n") else "\n"
        await self.buffer.write(self._encoder.encode(text.replace("\n", ends)))
        return len(text)

    async def writelines(self, lines: Iterable[str]) -> None:
        """Writes each of ``lines``, without adding ends of lines."""
        await self.write("".join(lines))

    async def truncate(self, length: int | None = None) -> int:
        """Changes the length of the file in bytes, by default to the position. Returns it."""
        if self._pieces:
            await self.seek(await self.tell())
        return await self.buffer.truncate(length)

    # -- the position --

    async def tell(self) -> int:
        """The position, as a number for ``seek``. It is a count of bytes only for simple encodings."""
        position = await self.buffer.tell()
        self._need_position()
        if not self._pieces:
            pending, flags = self._decoder.getstate()
            return int(position - len(pending) | flags << _WORD)
        start, wanted = self._start, self._at
        while self._pieces and wanted >= self._pieces[0][2] and len(self._pieces) > 1:
            _, data, length = self._pieces.popleft()
            self._text, wanted = self._text[length:], wanted - length
            start += len(data)
        self._start, self._at = start, wanted
        return self._locate(wanted)

    def _locate(self, wanted: int) -> int:
        """The position ``wanted`` characters behind the beginning of the first piece."""
        state, data, _ = self._pieces[0]
        decoder = self._new_decoder()
        decoder.setstate(state)
        fed = found = 0
        position, flags, skipped = self._start - len(state[0]), state[1], 0
        look = _LOOK
        while found < wanted and fed < len(data):
            before = decoder.getstate()
            count = len(decoder.decode(data[fed : fed + look]))
            if found + count > wanted:
                if look == 1:
                    break  # one byte completed several characters
                decoder.setstate(before)
                look = 1
                continue
            fed, found = fed + min(look, len(data) - fed), found + count
            pending, flags = decoder.getstate()
            position, skipped = self._start + fed - len(pending), found
        return int(position | flags << _WORD | (wanted - skipped) << 2 * _WORD)

    async def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position that ``tell`` returned, to 0, or to the end with ``(0, io.SEEK_END)``. Returns
        the position.

        Raises ValueError for a negative position, io.UnsupportedOperation for other distances from the
        present position or from the end.
        """
        self._need_position()
        if whence == io.SEEK_CUR and not position:
            position, whence = await self.tell(), io.SEEK_SET
        if whence == io.SEEK_END and not position:
            end = await self.buffer.seek(0, io.SEEK_END)
            self._forget()
            self._decoder.reset()
            self._begin_writing(end)
            return end
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("text files seek from the beginning, or to 0 from elsewhere")
        if position < 0:
            raise ValueError(f"a position of {position}: at least 0")
        mask = (1 << _WORD) - 1
        at, flags, skipped = position & mask, position >> _WORD & mask, position >> 2 * _WORD
        await self.buffer.seek(at)
        self._forget()
        self._decoder.setstate((b"", flags))
        if not at and not flags:
            self._decoder.reset()
        self._begin_writing(at)
        while len(self._text) < skipped and await self._fill():
            pass
        self._at = min(skipped, len(self._text))
        return position

    def _need_position(self) -> None:
        if not self.buffer._seekable:
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE), os.fsdecode(self.buffer.name))

    def _begin_writing(self, position: int) -> None:
        """A byte order mark belongs to the beginning of the file alone."""
        if position:
            self._encoder.setstate(0)
        else:
            self._encoder.reset()

    # -- as the file below --

    async def __aenter__(self) -> Self:
        self.buffer.fileno()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {os.fsdecode(self.name)!r} {self.mode} {self.encoding}>"

    @property
    def name(self) -> Any:
        """The path that it was opened with."""
        return self.buffer.name

    @property
    def mode(self) -> str:
        """The mode that it was opened with."""
        return self.buffer.mode

    @property
    def closed(self) -> bool:
        """Whether the file was closed."""
        return self.buffer.closed

    def fileno(self) -> int:
        """The descriptor."""
        return self.buffer.fileno()

    async def close(self) -> None:
        """Closes the file. A second close does nothing."""
        await self.buffer.close()

    async def flush(self) -> None:
        """Nothing is buffered here, so it does nothing. ``fsync`` makes data durable."""
        await self.buffer.flush()

    async def fsync(self) -> None:
        """Writes data and metadata to the device."""
        await self.buffer.fsync()

    async def fdatasync(self) -> None:
        """Writes data to the device, and the metadata needed to read it."""
        await self.buffer.fdatasync()

    async def stat(self) -> Stat:
        """The state of the file (statx(2))."""
        return await self.buffer.stat()

    async def readable(self) -> bool:
        """Whether ``mode`` allows reading."""
        return await self.buffer.readable()

    async def writable(self) -> bool:
        """Whether ``mode`` allows writing."""
        return await self.buffer.writable()

    async def seekable(self) -> bool:
        """Whether it has a position: a regular file or a block device."""
        return await self.buffer.seekable()

    async def isatty(self) -> bool:
        """Whether it is a terminal."""
        return await self.buffer.isatty()
