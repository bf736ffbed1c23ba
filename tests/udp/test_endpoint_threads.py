"""A loop that runs in one thread and then in another, with its transports."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

import udpring
from udpring.udp.transport import RingTransport

from .conftest import BOUND
from .test_endpoint import Echo, Recorder

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Any:
    made = LOOPS[request.param]()
    yield made
    made.close()


def in_thread(work: Callable[[], object]) -> None:
    """Runs it in a thread of its own, and raises what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(BOUND)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


def test_a_loop_takes_its_transports_to_another_thread(loop: Any) -> None:
    async def make() -> tuple[Any, Any, Any, Any]:
        server_transport, server = await udpring.open_datagram_endpoint(
            Echo, local_addr=("127.0.0.1", 0), tier="mmsg"
        )
        where = server_transport.get_extra_info("sockname")
        transport, client = await udpring.open_datagram_endpoint(Recorder, remote_addr=where, tier="mmsg")
        return server_transport, server, transport, client

    async def talk(transport: Any, client: Any, count: int) -> None:
        async with asyncio.timeout(BOUND):
            before = len(client.calls)
            for number in range(count):
                transport.sendto(b"%d" % number)
            await client.until(before + count)

    async def close(*endpoints: Any) -> None:
        async with asyncio.timeout(BOUND):
            for transport, protocol in zip(endpoints[::2], endpoints[1::2], strict=True):
                transport.close()
                await protocol.until_lost()

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    endpoints = loop.run_until_complete(make())
    assert isinstance(endpoints[0], RingTransport)
    for count in (1, 1, 5, 70, 1):
        in_thread(lambda count=count: loop.run_until_complete(talk(*endpoints[2:], count)))
        loop.run_until_complete(talk(*endpoints[2:], count))
    in_thread(lambda: loop.run_until_complete(close(*endpoints)))
    received = [call[1] for call in endpoints[3].calls if call[0] == "received"]
    rounds = [count for count in (1, 1, 5, 70, 1) for _ in range(2)]
    assert received == [b"%d" % number for count in rounds for number in range(count)]
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


def test_a_thread_beside_the_loop_is_refused(loop: Any) -> None:
    """As before, the transport of a running loop belongs to the thread that runs it."""

    async def main() -> list[Any]:
        transport, client = await udpring.open_datagram_endpoint(
            Recorder, local_addr=("127.0.0.1", 0), tier="mmsg"
        )
        transport.sendto(b"first", transport.get_extra_info("sockname"))
        await client.until(2)
        here = transport._thread

        def misuse() -> None:
            transport._follow()
            with pytest.raises(udpring.WrongThreadError):
                transport._tx.send_batch([b"x"], transport.get_extra_info("sockname"))

        await asyncio.to_thread(in_thread, misuse)
        assert transport._thread == here
        transport.sendto(b"second", transport.get_extra_info("sockname"))
        await client.until(3)
        transport.close()
        await client.until_lost()
        return [call[1] for call in client.calls[1:3]]

    assert loop.run_until_complete(main()) == [b"first", b"second"]


def test_a_forgotten_transport_is_closed_by_another_thread() -> None:
    made: list[int] = []

    async def main() -> None:
        transport, _ = await udpring.open_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), tier="mmsg"
        )
        transport._stop_reading()
        made.append(transport.get_extra_info("socket").fileno())

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    stop = threading.Event()

    def live() -> None:
        asyncio.run(main())
        stop.wait(BOUND)  # the thread that opened it still runs

    thread = threading.Thread(target=live)
    with pytest.warns(ResourceWarning, match="unclosed transport"):  # noqa: PT031
        thread.start()
        while thread.is_alive() and not made:
            thread.join(0.01)
        while len(os.listdir("/proc/self/fd")) > before and thread.is_alive():  # noqa: PTH208
            gc.collect()
            thread.join(0.01)
    stop.set()
    thread.join(BOUND)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
