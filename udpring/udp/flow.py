"""When a transport asks its protocol to pause writing: asyncio's high and low water marks."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

__all__ = ["Datagrams", "WriteLimits"]

_HIGH = 64 * 1024  # bytes; asyncio's default


class Datagrams(Protocol):
    """The methods of a protocol that the transport calls: those of ``asyncio.DatagramProtocol``."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def datagram_received(self, data: bytes, addr: Any) -> None: ...
    def error_received(self, exc: Exception) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class WriteLimits(asyncio.Transport):
    """A transport with the flow control of ``asyncio.WriteTransport``, in bytes."""

    __slots__ = ("_high_water", "_loop", "_low_water", "_protocol", "_protocol_paused")
    _loop: asyncio.AbstractEventLoop
    _protocol: Datagrams

    def __init__(self) -> None:
        super().__init__()
        self._protocol_paused = False
        self._high_water = _HIGH
        self._low_water = _HIGH // 4

    def get_write_buffer_size(self) -> int:
        """Bytes that are queued."""
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high water mark in bytes."""
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """``pause_writing`` is called above ``high`` bytes, ``resume_writing`` at ``low`` bytes or fewer.

        Defaults: high 64 KiB or four times low, low a quarter of high. Raises ValueError unless
        high >= low >= 0.
        """
        if high is None:
            high = _HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high_water = high
        self._low_water = low
        self._maybe_pause_protocol()

    def _maybe_pause_protocol(self) -> None:
        if not self._protocol_paused and self.get_write_buffer_size() > self._high_water:
            self._protocol_paused = True
            self._call("pause_writing")

    def _maybe_resume_protocol(self) -> None:
        if self._protocol_paused and self.get_write_buffer_size() <= self._low_water:
            self._protocol_paused = False
            self._call("resume_writing")

    def _call(self, name: str) -> None:
        try:
            getattr(self._protocol, name)()
        except Exception as error:
            self._tell_loop(f"protocol.{name}() failed", error)

    def _tell_loop(self, message: str, error: Exception) -> None:
        """To the loop's exception handler."""
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )
