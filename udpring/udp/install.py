"""``create_datagram_endpoint`` of event loops on the rings, for libraries that know nothing of udpring.

``install()`` replaces the method of asyncio's loop class, and of uvloop's where uvloop is installed.
``use_in(loop)`` replaces it in one loop. The replacement opens UDP endpoints over IPv4 and IPv6 on rings, and
calls the loop's own method for everything else: other families (AF_UNIX), other protocols (UDP-Lite, ICMP),
sockets whose class has methods of its own for sending or receiving, and arguments that it does not know.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from udpring.udp.endpoint import open_in
from udpring.udp.endpoint_socket import NOT_GIVEN, check_reuse_address
from udpring.udp.tiers import tier_number

__all__ = ["install", "uninstall", "use_in"]

_METHOD = "create_datagram_endpoint"
_FAMILIES = (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6)
_PROTOCOLS = (0, socket.IPPROTO_UDP)
_KEYWORDS = {"family", "proto", "flags", "reuse_address", "reuse_port", "allow_broadcast", "sock"}
_SOCKET_METHODS = ("send", "sendto", "sendmsg", "recv", "recvfrom", "recv_into", "recvfrom_into", "recvmsg")

Endpoint = Callable[..., Awaitable[tuple[asyncio.DatagramTransport, Any]]]


class _Options(NamedTuple):
    tier: str | None
    send_at_once: bool


class _Replaced(NamedTuple):
    """A loop class whose method is replaced."""

    loops: type
    ours: Endpoint
    own: Endpoint | None  # what the class itself had. None: it inherits the method


_everywhere: _Options | None = None
_replaced: list[_Replaced] = []


def install(*, tier: str | None = None, send_at_once: bool = False) -> None:
    """From now on every asyncio and uvloop event loop opens its UDP endpoints on the rings.

    Call it once, when the program starts. A further call changes the options of endpoints that are opened
    later. Loops that exist already are included, endpoints that exist are not.

    tier: that of ``open_datagram_endpoint``.
    send_at_once: ``sendto`` sends without waiting for the end of the loop's turn, as asyncio does. It is for
        programs that block the loop on the answer, and costs a system call for each datagram.

    AF_UNIX and other families, other protocols than UDP, and sockets of classes with their own ``sendto`` or
    ``recvfrom`` keep the transport of the loop. ``sendto`` refuses names under uvloop as uvloop does.
    Raises ValueError (no such tier).
    """
    global _everywhere
    tier_number(tier)
    _everywhere = _Options(tier, send_at_once)
    for loops in _loop_classes():
        if not any(entry.loops is loops for entry in _replaced):
            ours = _replacement(getattr(loops, _METHOD), lambda: _everywhere)
            _replaced.append(_Replaced(loops, ours, vars(loops).get(_METHOD)))
            setattr(loops, _METHOD, ours)


def uninstall(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Undoes ``install()``, or ``use_in(loop)``. Endpoints that exist remain on the rings.

    It is fine if nothing was installed.
    """
    global _everywhere
    if loop is not None:
        if hasattr(vars(loop).get(_METHOD), "_udpring"):
            delattr(loop, _METHOD)
        return
    _everywhere = None  # also for a method that somebody has wrapped since
    for entry in list(_replaced):
        if vars(entry.loops).get(_METHOD) is entry.ours:
            _replaced.remove(entry)
            if entry.own is None:
                delattr(entry.loops, _METHOD)
            else:
                setattr(entry.loops, _METHOD, entry.own)


def use_in(loop: asyncio.AbstractEventLoop, *, tier: str | None = None, send_at_once: bool = False) -> None:
    """As ``install()``, for ``loop`` alone, with options of its own.

    Raises TypeError (an event loop that does not let its methods be replaced), ValueError (no such tier).
    """
    tier_number(tier)
    uninstall(loop)
    options = _Options(tier, send_at_once)
    theirs = getattr(type(loop), _METHOD)
    of_class = _replacement(theirs, lambda: options)
    known = weakref.ref(loop)  # the loop has this function, so the function must not hold the loop

    @functools.wraps(theirs)
    async def create_datagram_endpoint(*arguments: Any, **keywords: Any) -> Any:
        return await of_class(known(), *arguments, **keywords)

    create_datagram_endpoint._udpring = True  # type: ignore[attr-defined]
    try:
        setattr(loop, _METHOD, create_datagram_endpoint)
    except AttributeError:
        raise TypeError(
            f"{loop!r} does not let its methods be replaced: use open_datagram_endpoint"
        ) from None


def _loop_classes() -> list[type]:
    classes: list[type] = [asyncio.BaseEventLoop]
    if importlib.util.find_spec("uvloop") is not None:
        classes.append(importlib.import_module("uvloop").Loop)
    return classes


def _replacement(theirs: Endpoint, options: Callable[[], _Options | None]) -> Endpoint:
    """The method that takes the place of ``theirs``."""

    @functools.wraps(theirs)
    async def create_datagram_endpoint(
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        **keywords: Any,
    ) -> Any:
        given = options()
        if given is None or not _for_rings(keywords):
            return await theirs(loop, protocol_factory, local_addr, remote_addr, **keywords)
        check_reuse_address(loop, keywords.pop("reuse_address", NOT_GIVEN))
        as_uvloop = not isinstance(loop, asyncio.BaseEventLoop)
        if as_uvloop:  # which takes lists as well
            local_addr, remote_addr = (
                tuple(address) if isinstance(address, list) else address
                for address in (local_addr, remote_addr)
            )
        return await open_in(
            loop,
            protocol_factory,
            local_addr,
            remote_addr,
            **keywords,
            tier=given.tier,
            send_at_once=given.send_at_once,
            as_uvloop=as_uvloop,
        )

    return create_datagram_endpoint


def _for_rings(keywords: dict[str, Any]) -> bool:
    """Whether the arguments are for a UDP socket over IPv4 or IPv6."""
    if not keywords.keys() <= _KEYWORDS:
        return False
    sock = keywords.get("sock")
    if sock is not None:
        return _is_kernels(type(sock)) and _is_udp(sock)
    return (
        keywords.get("family", 0) in _FAMILIES
        and keywords.get("proto", 0) in _PROTOCOLS
        and _is_kernels(socket.socket)  # some programs replace the class
    )


def _is_kernels(sockets: type) -> bool:
    """Whether sockets of this class send and receive by the kernel alone."""
    if sockets.__module__ == "socket":
        return True
    plain = next((each for each in sockets.__mro__ if each.__module__ == "socket"), None)
    return plain is not None and all(
        getattr(sockets, name) is getattr(plain, name) for name in _SOCKET_METHODS
    )


def _is_udp(sock: socket.socket) -> bool:
    try:
        protocol = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    except OSError:  # closed: the loop says so
        return False
    return protocol == socket.IPPROTO_UDP and sock.family in _FAMILIES[1:]
