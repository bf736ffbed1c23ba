"""Lines of a UAPI stream, both ways."""

from __future__ import annotations

from collections.abc import Iterator

from udpring.errors import UdpringError

__all__ = ["MAX_LINE", "Lines", "UapiProtocolError"]

MAX_LINE = 4096
"""Bytes in a line without its newline. The longest line of the protocol has under 120."""


class UapiProtocolError(UdpringError):
    """The other end does not speak this protocol. There is no sensible answer: close the connection."""


class Lines:
    """Cuts a stream into lines. Holds at most one chunk and one line of ``MAX_LINE``.

    Returns a line as bytes, or None in place of one that is too long, whose bytes are discarded.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._start = 0
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        self._buffer = self._buffer[self._start :] + data if self._start < len(self._buffer) else data
        self._start = 0

    @property
    def unfinished(self) -> bool:
        """Whether a line has begun and not ended."""
        return self._skipping or self._start < len(self._buffer)

    def __iter__(self) -> Iterator[bytes | None]:
        while True:
            end = self._buffer.find(b"\n", self._start)
            if end < 0:
                break
            line = self._buffer[self._start : end]
            self._start = end + 1
            if self._skipping:
                self._skipping = False
                continue
            yield line if len(line) <= MAX_LINE else None
        if self._skipping or len(self._buffer) - self._start > MAX_LINE:
            self._buffer, self._start = b"", 0
            if not self._skipping:
                self._skipping = True
                yield None
