"""Protocols of asyncio for the servers of ``bench uring``: echo, sink, and HTTP with two parsers."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["PROTOCOLS"]

BODY = b"Hello, world!"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
SINK_BYTES = 1 << 18


class Echo(asyncio.Protocol):
    """Sends what it receives."""

    def connection_made(self, transport: Any) -> None:
        """Keeps the transport's method."""
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._write(data)


class Sink(asyncio.Protocol):
    """Drops what it receives."""


class BufferedSink(asyncio.BufferedProtocol):
    """Drops what it receives, always into the same memory."""

    def __init__(self) -> None:
        self._buffer = bytearray(SINK_BYTES)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where to receive."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""


def with_httptools() -> Callable[[], asyncio.BaseProtocol]:
    """HTTP parsed by httptools."""
    parser_class = importlib.import_module("httptools").HttpRequestParser

    class Http(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self._transport, self._parser = transport, parser_class(self)

        def data_received(self, data: bytes) -> None:
            self._parser.feed_data(data)

        def on_message_complete(self) -> None:
            self._transport.write(ANSWER)
            if not self._parser.should_keep_alive():
                self._transport.close()

    return Http


def with_h11() -> Callable[[], asyncio.BaseProtocol]:
    """HTTP parsed by h11."""
    h11 = importlib.import_module("h11")

    class Http(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self._transport, self._connection = transport, h11.Connection(h11.SERVER)

        def data_received(self, data: bytes) -> None:
            connection = self._connection
            connection.receive_data(data)
            while True:
                event = connection.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    return
                if isinstance(event, h11.EndOfMessage):
                    answer = connection.send(h11.Response(status_code=200, headers=HEADERS))
                    answer += connection.send(h11.Data(data=BODY)) + connection.send(h11.EndOfMessage())
                    self._transport.write(answer)
                    if connection.our_state is h11.MUST_CLOSE:
                        self._transport.close()
                        return
                    connection.start_next_cycle()

    return Http


PROTOCOLS: dict[str, Callable[[], Callable[[], asyncio.BaseProtocol]]] = {
    "echo": lambda: Echo,
    "sink": lambda: Sink,
    "sink-buffered": lambda: BufferedSink,
    "http-httptools": with_httptools,
    "http-h11": with_h11,
}
"""By the work that they do: what makes a protocol."""
