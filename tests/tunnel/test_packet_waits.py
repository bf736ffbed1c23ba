"""Tasks that wait for packets or for room, and how their waits end."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import secrets
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_plane import FakePlane
from packet_nodes import LOOPS, between, config, node, pair, run, until

import udpring
from udpring._native import ffi, lib
from udpring.errors import ClosedError, WrongThreadError
from udpring.tunnel import attachment
from udpring.tunnel.control import BootClock, End

LEAST = udpring.Packets(send_bytes=1 << 19)
#: A hundred times the capacity of the queue. No socket carries it.
PLENTY = [b"\0" * 1000] * (100 * (1 << 19) // 1000)


@pytest.mark.parametrize("loop", LOOPS)
def test_stop_ends_waits(loop: str) -> None:
    async def iterate(one: udpring.Node) -> int:
        return len([batch async for batch in one.packets])

    async def body() -> None:
        async with pair(attachment=LEAST) as (first, second):
            receiving = asyncio.ensure_future(first.packets.recv())
            iterating = asyncio.ensure_future(iterate(second))
            sending = asyncio.ensure_future(first.packets.send(PLENTY))
            await asyncio.sleep(0)
            port = first.packets
            await first.stop()
            await second.stop()
            for waiting in (receiving, sending):
                with pytest.raises(ClosedError, match="ended"):
                    await waiting
            assert await iterating == 0
            with pytest.raises(ClosedError, match="the node has ended"):
                port.try_send([])
            with pytest.raises(ClosedError, match="the node has ended"):
                await port.recv()
            with pytest.raises(ClosedError, match="the node is not up"):
                _ = first.packets

    run(body, loop)


def test_node_that_ends_by_itself_ends_waits() -> None:
    """As when a worker fails: the program learns of it where it waits for packets."""

    async def body() -> None:
        async with pair() as (first, second):
            waiting = asyncio.ensure_future(second.packets.recv())
            await asyncio.sleep(0)
            tunnel = second._tunnel
            assert tunnel is not None
            tunnel.gone.set_result(End("the worker of the plane cannot go on", failed=True))
            with pytest.raises(ClosedError, match="the node ended while a task waited"):
                await waiting
            assert (await second.wait()).failed
            assert [batch async for batch in second.packets] == []
            assert first.packets.mtu

    run(body)


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelled_receive_loses_nothing(loop: str) -> None:
    async def body() -> None:
        async with pair() as (first, second):
            for number in range(20):
                waiting = asyncio.ensure_future(second.packets.recv())
                await asyncio.sleep(0)
                sent = between(0, 1, bytes([number]))
                if number % 2:
                    first.packets.try_send([sent])
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                if not number % 2:
                    first.packets.try_send([sent])
                assert (await second.packets.recv()).payloads() == [sent]

    run(body, loop)


def test_cancelled_send_leaves_its_turn_to_others() -> None:
    async def body() -> None:
        async with pair(attachment=LEAST) as (first, second):
            sends = [asyncio.ensure_future(first.packets.send(PLENTY)) for _ in range(3)]
            await asyncio.sleep(0)
            for each in sends:
                each.cancel()
            for each in sends:
                with pytest.raises(asyncio.CancelledError):
                    await each
            last = between(0, 1, b"last")
            await first.packets.send([last])
            assert (await second.packets.recv()).payloads() == [last]

    run(body)


def test_batches_of_several_tasks_do_not_mix() -> None:
    """Each is longer than the queue, and the tasks begin at the same time."""
    sizes = (1000, 1100, 1200)

    async def body() -> None:
        async with pair(attachment=LEAST) as (first, _):
            before = first.stats.plane.tun_packets_in
            await asyncio.gather(*(first.packets.send([between(0, 1, bytes(size))] * 600) for size in sizes))
            await until(lambda: first.stats.plane.tun_packets_in == before + 1800)

    run(body)


def test_second_receiver_is_refused() -> None:
    async def body() -> None:
        async with pair() as (first, second):
            waiting = asyncio.ensure_future(second.packets.recv())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task waits for packets"):
                await second.packets.recv()
            await first.packets.send([between(0, 1, b"one")])
            assert (await waiting).payloads() == [between(0, 1, b"one")]

    run(body)


def test_other_threads_are_refused() -> None:
    async def body() -> None:
        async with pair() as (first, _):
            port, refused = first.packets, []

            def elsewhere() -> None:
                for call in (port.try_recv, lambda: port.try_send([])):
                    try:
                        call()
                    except WrongThreadError as error:
                        refused.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert refused == ["a node's packets belong to the thread of its event loop, in its process"] * 2

    run(body)


def test_forked_child_gets_no_packets() -> None:
    """It is refused, and if it asked the core itself, it would read nothing of them."""
    text = secrets.token_bytes(64)

    def read_in_child(port: udpring.PacketPort, handle: Any) -> bool:
        for call in (port.try_recv, lambda: port.try_send([])):
            with pytest.raises(WrongThreadError, match="in its process"):
                call()
        taken = ffi.new("struct udpring_packets **")
        assert lib.udpring_plane_packets_receive(handle, 100, False, taken) == 0
        return text not in bytes(ffi.buffer(taken[0].data, taken[0].bytes))

    async def body() -> None:
        async with pair() as (first, second):
            port, tunnel = second.packets, second._tunnel
            assert tunnel is not None
            await first.packets.send([between(0, 1, text)])
            await until(lambda: second.stats.plane.tun_packets_out == 2)
            child = os.fork()
            if not child:
                good = False
                with contextlib.suppress(BaseException):
                    good = read_in_child(port, tunnel.plane._handle())
                os._exit(0 if good else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert port.try_recv().payloads() == [between(0, 1, text)]

    run(body)


def test_batch_cannot_be_copied() -> None:
    async def body() -> None:
        async with pair() as (_, second):
            batch = second.packets.try_recv()
            assert repr(batch) == "<PacketBatch of 0 packets>"
            with pytest.raises(TypeError, match="cannot be copied or pickled: payloads"):
                copy.copy(batch)

    run(body)


@pytest.mark.parametrize("size", [0, 1000, (1 << 19) + 1, 1 << 18, 1 << 31])
def test_sizes_of_queues_are_checked(size: int) -> None:
    with pytest.raises(ValueError, match=f"send_bytes={size}: use a power of two from 524288 to 1073741824"):
        udpring.Packets(send_bytes=size)
    with pytest.raises(ValueError, match=f"receive_bytes={size}: use a power of two"):
        udpring.Packets(receive_bytes=size)


def test_node_with_interface_has_no_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakePlane(BootClock())
    monkeypatch.setattr(attachment, "Plane", lambda *names, **options: made)

    async def body() -> None:
        async with udpring.Node(config(0, 1)) as one:
            with pytest.raises(TypeError, match="packets go to an interface"):
                _ = one.packets

    run(body)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("loop", LOOPS)
def test_start_and_stop_leave_nothing(loop: str) -> None:
    """With anything waiting or queued at the end."""

    async def body() -> None:
        async with pair():
            pass
        files, running = open_files(), threads()
        for _ in range(30):
            async with pair(workers=2) as (first, second):
                waiting = asyncio.ensure_future(first.packets.recv())
                await first.packets.send([between(0, 1, b"unread")] * 10)
                await asyncio.sleep(0)
            with pytest.raises(ClosedError):
                await waiting
            assert second.config
        assert (open_files(), threads()) == (files, running)

    run(body, loop)


def test_node_says_what_it_is() -> None:
    async def body() -> None:
        async with node(config(0, 1), name="home") as one:
            assert one.name == "home"
            assert one.stats.plane.workers >= 1
        async with node(config(0, 1)) as two, node(config(1, 0)) as three:
            assert two.name != three.name
            assert two.name.startswith("packets")

    run(body)
