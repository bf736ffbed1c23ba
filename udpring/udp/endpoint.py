"""``open_datagram_endpoint``: ``loop.create_datagram_endpoint``, with a transport on the rings."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from udpring.udp.endpoint_socket import NOT_GIVEN, check_reuse_address, check_socket, make_socket
from udpring.udp.transport import RingTransport

__all__ = ["open_datagram_endpoint", "open_in"]

P = TypeVar("P", bound=asyncio.BaseProtocol)
Place = tuple[str, int]


async def open_datagram_endpoint(
    protocol_factory: Callable[[], P],
    local_addr: Place | None = None,
    remote_addr: Place | None = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_address: object = NOT_GIVEN,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
    tier: str | None = None,
    send_at_once: bool = False,
) -> tuple[RingTransport, P]:
    """``loop.create_datagram_endpoint`` of the running loop (asyncio or uvloop), but on the rings.

    Arguments, results and exceptions are asyncio's
    (https://docs.python.org/3/library/asyncio-eventloop.html), for UDP over IPv4 and IPv6.
    ``reuse_address`` is what it is to the loop: asyncio has none, and uvloop refuses True. ``tier`` is that
    of ``RecvRing`` and ``SendRing``. None means UDPRING_TIER, or "mmsg", which is best for protocols. These
    are the differences:

    - ``sendto`` may queue. All that one turn of the loop queues leaves as one batch at its end, with trains
      of equal datagrams to one destination. ``error_received`` may therefore report a datagram after
      ``sendto`` returned. Order is kept per destination. ``transport.flush()`` sends the queue earlier.
      With ``send_at_once`` nothing queues while the socket has room.
    - While turns of the loop send and receive one datagram each, it leaves at once, also without that option.
      So does the first answer to a single datagram.
    - A wake-up of the loop hands over up to 64 datagrams, not one. An exception in ``datagram_received`` goes
      to the loop's exception handler, and the next datagram is handed over.
    - The host in ``sendto`` may be a name. It is looked up without blocking the loop, and again after 60 s,
      while the known address serves. Datagrams wait for the first look-up, at most 1024 and 1 MiB of them.
    - Datagrams that are sent after ``close()`` or ``abort()`` are dropped, also on an unconnected socket.

    Raises OSError (no such address, the address is in use, ...), ValueError and TypeError (arguments that do
    not go together), RingError (the kernel refused, with the reason).
    """
    loop = asyncio.get_running_loop()
    check_reuse_address(loop, reuse_address)
    return await open_in(
        loop,
        protocol_factory,
        local_addr,
        remote_addr,
        family=family,
        proto=proto,
        flags=flags,
        reuse_port=reuse_port,
        allow_broadcast=allow_broadcast,
        sock=sock,
        tier=tier,
        send_at_once=send_at_once,
        as_uvloop=False,
    )


async def open_in(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], P],
    local_addr: Place | None,
    remote_addr: Place | None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
    tier: str | None,
    send_at_once: bool,
    as_uvloop: bool,
) -> tuple[RingTransport, P]:
    """The same in ``loop``. ``as_uvloop``: ``sendto`` raises for names, as uvloop's does."""
    if sock is None:
        sock, address = await make_socket(
            loop, (local_addr, remote_addr), family, proto, flags, reuse_port, allow_broadcast
        )
    else:
        address = None
        modifiers = {
            "local_addr": local_addr,
            "remote_addr": remote_addr,
            "family": family,
            "proto": proto,
            "flags": flags,
            "reuse_port": reuse_port,
            "allow_broadcast": allow_broadcast,
        }
        check_socket(sock, modifiers)
        sock.setblocking(False)
    protocol = protocol_factory()
    waiter: asyncio.Future[None] = loop.create_future()
    try:
        transport = RingTransport(
            loop, sock, protocol, address, waiter, tier=tier, send_at_once=send_at_once, as_uvloop=as_uvloop
        )
    except BaseException:
        sock.close()
        raise
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol
