"""The epoll instances for endpoints of loops that do not poll sockets."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

import udpring
from udpring.udp.polls import LONE_ENDPOINTS, REPORTS_A_TURN, EpollPolls, EpollSet

from .conftest import BOUND

MakeSocket = Callable[..., socket.socket]


def run(main: Any) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(BOUND):
            return await main

    return uvloop.run(bounded())


class Reader:
    """Counts what its polls report, and takes the datagrams."""

    def __init__(self, sock: socket.socket, several: EpollSet) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.polls = EpollPolls(asyncio.get_running_loop(), sock, several, None)
        self.got: list[bytes] = []
        self.reports = self.writes = 0
        self.polls.read(self.read)

    def read(self) -> None:
        self.reports += 1
        with contextlib.suppress(BlockingIOError):
            self.got.append(self.sock.recv(100))

    def write(self) -> None:
        self.writes += 1

    async def until(self, count: int) -> None:
        while len(self.got) < count:
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [1, 2, 3 * REPORTS_A_TURN])
def test_each_socket_is_reported_to_its_own_reader(count: int, make_socket: MakeSocket) -> None:
    async def main() -> None:
        several, source = EpollSet(), make_socket()
        readers = [Reader(make_socket(), several) for _ in range(count)]
        for turn in range(3):
            for place, reader in enumerate(readers):
                source.sendto(b"%d" % place, reader.sock.getsockname())
            for place, reader in enumerate(readers):
                await reader.until(turn + 1)
                assert reader.got[turn:] == [b"%d" % place]
        await turns()
        assert all(reader.reports == 3 for reader in readers)
        for reader in readers:
            reader.polls.stop_reading()
        source.sendto(b"late", readers[0].sock.getsockname())
        await turns()
        assert readers[0].reports == 3
        several.close()

    run(main())


@pytest.mark.parametrize("others", [0, 1])
def test_writing_and_reading_stop_alone(others: int, make_socket: MakeSocket) -> None:
    async def main() -> None:
        several, source = EpollSet(), make_socket()
        reader = Reader(make_socket(), several)
        more = [Reader(make_socket(), several) for _ in range(others)]
        reader.polls.write(reader.write)
        await turns()
        assert reader.writes
        assert not reader.reports
        reader.polls.stop_reading()
        source.sendto(b"x", reader.sock.getsockname())
        before = reader.writes
        await turns()
        assert reader.writes > before
        assert not reader.reports
        reader.polls.read(reader.read)
        await reader.until(1)
        reader.polls.stop_writing()
        before = reader.writes
        source.sendto(b"y", reader.sock.getsockname())
        await reader.until(2)
        assert reader.writes == before
        for each in (reader, *more):
            each.polls.stop_reading()
        several.close()

    run(main())


def test_a_reader_may_stop_others(make_socket: MakeSocket) -> None:
    async def main() -> None:
        several, source = EpollSet(), make_socket()
        readers = [Reader(make_socket(), several) for _ in range(3)]
        reported = []

        def stop_all(who: Reader) -> Callable[[], None]:
            def stop() -> None:
                reported.append(who)
                for reader in readers:
                    reader.polls.stop_reading()

            return stop

        for reader in readers:
            reader.polls.read(stop_all(reader))
            source.sendto(b"x", reader.sock.getsockname())
        await turns()
        assert len(reported) == 1
        several.close()

    run(main())


@pytest.mark.parametrize("others", [0, 1, 2])
@pytest.mark.parametrize("reused", [False, True])
def test_a_closed_socket_with_a_duplicate_is_left(others: int, reused: bool, make_socket: MakeSocket) -> None:
    """The kernel reports it under the number that it had, until nobody has it open."""

    async def main() -> None:
        several, source = EpollSet(), make_socket()
        readers = [Reader(make_socket(), several) for _ in range(others)]
        gone = Reader(make_socket(), several)
        where, number = gone.sock.getsockname(), gone.sock.fileno()
        with gone.sock.dup():
            gone.sock.close()
            source.sendto(b"for the duplicate", where)
            if reused:
                fresh = make_socket()
                assert fresh.fileno() == number
                readers.append(Reader(fresh, several))
            gone.polls.stop_reading()
            for reader in readers:
                source.sendto(b"x", reader.sock.getsockname())
            for reader in readers:
                await reader.until(1)
            await turns()
            before = [reader.reports for reader in readers]
            await turns()
            assert [reader.reports for reader in readers] == before
            if not readers:
                readers.append(Reader(make_socket(), several))
            await turns()
            assert several._epoll.poll(0) == []
        for reader in readers:
            reader.polls.stop_reading()
        several.close()

    run(main())


def test_a_closed_socket_is_refused_once(make_socket: MakeSocket) -> None:
    async def main() -> None:
        several = EpollSet()
        reader, other = Reader(make_socket(), several), Reader(make_socket(), several)
        reader.sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            reader.polls.write(reader.write)
        reader.polls.stop_writing()
        reader.polls.stop_reading()
        other.polls.stop_reading()
        several.close()

    run(main())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_leaves_the_instance_of_its_parent_alone(make_socket: MakeSocket) -> None:
    async def main() -> None:
        several, source = EpollSet(), make_socket()
        readers = [Reader(make_socket(), several) for _ in range(2)]
        child = os.fork()
        if child == 0:
            try:
                for reader in readers:
                    reader.polls.stop_reading()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        for reader in readers:
            source.sendto(b"x", reader.sock.getsockname())
        for reader in readers:
            await reader.until(1)
            reader.polls.stop_reading()
        several.close()

    run(main())


@pytest.mark.parametrize("others", [0, LONE_ENDPOINTS + 1])
def test_protocols_run_in_the_context_of_their_opener(others: int) -> None:
    """As on the transports of the loop."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")

    class Protocol(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.saw: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.saw.set_result(who.get())

    async def opened(name: str) -> tuple[Any, Any]:
        who.set(name)
        return await udpring.open_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0), tier="mmsg")

    async def main() -> None:
        names = [f"opener {number}" for number in range(1 + others)]
        pairs = [await asyncio.create_task(opened(name)) for name in names]
        for transport, _ in pairs:
            transport.sendto(b"x", transport.get_extra_info("sockname"))
        assert [await protocol.saw for _, protocol in pairs] == names
        for transport, _ in pairs:
            transport.close()
        await turns()

    run(main())


def test_places_of_closed_endpoints_are_taken_again() -> None:
    """Also where several share an instance."""

    async def opened(count: int) -> list[Any]:
        return [
            (
                await udpring.open_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), tier="mmsg"
                )
            )[0]
            for _ in range(count)
        ]

    async def close(transports: list[Any]) -> None:
        for transport in transports:
            transport.close()
        await turns()

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async def main() -> None:
        keep = await opened(1)
        before = descriptors()
        for _ in range(3):
            transports = await opened(3 * LONE_ENDPOINTS)
            assert descriptors() == before + 4 * LONE_ENDPOINTS, (
                "15 instances for one, and one for the others"
            )
            await close(transports)
            assert descriptors() == before + 1, "that for several remains"
        await close(keep)

    before = descriptors()
    run(main())
    assert descriptors() <= before
