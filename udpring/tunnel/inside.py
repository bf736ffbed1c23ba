"""The inside of a rootless node for its program: sockets, connections, servers, names and programs there."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from udpring.tunnel.config import IPAddress
from udpring.tunnel.namespaces import Namespaces

__all__ = ["Inside"]

Socket: TypeAlias = socket.socket
"""The class below has a method of the module's name."""

ClientConnected: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]
_BACKLOG = 128
_ANY_FAMILY = int(socket.AF_UNSPEC)


class Inside:
    """The methods of ``Node`` with ``attachment=Rootless()``. Each method raises TypeError with another
    attachment, ClosedError while the node is down, and OSError where the kernel refuses."""

    def _spaces(self) -> Namespaces:
        raise TypeError("this object is no node")

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> Socket:
        """An ordinary kernel socket of the inside, as ``socket.socket`` makes one. It takes some tenths of a
        millisecond. It stays open when the node ends, and reaches nothing then."""
        kind = type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        made = self._spaces().socket(family, kind, proto)
        if type & socket.SOCK_NONBLOCK:
            made.setblocking(False)
        return made

    async def resolve(self, host: str, family: int = _ANY_FAMILY) -> list[IPAddress]:
        """The addresses of ``host``, by the name servers of the configuration (``DNS =``), asked over the
        tunnel, and by /etc/hosts. The best first (RFC 6724). Without ``DNS =``, those of the host's
        resolv.conf(5), over the tunnel too. Raises socket.gaierror."""
        with contextlib.suppress(ValueError):
            return [ipaddress.ip_address(host)]
        found = await self._spaces().look_up(host, family)
        return [ipaddress.ip_address(address) for address in found]

    async def open_connection(
        self, host: str, port: int, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As ``asyncio.open_connection``, through the tunnel. Tries the addresses of ``host`` in turn.
        ``options``: such as ``ssl`` and ``limit``."""
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        return await asyncio.open_connection(sock=await self.connect(host, port), **options)

    async def connect(self, host: str, port: int) -> Socket:
        """A TCP connection through the tunnel, non-blocking. Tries the addresses of ``host`` in turn."""
        loop = asyncio.get_running_loop()
        refused: OSError | None = None
        for address in await self.resolve(host):
            try:
                made = self.socket(_family(address))
            except OSError as denied:
                refused = denied
                continue
            try:
                made.setblocking(False)
                await loop.sock_connect(made, _sockaddr(address, port))
            except OSError as denied:
                made.close()
                refused = refused or denied
            except BaseException:
                made.close()
                raise
            else:
                return made
        raise refused or OSError(f"{host} has no address")

    async def listen(self, host: str | None = None, port: int = 0, *, backlog: int = _BACKLOG) -> Socket:
        """A listening TCP socket of the inside, for servers that take a socket. ``host`` None: all addresses
        of both families."""
        if host is None:
            try:
                return self._listening(ipaddress.IPv6Address(0), port, backlog, both=True)
            except OSError:  # without IPv6
                return self._listening(ipaddress.IPv4Address(0), port, backlog)
        return self._listening((await self.resolve(host))[0], port, backlog)

    def _listening(self, address: IPAddress, port: int, backlog: int, *, both: bool = False) -> Socket:
        made = self.socket(_family(address))
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address.version == 6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            made.bind(_sockaddr(address, port))
            made.listen(backlog)
            made.setblocking(False)
        except BaseException:
            made.close()
            raise
        return made

    async def start_server(
        self, client_connected: ClientConnected, host: str | None = None, port: int = 0, **options: Any
    ) -> asyncio.Server:
        """As ``asyncio.start_server``, reachable through the tunnel alone. Ports below 1024 take no right."""
        backlog = options.pop("backlog", _BACKLOG)
        listening = await self.listen(host, port, backlog=backlog)
        try:
            return await asyncio.start_server(client_connected, sock=listening, backlog=backlog, **options)
        except BaseException:
            listening.close()
            raise

    async def spawn(self, program: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        """Runs a program inside, as ``asyncio.create_subprocess_exec``: its only network is the tunnel, with
        ``DNS =`` in its resolv.conf(5). It has no rights there. It is not ended with the node.

        Raises FileNotFoundError where there is no such program.
        """
        if shutil.which(program) is None:
            raise FileNotFoundError(2, os.strerror(2), program)
        entry, descriptors = self._spaces().entry()
        passed = (*options.pop("pass_fds", ()), *descriptors)
        return await asyncio.create_subprocess_exec(*entry, program, *arguments, pass_fds=passed, **options)


def _family(address: IPAddress) -> int:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _sockaddr(address: IPAddress, port: int) -> tuple[Any, ...]:
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        text, _, scope = str(address).partition("%")
        return text, port, 0, int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    return str(address), port
