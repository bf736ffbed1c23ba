"""The socket of ``open_datagram_endpoint``, made as by ``loop.create_datagram_endpoint``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import warnings
from asyncio.trsock import TransportSocket
from collections.abc import Mapping
from typing import Any

__all__ = ["NOT_GIVEN", "check_reuse_address", "check_socket", "extra_info", "make_socket"]

NOT_GIVEN = object()
Pair = tuple[Any, Any]


def check_reuse_address(loop: asyncio.AbstractEventLoop, reuse_address: object) -> None:
    """``reuse_address`` of ``create_datagram_endpoint``. asyncio has no such argument (since Python 3.11).

    Elsewhere it is as in uvloop: True is refused, because with SO_REUSEADDR another process can take the port
    of a UDP socket, and other values are deprecated.
    """
    if reuse_address is NOT_GIVEN:
        return
    if isinstance(loop, asyncio.BaseEventLoop):
        raise TypeError("create_datagram_endpoint() got an unexpected keyword argument 'reuse_address'")
    if reuse_address:
        raise ValueError("reuse_address=True is not supported: another process could take the port")
    warnings.warn("The *reuse_address* parameter has been deprecated", DeprecationWarning, stacklevel=3)


def check_socket(sock: socket.socket, modifiers: Mapping[str, object]) -> None:
    """Raises ValueError unless it is a UDP socket, given without arguments for making one."""
    if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"A UDP Socket was expected, got {sock!r}")
    problems = ", ".join(f"{name}={value}" for name, value in modifiers.items() if value)
    if problems:
        raise ValueError(
            f"socket modifier keyword arguments can not be used when sock is specified. ({problems})"
        )


def extra_info(sock: socket.socket) -> dict[str, Any]:
    """What ``get_extra_info`` of a transport tells about its socket."""
    try:
        peer = sock.getpeername()
    except OSError:
        peer = None
    return {"socket": TransportSocket(sock), "sockname": sock.getsockname(), "peername": peer}


def _numeric(place: object, family: int, proto: int) -> tuple[Any, ...] | None:
    """What getaddrinfo(3) returns for a plain address, in a tenth of the time. None: ask it."""
    if type(place) is not tuple or len(place) != 2 or proto not in (0, socket.IPPROTO_UDP):
        return None
    host, port = place
    if type(host) is not str or type(port) is not int or not 0 <= port <= 65535:
        return None
    for kind, text in ((socket.AF_INET, "."), (socket.AF_INET6, ":")):
        if text in host and family in (0, kind):
            try:
                canonical = socket.inet_ntop(kind, socket.inet_pton(kind, host))
            except (OSError, ValueError):
                return None
            address: Any = (canonical, port) if kind == socket.AF_INET else (canonical, port, 0, 0)
            return kind, socket.SOCK_DGRAM, socket.IPPROTO_UDP, "", address
    return None


async def _resolved(
    loop: asyncio.AbstractEventLoop, address: object, family: int, proto: int, flags: int
) -> list[Any]:
    """getaddrinfo(3), without a thread if the host is already an address."""
    if not (isinstance(address, tuple) and len(address) == 2):
        raise TypeError("2-tuple is expected")
    host, port = address
    if isinstance(port, int) and not 0 <= port <= 65535:  # getaddrinfo(3) would take its low 16 bits
        raise OverflowError(f"port must be 0-65535: {address!r}")
    plain = _numeric(address, family, proto)
    if plain is not None:
        return [plain]
    kind: Any = {"family": family, "type": socket.SOCK_DGRAM, "proto": proto}
    if isinstance(port, int):
        with contextlib.suppress(socket.gaierror):
            numeric = socket.getaddrinfo(host, port, flags=flags | socket.AI_NUMERICHOST, **kind)
            if numeric:
                return list(numeric)
    found = await loop.getaddrinfo(host, port, flags=flags, **kind)
    if not found:
        raise OSError("getaddrinfo() returned empty list")
    return list(found)


async def _candidates(
    loop: asyncio.AbstractEventLoop, addresses: Pair, family: int, proto: int, flags: int
) -> list[tuple[tuple[int, int], list[Any]]]:
    """(family, protocol) and the local and remote address for it, best first."""
    if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"family is AF_INET or AF_INET6, not {family!r}")
    if not any(addresses):
        if family == socket.AF_UNSPEC:
            raise ValueError("unexpected address family")
        return [((family, proto), [None, None])]
    local, remote = addresses
    if local is None or remote is None:
        plain = _numeric(remote if local is None else local, family, proto)
        if plain is not None:
            kind, _, protocol, _, resolved = plain
            return [((kind, protocol), [None, resolved] if local is None else [resolved, None])]
    found: dict[tuple[int, int], list[Any]] = {}
    for place, address in enumerate(addresses):
        if address is not None:
            for kind, _, protocol, _, resolved in await _resolved(loop, address, family, proto, flags):
                pair = found.setdefault((kind, protocol), [None, None])
                if pair[place] is None:
                    pair[place] = resolved
    whole = [
        (key, pair)
        for key, pair in found.items()
        if all(pair[place] is not None for place in (0, 1) if addresses[place])
    ]
    if not whole:
        raise ValueError("can not get address information")
    return whole


async def make_socket(
    loop: asyncio.AbstractEventLoop,
    addresses: Pair,
    family: int,
    proto: int,
    flags: int,
    reuse_port: bool | None,
    allow_broadcast: bool | None,
) -> tuple[socket.socket, Any]:
    """The socket, and the only address that it may send to, or None."""
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):  # as asyncio has it
        raise ValueError("reuse_port not supported by socket module")
    failed: OSError | None = None
    for (kind, protocol), (local, remote) in await _candidates(loop, addresses, family, proto, flags):
        made = None
        try:
            made = socket.socket(kind, socket.SOCK_DGRAM, protocol)
            if reuse_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if allow_broadcast:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setblocking(False)
            if local:
                made.bind(local)
            if remote and not allow_broadcast:
                made.connect(remote)  # UDP: never waits
            return made, remote
        except BaseException as error:
            if made is not None:
                made.close()
            if not isinstance(error, OSError):
                raise
            failed = failed or error
    assert failed is not None
    raise failed
