"""A UAPI server with a plane in memory, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from fake_plane import FakePlane

from udpring.tunnel.control import BootClock
from udpring.tunnel.socket_file import SocketFile
from udpring.tunnel.tunnel import Tunnel
from udpring.tunnel.uapi_report import Report
from udpring.tunnel.uapi_server import UapiServer
from udpring.tunnel.uapi_values import RequestName


class Served:
    def __init__(self, path: Path) -> None:
        self.skipped = 0.0
        self.plane = FakePlane(BootClock())
        self.tunnel = Tunnel(self.plane, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        self.path = path
        self.reporters: dict[RequestName, Callable[[], Awaitable[Report]]] = {}
        self.server = UapiServer(self.tunnel, SocketFile(path), clock=self.clock, reporters=self.reporters)

    def clock(self) -> float:
        """The server's clock. A test may advance it with ``skipped``."""
        return time.monotonic() + self.skipped

    def peer(self, key: str) -> int:
        found = self.tunnel.find(bytes.fromhex(key))
        assert found is not None
        return found

    async def ask(self, request: str) -> str:
        """One request on its own connection. Returns the answer up to its blank line."""
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 26)
        try:
            writer.write(request.encode())
            return (await asyncio.wait_for(reader.readuntil(b"\n\n"), 30)).decode()
        finally:
            writer.close()
            await writer.wait_closed()

    async def set(self, *lines: str) -> str:
        return await self.ask("set=1\n" + "".join(f"{line}\n" for line in lines) + "\n")


@contextlib.asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(tmp_path / "fake0.sock")
    made.tunnel.start()
    made.server.start()
    try:
        yield made
    finally:
        await made.server.close()
        made.tunnel.close()


def serving(
    test: Callable[[Served], Coroutine[Any, Any, None]],
) -> Callable[[Path], None]:
    """Runs the test in an event loop against a new server."""

    def run(tmp_path: Path) -> None:
        async def body() -> None:
            async with served(tmp_path) as made:
                await test(made)

        asyncio.run(body())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come about"
        await asyncio.sleep(0.005)
