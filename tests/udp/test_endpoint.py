"""``open_datagram_endpoint``: the same protocols on asyncio's transport and on udpring's."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

import udpring
import udpring.udp.transport as transport_module
from udpring.udp.transport import DATAGRAMS_A_TURN, FLUSH_DATAGRAMS, LONE_TURNS

from .conftest import BOUND

LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
Open = Callable[..., Awaitable[tuple[asyncio.DatagramTransport, Any]]]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Any]:
    """Runs a coroutine in one of the loops, within the bound."""

    async def bounded(main: Awaitable[Any]) -> Any:
        async with asyncio.timeout(BOUND):
            return await main

    return lambda main: LOOPS[request.param](bounded(main))


@pytest.fixture
def ours(tier: str) -> Open:
    async def open_(*arguments: Any, **keywords: Any) -> Any:
        return await udpring.open_datagram_endpoint(*arguments, tier=tier, **keywords)

    return open_


async def theirs(*arguments: Any, **keywords: Any) -> Any:
    return await asyncio.get_running_loop().create_datagram_endpoint(*arguments, **keywords)


class Recorder(asyncio.DatagramProtocol):
    """Records calls, with addresses as names. ``until`` waits for a recorded call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.names: dict[Any, str] = {}
        self._changed = asyncio.Event()

    def note(self, *call: Any) -> None:
        self.calls.append(call if len(call) > 1 else call[0])
        self._changed.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert type(data) is bytes
        self.note(
            "received", data if len(data) < 100 else len(data), self.names.get(addr, type(addr).__name__)
        )

    def error_received(self, exc: Exception) -> None:
        self.note("error", type(exc).__name__, getattr(exc, "errno", None))

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("lost", exc if exc is None else type(exc).__name__)

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    async def until(self, count: int) -> None:
        while len(self.calls) < count:
            self._changed.clear()
            await self._changed.wait()

    async def until_lost(self) -> None:
        while not self.calls or self.calls[-1][0] != "lost":
            self._changed.clear()
            await self._changed.wait()


class Echo(Recorder):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("received", len(data))
        self.transport.sendto(data, addr)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def compared(scenario: Callable[[Open], Awaitable[Any]], run: Callable[..., Any], ours: Open) -> Any:
    """The outcome of the scenario on udpring's transport. It must equal asyncio's."""

    async def bounded(open_: Open) -> Any:
        async with asyncio.timeout(BOUND):
            return await scenario(open_)

    expected = asyncio.run(bounded(theirs))
    got = run(bounded(ours))
    assert got == expected
    return got


# The same protocol on both.


@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
@pytest.mark.parametrize("family", HOSTS, ids=["ipv4", "ipv6"])
def test_echo(family: int, connected: bool, run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        server_transport, server = await open_(Echo, local_addr=(HOSTS[family], 0))
        where = server_transport.get_extra_info("sockname")
        # The destination may be an address as recvfrom returns it, or as people write it.
        if connected:
            transport, client = await open_(Recorder, remote_addr=where[:2])
        else:
            transport, client = await open_(Recorder, local_addr=(HOSTS[family], 0))
        client.names[where] = "the server"
        for size in (1, 2, 99, 1200, 1200, 1200, 7, 60000):
            transport.sendto(bytes(size), None if connected else where)
        await client.until(9)
        transport.sendto(memoryview(b"view"), *([] if connected else [(where[0].encode(), where[1])]))
        transport.sendto(bytearray(b"array"), *([] if connected else [where]))
        await client.until(11)
        peer = transport.get_extra_info("peername")
        transport.close()
        server_transport.close()
        assert transport.is_closing()
        await client.until_lost()
        await server.until_lost()
        return client.calls, server.calls, peer == (where if connected else None), transport.is_closing()

    compared(scenario, run, ours)


@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
def test_a_closed_port(connected: bool, run: Callable[..., Any], ours: Open) -> None:
    """A connected socket reports an ICMP error, and the transport continues."""

    async def scenario(open_: Open) -> Any:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            where = sock.getsockname()
        keywords = {"remote_addr": where} if connected else {"local_addr": ("127.0.0.1", 0)}
        transport, client = await open_(Recorder, **keywords)
        for count in range(3):
            transport.sendto(b"x", None if connected else where)
            if connected:
                await client.until(2 + count)
            else:
                await turns()
        transport.close()
        await client.until_lost()
        return client.calls

    calls = compared(scenario, run, ours)
    assert calls[1:-1] == [("error", "ConnectionRefusedError", 111)] * (3 if connected else 0)


def test_a_datagram_too_long_among_others(run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        server_transport, server = await open_(Recorder, local_addr=("127.0.0.1", 0))
        where = server_transport.get_extra_info("sockname")
        transport, client = await open_(Recorder, local_addr=("127.0.0.1", 0))
        for size in (10, 10, 70000, 10, 20):
            transport.sendto(bytes(size), where)
        await server.until(5)
        await client.until(2)
        transport.close()
        server_transport.close()
        await server.until_lost()
        await client.until_lost()
        return client.calls, server.calls

    client, _ = compared(scenario, run, ours)
    assert client[1] == ("error", "OSError", 90)


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
def test_closing_with_unsent_data(connected: bool, how: str, run: Callable[..., Any], ours: Open) -> None:
    """Data sent before the close leaves. Nothing is received afterwards."""

    async def scenario(open_: Open) -> Any:
        server_transport, server = await open_(Recorder, local_addr=("127.0.0.1", 0))
        where = server_transport.get_extra_info("sockname")
        keywords = {"remote_addr": where} if connected else {"local_addr": ("127.0.0.1", 0)}
        transport, client = await open_(Recorder, **keywords)
        for _ in range(100):
            transport.sendto(b"last words", None if connected else where)
        server_transport.sendto(b"too late", transport.get_extra_info("sockname"))
        getattr(transport, how)()
        getattr(transport, how)()
        transport.close()
        assert transport.is_closing()
        await client.until_lost()
        await server.until(101)
        server_transport.close()
        await server.until_lost()
        return client.calls, server.calls

    compared(scenario, run, ours)


def test_misuse(run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        seen: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, said: seen.append(said["message"]))

        async def tried(*arguments: Any, **keywords: Any) -> None:
            try:
                transport, _ = await open_(Recorder, *arguments, **keywords)
                transport.close()
                seen.append("made")
            except Exception as error:
                seen.append(
                    (type(error).__name__, str(error) if not isinstance(error, OSError) else error.errno)
                )

        def sent(transport: asyncio.DatagramTransport, *arguments: Any) -> None:
            try:
                transport.sendto(*arguments)
                seen.append("sent")
            except Exception as error:
                seen.append((type(error).__name__, str(error)))

        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream, contextlib.suppress(ValueError):
            await open_(Recorder, sock=stream)
            seen.append("a stream")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await tried(sock=sock, local_addr=("127.0.0.1", 0), reuse_port=True)
            sock.bind(("127.0.0.1", 0))
            await tried(local_addr=sock.getsockname())
        await tried()
        await tried(local_addr="127.0.0.1")
        await tried(local_addr=("127.0.0.1", 0), remote_addr=("::1", 9))
        await tried(local_addr=("127.0.0.1", 0), family=socket.AF_INET6)
        await tried(family=socket.AF_INET)
        await tried(("127.0.0.1", 0), ("127.0.0.1", 9))
        transport, client = await open_(Recorder, remote_addr=("127.0.0.1", 9))
        sent(transport, "text")
        sent(transport, 5)
        sent(transport, b"x", ("127.0.0.1", 10))
        transport.close()
        await client.until_lost()
        for address in (None, 5, ("127.0.0.1",), ["127.0.0.1", 5]):
            transport, client = await open_(Recorder, local_addr=("127.0.0.1", 0))
            sent(transport, b"x", address)
            await client.until_lost()
            seen.append(client.calls)
        return seen

    compared(scenario, run, ours)


def test_extra_info_and_limits(run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        transport, client = await open_(Recorder, local_addr=("127.0.0.1", 0))
        sock = transport.get_extra_info("socket")
        seen = [
            transport.get_extra_info("sockname") == sock.getsockname(),
            transport.get_extra_info("peername", "none"),
            transport.get_extra_info("nothing", 5),
            sock.family,
            transport.get_write_buffer_limits(),
            transport.get_write_buffer_size(),
            transport.get_protocol() is client,
        ]
        for keywords in ({}, {"high": 100}, {"low": 10}, {"high": 7, "low": 7}, {"high": 1, "low": 2}):
            try:
                transport.set_write_buffer_limits(**keywords)
            except ValueError as error:
                seen.append(str(error))
            seen.append(transport.get_write_buffer_limits())
        transport.close()
        await client.until_lost()
        return seen

    compared(scenario, run, ours)


def test_a_socket_of_the_programs_own(run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        transport, client = await open_(Recorder, sock=sock)
        transport.sendto(b"to myself", sock.getsockname())
        await client.until(2)
        transport.close()
        await client.until_lost()
        return client.calls, sock.fileno()

    compared(scenario, run, ours)


def test_nothing_leaves_by_a_reused_descriptor(run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        number = sock.fileno()
        transport, client = await open_(Recorder, sock=sock)
        sock.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            reused = other.fileno() != number and os.dup2(other.fileno(), number)
            other.bind(("127.0.0.1", 0))
            other.settimeout(BOUND)
            transport.sendto(b"astray", other.getsockname())
            other.sendto(b"after it", other.getsockname())
            received = other.recv(100)
            await client.until(2)
            transport.close()
            await client.until_lost()
            if reused:
                os.close(number)
        return client.calls, received

    calls, received = compared(scenario, run, ours)
    assert calls == ["made", ("error", "OSError", errno.EBADF), ("lost", None)]
    assert received == b"after it"


def test_broadcast_sends_to_one_address_unconnected(run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        server_transport, server = await open_(Recorder, local_addr=("127.0.0.1", 0))
        where = server_transport.get_extra_info("sockname")
        transport, client = await open_(
            Recorder, remote_addr=where, allow_broadcast=True, family=socket.AF_INET
        )
        transport.sendto(b"a")
        transport.sendto(b"b", where)
        with pytest.raises(ValueError, match="Invalid address"):
            transport.sendto(b"c", ("127.0.0.1", 1))
        await server.until(3)
        broadcast = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        peer = transport.get_extra_info("peername")
        transport.close()
        server_transport.close()
        await client.until_lost()
        await server.until_lost()
        return client.calls, server.calls, broadcast, peer

    compared(scenario, run, ours)


def test_one_port_for_several(run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        one, first = await open_(Recorder, local_addr=("127.0.0.1", 0), reuse_port=True)
        other, second = await open_(Recorder, local_addr=one.get_extra_info("sockname"), reuse_port=True)
        one.close()
        other.close()
        await first.until_lost()
        await second.until_lost()
        return first.calls, second.calls

    compared(scenario, run, ours)


def test_closing_while_receiving(run: Callable[..., Any], ours: Open) -> None:
    class Once(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.note("received", data)
            self.transport.close()

    async def scenario(open_: Open) -> Any:
        transport, client = await open_(Once, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            for number in range(10):
                source.sendto(b"%d" % number, transport.get_extra_info("sockname"))
        await client.until_lost()
        return client.calls

    assert compared(scenario, run, ours) == ["made", ("received", b"0"), ("lost", None)]


def test_a_protocol_that_raises(run: Callable[..., Any], ours: Open) -> None:
    class Broken(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.note("received", data)
            raise ArithmeticError(data)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            raise ArithmeticError("lost")

    async def scenario(open_: Open) -> Any:
        said: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, what: said.append(repr(what["exception"]))
        )
        transport, client = await open_(Broken, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            for number in range(10):
                source.sendto(b"%d" % number, transport.get_extra_info("sockname"))
        await client.until(11)
        transport.close()
        await client.until_lost()
        await turns()
        return client.calls, said

    compared(scenario, run, ours)


# Only udpring's transport has these.


def test_one_turn_sends_one_batch(run: Callable[..., Any], ours: Open) -> None:
    """After a turn that sent several. While turns send one each, the first leaves at once."""

    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        where = transport.get_extra_info("sockname")
        batches = []
        transport._sender = udpring.SendRing(transport._sock)  # of its own
        send = transport._tx.send_batch
        transport._tx.send_batch = lambda payloads, *rest: (
            batches.append(len(payloads)) or send(payloads, *rest)
        )
        lone = [(1, 1)] * LONE_TURNS
        steps = [(1, 0), (1, 0), (3, 2), *lone, (1, 0), (4, 3), (50, 50), *lone[1:], (2, 2), (1, 1)]
        for count, queued in steps:
            batches.clear()
            for _ in range(count):
                transport.sendto(b"x", where)
            assert transport.get_write_buffer_size() == queued
            await turns(2)
            assert transport.get_write_buffer_size() == 0
            assert batches == [queued] * (queued > 0)
        await client.until(1 + sum(count for count, _ in steps))
        for _ in range(2):
            transport.sendto(b"x", where)
        await turns(2)
        # A long queue is sent before the end of the turn. So is one above the high water mark.
        batches.clear()
        for _ in range(FLUSH_DATAGRAMS + 2):
            transport.sendto(b"x", where)
        assert batches == [FLUSH_DATAGRAMS]
        await turns(2)
        transport.set_write_buffer_limits(high=5000)
        for _ in range(6):
            transport.sendto(bytes(1000), where)
        assert batches[2:] == [6]
        assert "pause" not in client.calls
        transport.close()
        await client.until_lost()

    run(main())


def test_received_batch_keeps_sends_in_batches(run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            steps = [(1, [0]), (2, [1] * LONE_TURNS + [0]), (1, [0])]
            arrived = 1
            for count, queued in steps:
                for _ in range(count):
                    other.sendto(b"x", transport.get_extra_info("sockname"))
                arrived += count
                await client.until(arrived)
                for expected in queued:
                    transport.sendto(b"y", other.getsockname())
                    assert transport.get_write_buffer_size() == expected
                    await turns(2)
        transport.close()
        await client.until_lost()

    run(main())


def test_order_is_kept_for_each_destination(run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        sinks = [await ours(Recorder, local_addr=("127.0.0.1", 0)) for _ in range(3)]
        where = [sink.get_extra_info("sockname") for sink, _ in sinks]
        for number in range(90):
            transport.sendto(b"%d" % number, where[number % 3])
        for place, (sink, protocol) in enumerate(sinks):
            await protocol.until(31)
            assert [call[1] for call in protocol.calls[1:]] == [b"%d" % n for n in range(place, 90, 3)]
            sink.close()
        transport.close()
        await client.until_lost()
        await turns()

    run(main())


def test_a_flood_lets_timers_run(run: Callable[..., Any], ours: Open) -> None:
    """The test counts instead of timing: datagrams between two turns of the loop."""

    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        most = seen = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            for _ in range(300):
                source.sendto(b"x", transport.get_extra_info("sockname"))
            while len(client.calls) < 301:
                most, seen = max(most, len(client.calls) - seen), len(client.calls)
                await asyncio.sleep(0)
        assert most <= DATAGRAMS_A_TURN
        transport.close()
        await client.until_lost()

    run(main())


class Full:
    """A send ring whose socket has room for ``room`` datagrams."""

    def __init__(self, ring: Any) -> None:
        self.ring, self.room = ring, 0
        self.sent: list[bytes] = []

    def send_batch(self, payloads: list[bytes], address: Any, timeout: float) -> udpring.SendReport:
        assert timeout == 0
        going, self.room = payloads[: self.room], max(0, self.room - len(payloads))
        self.sent += going
        errors: list[tuple[int, OSError]] = [
            (index, BlockingIOError(11, "again")) for index in range(len(going), len(payloads))
        ]
        return udpring.SendReport(len(going), errors)

    def close(self) -> None:
        self.ring.close()


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """No datagram is sent at once."""
    for call in ("_answer", "_send_alone"):
        monkeypatch.setattr(transport_module, call, lambda *_: 1)


@pytest.mark.usefixtures("no_room")
def test_wait_for_room_without_a_descriptor(tier: str) -> None:
    """uvloop waits with a duplicate of the socket, where an endpoint has rings of its own."""

    async def main() -> None:
        transport, client = await udpring.open_datagram_endpoint(
            Recorder, local_addr=("127.0.0.1", 0), tier=tier
        )
        full = transport._sender = Full(udpring.SendRing(transport._sock))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        unused = os.dup(0)
        os.close(unused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused, limits[1]))
        try:
            transport.sendto(b"no room", transport.get_extra_info("sockname"))
            transport.flush()
            async with asyncio.timeout(BOUND):
                if tier == "mmsg":
                    full.room = 1
                    while not full.sent:
                        await asyncio.sleep(0)
                    transport.close()
                await client.until_lost()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert client.calls == ["made", ("lost", None if tier == "mmsg" else "OSError")]

    uvloop.run(main())


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_full_socket_pauses_the_protocol(how: str, run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        where = transport.get_extra_info("sockname")
        full = transport._sender = Full(udpring.SendRing(transport._sock))
        transport.set_write_buffer_limits(high=10, low=2)
        sent = [b"%d" % number for number in range(10)]
        for payload in sent:
            transport.sendto(payload, where)
        await turns()
        assert client.calls == ["made"], "ten bytes are not above the mark"
        transport.sendto(b"one more", where)
        assert client.calls == ["made", "pause"]
        assert transport.get_write_buffer_size() == 18
        full.room = 4
        while len(full.sent) < 4:
            await asyncio.sleep(0)
        assert client.calls == ["made", "pause"]
        full.room = 7 if how == "close" else 6
        while len(full.sent) < (11 if how == "close" else 10):
            await asyncio.sleep(0)
        if how == "close":
            assert client.calls == ["made", "pause", "resume"]
            transport.sendto(b"a", where)
            await turns()
            transport.close()
            transport.sendto(b"not any more", where)
            await turns()
            assert transport.get_protocol().calls[-1][0] != "lost", "what was queued is still to be sent"
            full.room = 9
            await client.until_lost()
            assert full.sent == [*sent, b"one more", b"a"]
        else:
            transport.abort()
            await client.until_lost()
            assert full.sent == sent
        assert transport.get_write_buffer_size() == 0

    run(main())


def test_nothing_is_left_behind(run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        async def once() -> None:
            transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
            transport.sendto(b"x", transport.get_extra_info("sockname"))
            await client.until(2)
            transport.close()
            await client.until_lost()
            await turns()

        await once()
        gc.collect()
        before = os.listdir("/proc/self/fd")  # noqa: PTH208
        for _ in range(10):
            await once()
        gc.collect()
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208

    run(main())


def test_refused_descriptors_leave_nothing_behind(run: Callable[..., Any], ours: Open) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def attempt(spare: int) -> bool:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        numbers = [os.dup(sock.fileno()) for _ in range(spare + 1)]
        for number in numbers:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (numbers[-1], limits[1]))
        try:
            transport, client = await ours(Recorder, sock=sock)
        except OSError as refused:
            if refused.errno != errno.EMFILE:
                raise
            return False
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        transport.close()
        await client.until_lost()
        return True

    async def main() -> None:
        assert await attempt(20)
        gc.collect()
        before = os.listdir("/proc/self/fd")  # noqa: PTH208
        spare = 0
        while not await attempt(spare):
            spare += 1
        gc.collect()
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208

    run(main())


def test_a_forgotten_transport_warns_and_is_closed(tier: str) -> None:
    async def main() -> int:
        transport, _ = await udpring.open_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), tier=tier
        )
        transport._stop_reading()
        return transport.get_extra_info("socket").fileno()

    def forget() -> int:
        descriptor = asyncio.run(main())
        gc.collect()
        return descriptor

    with pytest.warns(ResourceWarning, match="unclosed transport"):
        descriptor = forget()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_receive_ring_that_fails_ends_the_connection(run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))

        def broken(*_: Any) -> None:
            raise udpring.RingError("gone", errno=5)

        transport._rx.recv_batch = broken
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await client.until_lost()
        assert client.calls == ["made", ("lost", "RingError")]

    run(main())


def test_names_are_resolved(run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("localhost", 0), family=socket.AF_INET)
        assert transport.get_extra_info("sockname")[0].startswith("127.")
        transport.sendto(b"x", ("localhost", transport.get_extra_info("sockname")[1]))
        await client.until(2)
        with pytest.raises(socket.gaierror) as refused:
            await ours(Recorder, local_addr=("no such host.invalid", 0))
        transport.sendto(b"x", ("no such host.invalid", 1))
        await client.until(3)
        # musl asks a server for this name. Without one it says EAI_AGAIN, not EAI_NONAME.
        assert client.calls[2] == ("error", "gaierror", refused.value.errno)
        transport.close()
        await client.until_lost()

    run(main())


def test_it_needs_asyncio() -> None:
    opening = udpring.open_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    with pytest.raises(RuntimeError, match="no running event loop"):
        opening.send(None)


def test_receiving_needs_no_asyncio() -> None:
    """This holds with a descriptor for event loops too. A task's first wait imports asyncio."""
    program = (
        "import socket, sys, udpring\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, udpring.RecvRing(sock) as ring:\n"
        "    assert ring.fileno() >= 0 and not len(ring.recv_batch(timeout=0))\n"
        "sys.exit('asyncio' in sys.modules)\n"
    )
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOUND)
    assert (done.returncode, done.stderr) == (0, "")
