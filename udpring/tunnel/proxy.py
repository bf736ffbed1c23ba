"""Lets programs outside reach the tunnel of a rootless node: by SOCKS 5, and by forwarded ports.

A listener accepts no more connections than there is room for; further ones wait in the kernel's backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from udpring.errors import ClosedError, HostError
from udpring.tunnel import socks
from udpring.tunnel.inside import Inside
from udpring.tunnel.refusals import cure_of
from udpring.tunnel.relay import Pipes, relay

__all__ = ["Proxy"]

REQUEST_WAIT = 30.0
"""Seconds for a client's request."""
CONNECT_WAIT = 60.0
"""Seconds for a connection through the tunnel to be made."""
RETRY = 0.1
"""Seconds after an accept(2) that failed for lack of descriptors or memory."""
_BACKLOG = 128
_REQUEST_MAX = 1024

Opened: TypeAlias = tuple[socket.socket, bytes]
"""A connection through the tunnel, and the bytes that the client sent ahead."""

log = logging.getLogger("udpring.proxy")


class Proxy:
    """Listeners of one node. ``node`` must be up; ``close`` before it is stopped. ``connections``: of all
    listeners together."""

    def __init__(self, node: Inside, *, connections: int) -> None:
        self._node = node
        self._room = asyncio.Semaphore(connections)
        self._pipes = Pipes()
        self._listening: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._clients: set[asyncio.Task[None]] = set()

    def socks(self, host: str, port: int) -> tuple[str, int]:
        """Serves SOCKS 5 there. Returns the address. Raises HostError."""
        return self._serve(host, port, self._open_socks)

    def forward(self, host: str, port: int, to_host: str, to_port: int) -> tuple[str, int]:
        """Connects whoever connects there to ``to_host`` through the tunnel. Returns the address. Raises
        HostError."""

        async def open_forward(client: socket.socket) -> Opened:
            return await self._connect(to_host, to_port), b""

        return self._serve(host, port, open_forward)

    async def close(self) -> None:
        """Ends the listeners and all connections."""
        tasks = [*self._accepting, *self._clients]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._listening:
            listening.close()
        self._pipes.close()

    # ---- listening ----

    def _serve(
        self, host: str, port: int, opener: Callable[[socket.socket], Awaitable[Opened]]
    ) -> tuple[str, int]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as refused:
            number = refused.errno or 0
            cure = "choose another port" if number == errno.EADDRINUSE else cure_of(number)
            text = f"{host} port {port}: {refused.strerror}"
            raise HostError(text, errno=number, cure=cure) from None
        listening.setblocking(False)
        self._listening.append(listening)
        self._accepting.append(asyncio.get_running_loop().create_task(self._accept(listening, opener)))
        name = listening.getsockname()
        return str(name[0]), int(name[1])

    async def _accept(
        self, listening: socket.socket, opener: Callable[[socket.socket], Awaitable[Opened]]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as refused:
                self._room.release()
                log.debug("a connection was not accepted: %s", refused)
                await asyncio.sleep(RETRY)
                continue
            except BaseException:
                self._room.release()
                raise
            task = loop.create_task(self._client(client, opener))
            self._clients.add(task)
            task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._clients.discard(task)
        self._room.release()

    async def _client(
        self, client: socket.socket, opener: Callable[[socket.socket], Awaitable[Opened]]
    ) -> None:
        with client:
            client.setblocking(False)
            try:
                target, early = await opener(client)
            except (OSError, ClosedError, socks.SocksError) as failed:
                log.debug("a client was turned away: %s", failed)
                return
            with target:
                for each in (client, target):
                    with contextlib.suppress(OSError):
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with contextlib.suppress(OSError):
                    if early:
                        await asyncio.get_running_loop().sock_sendall(target, early)
                    await relay(client, target, self._pipes)

    # ---- connecting ----

    async def _connect(self, host: str, port: int) -> socket.socket:
        return await asyncio.wait_for(self._node.connect(host, port), CONNECT_WAIT)

    async def _open_socks(self, client: socket.socket) -> Opened:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(REQUEST_WAIT):
                request, early = await _request(client)
        except socks.SocksError as wrong:
            with contextlib.suppress(OSError):
                await loop.sock_sendall(client, wrong.answer)
            raise
        try:
            target = await self._connect(request.host, request.port)
        except OSError as failed:
            await loop.sock_sendall(client, socks.reply(socks.error_code(failed)))
            raise
        try:
            host, port = target.getsockname()[:2]
            await loop.sock_sendall(client, socks.reply(socks.SUCCEEDED, (host.partition("%")[0], port)))
        except BaseException:
            target.close()
            raise
        return target, early


async def _request(client: socket.socket) -> tuple[socks.Request, bytes]:
    """The client's request, and the bytes after it."""
    loop = asyncio.get_running_loop()
    data = b""
    greeted = False
    while True:
        if not greeted and (greeting := socks.Greeting.parse(data)):
            greeted, data = True, data[greeting[1] :]
            await loop.sock_sendall(client, greeting[0].answer)
        if greeted and (request := socks.Request.parse(data)):
            return request[0], data[request[1] :]
        more = await loop.sock_recv(client, _REQUEST_MAX)
        if not more:
            raise ConnectionResetError(errno.ECONNRESET, "the client has closed the connection")
        data += more
