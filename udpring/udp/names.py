"""Names as destinations of a transport: looked up off its event loop, while datagrams wait.

1. A datagram to an unknown name waits until the name is looked up. Others to that name queue behind it.
2. The address is used for ``NAME_SECONDS``. The next datagram after that goes to it as well, and starts a
   look-up. The name moves when that has succeeded.
3. A look-up that fails for now (EAI_AGAIN, or no answer in time) is tried again, and the old address stays in
   use. If the name is unknown, the datagrams that wait are refused.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from weakref import WeakMethod

from udpring.udp import address as addresses
from udpring.udp.address import Address

__all__ = ["NameQueue"]

LOOK_UPS = 64
"""Names that one transport looks up at once."""
LOOK_UP_SECONDS = 30.0
RETRY_SECONDS = 5.0
"""The pause after a look-up that failed for now."""
WAITING_BYTES, WAITING_DATAGRAMS = 1 << 20, 1024
"""Of datagrams that wait for names, all names together. More are refused with ENOBUFS."""


class NameQueue:
    """Owner: a transport. In the thread of its event loop.

    found: a method, called with the packed address and the datagrams that waited for it.
    failed: a method, called with the error and the number of datagrams that are dropped for it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        family: int,
        found: Callable[[bytes, list[bytes]], None],
        failed: Callable[[Exception, int], None],
    ) -> None:
        self._loop = loop
        self._family = family
        # The transport owns this object. No circle keeps a forgotten one alive.
        self._found = WeakMethod(found)
        self._failed = WeakMethod(failed)
        self._look_ups: dict[Address, asyncio.Task[None]] = {}
        self._waiting: dict[Address, list[bytes]] = {}
        self._count = 0
        #: Bytes of the datagrams that wait.
        self.size = 0

    def __len__(self) -> int:
        """Datagrams that wait."""
        return self._count

    def put(self, address: Address, data: bytes) -> bytes | None:
        """The packed address of the name. None: it is being looked up, and the datagram waits. Raises OSError
        where too much waits already."""
        known = addresses.known_name(address, self._family)
        if known is not None:
            raw, good_until = known
            if time.monotonic() >= good_until and len(self._look_ups) < LOOK_UPS:
                self._begin(address)
            return raw
        full = self._count >= WAITING_DATAGRAMS or self.size + len(data) > WAITING_BYTES
        if full or (address not in self._look_ups and len(self._look_ups) >= LOOK_UPS):
            raise OSError(errno.ENOBUFS, f"{os.strerror(errno.ENOBUFS)}: too much waits for names")
        self._waiting.setdefault(address, []).append(data)
        self._count += 1
        self.size += len(data)
        self._begin(address)
        return None

    def close(self) -> None:
        """Ends the look-ups and drops what waits."""
        for task in self._look_ups.values():
            task.cancel()
        self._look_ups.clear()
        self._waiting.clear()
        self._count = self.size = 0

    def _begin(self, address: Address) -> None:
        if address not in self._look_ups:
            self._look_ups[address] = self._loop.create_task(self._look_up(address))

    async def _look_up(self, address: Address) -> None:
        refused: Exception | None = None
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                await addresses.look_up_name(self._loop, address, self._family)
        except (OSError, UnicodeError) as failed:  # TimeoutError is an OSError
            refused = failed
        del self._look_ups[address]
        self._settle(address, refused)

    def _settle(self, address: Address, refused: Exception | None) -> None:
        if refused is not None:
            passing = isinstance(refused, TimeoutError) or (
                isinstance(refused, socket.gaierror) and refused.errno == socket.EAI_AGAIN
            )
            addresses.keep_name(address, self._family, RETRY_SECONDS if passing else None)
        waiting = self._waiting.pop(address, [])
        self._count -= len(waiting)
        self.size -= sum(map(len, waiting))
        known = addresses.known_name(address, self._family)
        found, failed = self._found(), self._failed()
        if waiting and known is not None and found is not None:
            found(known[0], waiting)
        elif waiting and refused is not None and failed is not None:
            failed(refused, len(waiting))
