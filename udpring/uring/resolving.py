"""Addresses of host names, without blocking the event loop."""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import threading
from typing import Any

from udpring.uring.completion import MessageAddress
from udpring.uring.reactor import Reactor

__all__ = ["resolve"]


async def resolve(
    reactor: Reactor, host: str, port: int, timeout: float | None
) -> list[tuple[int, MessageAddress]]:
    """(family, address) of each address of ``host``, best first. getaddrinfo(3) runs on a thread.

    Raises OSError (``socket.gaierror``) if there is none, UnicodeError for an impossible name, TimeoutError.
    """
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return await _looked_up(reactor, host, port, timeout)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    return [(each[0], _address(each)) for each in found]


async def _looked_up(
    reactor: Reactor, host: str, port: int, timeout: float | None
) -> list[tuple[int, MessageAddress]]:
    found: list[Any] = []
    # No eventfd: Linux 6.18 loses wake-ups of a ring by an eventfd that the ring polls (see Reactor).
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)
        os.close(writing)  # the thread may outlive this task

    try:
        threading.Thread(target=look_up, name="udpring-resolve", daemon=True).start()
        await reactor.do("poll_add", reading, select.POLLIN, timeout=timeout)
    finally:
        os.close(reading)
    if len(found) == 1 and isinstance(found[0], Exception):
        raise found[0]
    return [(each[0], _address(each)) for each in found]


def _address(entry: Any) -> MessageAddress:
    address: MessageAddress = entry[4]
    return address
