"""The clients of a UAPI socket: how long each has been silent, and which is closed when the table is full.

A client makes progress when it sends a byte or reads a byte of an answer. Without progress for
``IDLE_SECONDS`` it is closed. When the table is full and another client connects, the longest silent client
is closed. A client between two requests can be closed after ``SPARE_BETWEEN`` seconds of silence, one inside
a request after ``SPARE_WITHIN``. If no client may be closed, the new one waits. A slow client that makes
progress is never closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import socket
import struct
import termios
from collections.abc import Callable, Iterator

from udpring.tunnel import uapi

__all__ = ["IDLE_SECONDS", "MAX_CLIENTS", "Client", "ClientTable"]

MAX_CLIENTS = 128
IDLE_SECONDS = 60.0
SPARE_BETWEEN = 1.0
SPARE_WITHIN = 10.0
GATHER_SECONDS = 0.001

log = logging.getLogger("udpring.uapi")

Clock = Callable[[], float]


class Client:
    """One connection and the parser of its requests. ``clock`` gives seconds that never go back."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self.socket = sock
        self.parser = uapi.RequestParser()
        self.ended = False
        self._clock = clock
        self._since = clock()
        self._waits_for: str | None = "bytes"
        self._unread = 0

    # ---- its bytes ----

    async def gather(self, data: bytes, most: int) -> bytes:
        """Adds what follows within moments, up to ``most`` bytes in all: ``wg`` writes a long request in many
        small pieces. A whole request waits for nothing."""
        pieces, size = [data], len(data)
        while size < most and not data.endswith(b"\n\n"):
            await asyncio.sleep(GATHER_SECONDS)
            try:
                data = self.socket.recv(most - size, socket.MSG_DONTWAIT)
            except OSError:
                break  # nothing came, or it has gone
            if not data:
                break
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)

    async def readable(self, seconds: float) -> bool:
        """Waits until there is something to receive, or for so long."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _resolve, ready)
        loop.add_reader(self.socket, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self.socket)
            timer.cancel()
        return self._has_bytes()

    async def receive(self, most: int) -> bytes:
        """Received bytes, up to ``most``. Empty at the end, and after a reset of the connection."""
        self._wait("bytes")
        try:
            return await asyncio.get_running_loop().sock_recv(self.socket, most)
        except ConnectionError:
            return b""
        finally:
            self._waits_for = None

    async def send(self, data: bytes | bytearray) -> None:
        """Writes all bytes. Waits while the client does not read. Raises OSError where it has gone."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                self._wait("room")
                try:
                    await _writable(self.socket)
                finally:
                    self._waits_for = None

    def _wait(self, what: str) -> None:
        self._waits_for = what
        self._since = self._clock()
        self._unread = self._outstanding() if what == "room" else 0

    def _outstanding(self) -> int:
        """Bytes that the client has not read yet (SIOCOUTQ, unix(7)). -1: it is gone."""
        try:
            answer = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return -1
        return int(struct.unpack("i", answer)[0])

    # ---- its silence ----

    @property
    def within_request(self) -> bool:
        """Whether it is inside a request, or has an answer to read."""
        return self.parser.within_request or self._waits_for == "room"

    def silence(self) -> float:
        """Seconds since it last made progress. 0 while the server works on its request."""
        if self._waits_for is None:
            return 0.0
        if self._has_progressed():
            self._since = self._clock()
        return self._clock() - self._since

    def _has_progressed(self) -> bool:
        if self._waits_for == "room":
            before, self._unread = self._unread, self._outstanding()
            return before != self._unread
        # Bytes may have arrived that the event loop has not read.
        return self._has_bytes()

    def _has_bytes(self) -> bool:
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def end(self, why: str) -> None:
        """Ends the connection. The present request fails with ETIMEDOUT. Its applied lines stay."""
        if self.ended:
            return
        self.ended = True
        self.parser.fail(errno.ETIMEDOUT, why)
        how = socket.SHUT_RDWR if self._waits_for == "room" else socket.SHUT_RD
        with contextlib.suppress(OSError):  # it may have gone already
            self.socket.shutdown(how)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


class ClientTable:
    """The clients of one server, ``most`` at a time."""

    def __init__(self, clock: Clock, *, most: int = MAX_CLIENTS, idle: float = IDLE_SECONDS) -> None:
        self._clock = clock
        self._most = most
        self._idle = idle
        self._clients: dict[Client, None] = {}
        self._left = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._clients))

    def add(self, sock: socket.socket) -> Client:
        """Adds a client. Call ``room`` first."""
        client = Client(sock, self._clock)
        self._clients[client] = None
        self._watch()
        return client

    def discard(self, client: Client) -> None:
        """The client has gone."""
        self._clients.pop(client, None)
        self._left.set()
        if not self._clients:
            self.close()

    def close(self) -> None:
        """Ends the watch over idle clients."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def room(self) -> None:
        """Returns when there is room for one more client: at once, or by closing the longest silent one, or
        when one leaves or has been silent long enough."""
        while len(self._clients) >= self._most and not self.evict():
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), self._next_chance())

    def evict(self) -> bool:
        """Ends the longest silent client, if it has been silent for long enough."""
        silences = {client: client.silence() for client in self._clients}
        spare = {False: SPARE_BETWEEN, True: SPARE_WITHIN}
        may_go = [client for client in silences if silences[client] >= spare[client.within_request]]
        if not may_go:
            return False
        longest = max(may_go, key=lambda client: (not client.within_request, silences[client]))
        log.info(
            "more than %d UAPI clients: one that was silent for %.0f s is closed",
            self._most,
            silences[longest],
        )
        longest.end("closed in favour of another client")
        self.discard(longest)
        return True

    def close_idle(self) -> None:
        """Ends the clients that have made no progress for too long."""
        for client in self:
            if client.silence() >= self._idle:
                log.info("a UAPI client made no progress for %.0f s: closed", self._idle)
                client.end(f"no progress for {self._idle:g} s")
                self.discard(client)

    def _next_chance(self) -> float:
        waits = (
            (SPARE_WITHIN if client.within_request else SPARE_BETWEEN) - client.silence()
            for client in self._clients
        )
        return max(min(waits, default=SPARE_BETWEEN), 0.05)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle / 4, self._look)

    def _look(self) -> None:
        self._timer = None
        self.close_idle()
        if self._clients:
            self._watch()
