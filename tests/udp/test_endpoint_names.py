"""Names as destinations of ``open_datagram_endpoint``: looked up off the loop, within bounds."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import uvloop

import udpring
from udpring.udp import address, names

from .conftest import BOUND

LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
NAME = "moving.example"


class Resolver:
    """Answers look-ups of ``NAME`` with ``host``, or raises ``error``. While ``blocked`` they hang."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.error: Exception | None = None
        self.asked = 0
        self._open = threading.Event()
        self._open.set()

    def block(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def getaddrinfo(self, host: str, port: int, *rest: Any, **more: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        assert self._open.wait(BOUND)
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (self.host, port))]


class Recorder(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.calls: list[str] = []
        self.lost = asyncio.Event()

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(address, "_names", {})
    yield made
    made.release()


@pytest.fixture
def receivers() -> Iterator[list[socket.socket]]:
    """At 127.0.0.1 and 127.0.0.2, with one port."""
    with ExitStack() as stack:
        made: list[socket.socket] = []
        for host in ("127.0.0.1", "127.0.0.2"):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            sock.bind((host, made[0].getsockname()[1] if made else 0))
            sock.setblocking(False)
            made.append(sock)
        yield made


def run(main: Awaitable[Any], loop: str = "asyncio") -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND):
            await main

    LOOPS[loop](bounded())


async def arrived(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 65536)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("loop", LOOPS)
def test_name_is_looked_up_and_datagrams_keep_their_order(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_names", {})

    async def main() -> None:
        with (
            closing(socket.create_server(("127.0.0.1", 0))) as _,
            socket.socket(type=socket.SOCK_DGRAM) as sock,
        ):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            transport, protocol = await udpring.open_datagram_endpoint(Recorder, family=socket.AF_INET)
            for number in range(20):
                transport.sendto(bytes([number]), ("localhost", sock.getsockname()[1]))
            assert [await arrived(sock) for _ in range(20)] == [bytes([number]) for number in range(20)]
            assert protocol.errors == []
            transport.close()
            await protocol.lost.wait()

    run(main(), loop)


def test_look_up_holds_nothing_but_its_datagrams(resolver: Resolver, receivers: list[socket.socket]) -> None:
    async def main() -> None:
        port = receivers[0].getsockname()[1]
        transport, protocol = await udpring.open_datagram_endpoint(Recorder, family=socket.AF_INET)
        resolver.block()
        transport.sendto(b"first", (NAME, port))
        transport.sendto(b"second", (NAME, port))
        transport.sendto(b"to a number", ("127.0.0.1", port))
        assert await arrived(receivers[0]) == b"to a number"
        assert transport.get_write_buffer_size() == len(b"firstsecond")
        transport.close()
        await asyncio.sleep(0)
        assert not protocol.lost.is_set(), "what waits is sent first"
        resolver.release()
        assert [await arrived(receivers[0]) for _ in range(2)] == [b"first", b"second"]
        await protocol.lost.wait()
        assert resolver.asked == 1

    run(main())


def test_old_address_serves_during_a_new_lookup(
    resolver: Resolver, receivers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "NAME_SECONDS", 0.0)

    async def main() -> None:
        where = NAME, receivers[0].getsockname()[1]
        transport, protocol = await udpring.open_datagram_endpoint(Recorder, family=socket.AF_INET)
        transport.sendto(b"1", where)
        assert await arrived(receivers[0]) == b"1"
        resolver.block()
        resolver.host = "127.0.0.2"
        for data in (b"2", b"3"):
            transport.sendto(data, where)
            assert await arrived(receivers[0]) == data
        await until(lambda: resolver.asked == 2)
        resolver.release()
        await until(lambda: not transport._names._look_ups)
        transport.sendto(b"4", where)
        assert await arrived(receivers[1]) == b"4"
        assert protocol.errors == []
        transport.abort()
        await protocol.lost.wait()

    run(main())


def test_failed_look_up_keeps_a_known_address(
    resolver: Resolver, receivers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the resolver says that the name is not there."""
    monkeypatch.setattr(address, "NAME_SECONDS", 0.0)
    monkeypatch.setattr(names, "RETRY_SECONDS", 0.0)

    async def main() -> None:
        where = NAME, receivers[0].getsockname()[1]
        transport, protocol = await udpring.open_datagram_endpoint(Recorder, family=socket.AF_INET)
        transport.sendto(b"1", where)
        assert await arrived(receivers[0]) == b"1"
        resolver.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        for data in (b"2", b"3"):
            transport.sendto(data, where)
            assert await arrived(receivers[0]) == data
            await until(lambda: not transport._names._look_ups)
        assert protocol.errors == []
        resolver.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        transport.sendto(b"4", where)
        assert await arrived(receivers[0]) == b"4"
        await until(lambda: not transport._names._look_ups)
        transport.sendto(b"5", where)
        transport.sendto(b"6", where)
        await until(lambda: len(protocol.errors) == 2)
        assert [type(each) for each in protocol.errors] == [socket.gaierror] * 2
        transport.abort()
        await protocol.lost.wait()

    run(main())


def test_waiting_datagrams_are_bounded(resolver: Resolver, receivers: list[socket.socket]) -> None:
    async def main() -> None:
        port = receivers[0].getsockname()[1]
        transport, protocol = await udpring.open_datagram_endpoint(Recorder, family=socket.AF_INET)
        resolver.block()
        for _ in range(names.WAITING_DATAGRAMS + 3):
            transport.sendto(bytes(100), (NAME, port))
        assert [each.errno for each in protocol.errors] == [errno.ENOBUFS] * 3  # type: ignore[attr-defined]
        assert protocol.calls == ["pause"]
        resolver.release()
        await until(lambda: protocol.calls == ["pause", "resume"])
        for _ in range(names.WAITING_DATAGRAMS):
            assert len(await arrived(receivers[0])) == 100
        transport.close()
        await protocol.lost.wait()

    run(main())


def test_names_at_once_are_bounded(resolver: Resolver) -> None:
    async def main() -> None:
        transport, protocol = await udpring.open_datagram_endpoint(Recorder, family=socket.AF_INET)
        resolver.block()
        for number in range(names.LOOK_UPS + 2):
            transport.sendto(b"x", (f"host{number}.example", 9))
        assert [each.errno for each in protocol.errors] == [errno.ENOBUFS] * 2  # type: ignore[attr-defined]
        transport.abort()
        await protocol.lost.wait()
        assert len(transport._names) == transport.get_write_buffer_size() == 0
        resolver.release()

    run(main())
