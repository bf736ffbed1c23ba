"""``open_datagram_endpoint`` with datagrams that come one at a time: it leaves the batches and returns to
them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

import udpring
import udpring.udp.transport as transport_module
from udpring._native import lib
from udpring.udp.address import from_core
from udpring.udp.alone import ONE_MORE, ONE_OTHER
from udpring.udp.seat import Seat
from udpring.udp.transport import DATAGRAMS_A_TURN

from .conftest import BOUND
from .test_endpoint import LOOPS, Open, Recorder, compared, no_room, ours, run, turns

__all__ = ["no_room", "ours", "run"]  # fixtures


class Counting:
    """Counts the calls of these functions, which return 0 or more where they have done their work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, *names: str) -> None:
        self.counts = dict.fromkeys(names, 0)
        for name in names:
            monkeypatch.setattr(owner, name, self._counted(name, getattr(owner, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            result = call(*arguments, **keywords)
            self.counts[name] += not isinstance(result, int) or result >= 0
            return result

        return counted


class Answering(Recorder):
    """Answers each datagram with the number of datagrams that it names."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("received", data)
        for number in range(int(data)):
            self.transport.sendto(b"%d" % number, addr)


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
def test_sparse_datagrams_go_past_the_batches(
    family: str, run: Callable[..., Any], ours: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        server_transport, server = await ours(Answering, local_addr=(family, 0))
        ring = Counting(monkeypatch, server_transport._rx, "recv_batch")
        transport, client = await ours(Recorder, remote_addr=server_transport.get_extra_info("sockname")[:2])
        calls = Counting(monkeypatch, transport_module, "_receive_one", "_answer")
        for number in range(30):
            transport.sendto(b"1")
            await client.until(2 + number)
        assert client.calls[1:] == [("received", b"0", "tuple")] * 30
        # A tier that wakes without a datagram may also look for a batch.
        assert calls.counts["_receive_one"] >= 40, "both of them"
        assert calls.counts["_answer"] >= 20
        assert ring.counts["recv_batch"] <= 10 or server_transport._rx.tier != "mmsg"
        every = 2 if isinstance(server_transport._rx, Seat) else 1  # a seat counts for both endpoints
        stats = server_transport._rx.stats
        assert (stats["packets"], stats["bytes"]) == (30 * every, 30 * every)
        transport.close()
        server_transport.close()
        await client.until_lost()
        await server.until_lost()

    run(main())


def test_each_answer_goes_to_its_own_source(run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        server_transport, server = await ours(Answering, local_addr=("127.0.0.1", 0))
        where = server_transport.get_extra_info("sockname")
        sources = [await ours(Recorder, remote_addr=where) for _ in range(3)]
        for number in range(24):
            transport, client = sources[number // 2 % 3]
            before = len(client.calls)
            transport.sendto(b"1")
            await client.until(before + 1)
        assert [len(client.calls) for _, client in sources] == [1 + 8] * 3
        for transport, _ in sources:
            transport.close()
        server_transport.close()
        await server.until_lost()

    run(main())


def test_a_new_source_is_told_until_it_is_seen(make_socket: Callable[..., socket.socket]) -> None:
    """An exception in the program may come between."""
    sink, first, second = make_socket(), make_socket(), make_socket()
    with udpring.RecvRing(sink, tier="mmsg") as ring:
        alone = ring._alone(False)
        for source, news in ((first, True), (first, True), (second, True), (second, False), (first, True)):
            source.sendto(b"datagram", sink.getsockname())
            code = lib.udpring_recv_one(alone.memory)
            assert code == len(b"datagram") + ONE_OTHER * news
            assert alone.payload[:8] == b"datagram"
            assert from_core(alone.source[:], False) == source.getsockname()
            if source is second:
                alone.memory.other = False
        alone.close()
        first.sendto(b"datagram", sink.getsockname())
        assert lib.udpring_recv_one(alone.memory) == -errno.EAGAIN


def test_single_datagrams_look_for_company_at_times(make_socket: Callable[..., socket.socket]) -> None:
    """So a transport returns to batches, although it takes one datagram a call."""
    sink, source = make_socket(), make_socket()
    with udpring.RecvRing(sink, tier="mmsg") as ring:
        alone = ring._alone(False)
        for _ in range(40):
            source.sendto(b"x", sink.getsockname())
        marked = 0
        for left in reversed(range(40)):
            code = lib.udpring_recv_one(alone.memory)
            assert code > 0
            assert left or not code & ONE_MORE
            marked += bool(code & ONE_MORE)
        assert marked == 2
        assert lib.udpring_recv_one(alone.memory) == -errno.EAGAIN


def test_a_burst_of_single_datagrams_ends_the_sparse_way(
    run: Callable[..., Any], ours: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        where = transport.get_extra_info("sockname")
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            for number in range(6):
                source.sendto(b"x", where)
                await client.until(2 + number)
            calls = Counting(monkeypatch, transport_module, "_receive_one")
            for _ in range(200):
                source.sendto(b"x", where)
        await client.until(1 + 206)
        assert calls.counts["_receive_one"] <= 20
        transport.close()
        await client.until_lost()

    run(main())


def test_order_from_one_way_to_the_other(run: Callable[..., Any], ours: Open) -> None:
    """A datagram sent at once and datagrams queued after it leave in the order of the calls."""

    async def scenario(open_: Open) -> Any:
        server_transport, server = await open_(Answering, local_addr=("127.0.0.1", 0))
        where = server_transport.get_extra_info("sockname")
        transport, client = await open_(Recorder, remote_addr=where)
        expected: list[bytes] = []
        for count in [1] * 6 + [5] * 6 + [1, 20, 1, 1, 1, 1, 2, 0, 0, 0, 0, 3]:
            transport.sendto(b"%d" % count)
            expected += [b"%d" % number for number in range(count)]
            await client.until(1 + len(expected))
            await server.until(1)
        assert [call[1] for call in client.calls[1:]] == expected
        transport.close()
        server_transport.close()
        await client.until_lost()
        await server.until_lost()
        return client.calls, server.calls

    compared(scenario, run, ours)


def test_what_was_queued_before_leaves_before(run: Callable[..., Any], ours: Open) -> None:
    class Late(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(b"answer " + data, addr)

    async def main() -> None:
        transport, late = await ours(Late, local_addr=("127.0.0.1", 0))
        where = transport.get_extra_info("sockname")
        other, client = await ours(Recorder, remote_addr=where)
        for number in range(20):
            other.sendto(b"%d" % number)
            if number % 4 == 3:
                other._flush()  # the datagram has arrived when the next one is queued
                transport.sendto(b"queued", other.get_extra_info("sockname"))
            await client.until(2 + number + (number + 1) // 4)
            if number % 4 == 3:
                assert [call[1] for call in client.calls[-2:]] == [b"queued", b"answer %d" % number]
        other.close()
        transport.close()
        await client.until_lost()
        await late.until_lost()

    run(main())


def test_from_sparse_to_bulk_and_back(run: Callable[..., Any], ours: Open) -> None:
    """Nothing is lost or reordered, and nothing stays in the ring."""

    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        where = transport.get_extra_info("sockname")
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        expected: list[bytes] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            for count in (
                [1] * 5 + [2] + [1] * 5 + [DATAGRAMS_A_TURN, 1, 1, 1, 3 * DATAGRAMS_A_TURN] + [1] * 5
            ):
                for _ in range(count):
                    expected.append(b"%d" % len(expected))
                    source.sendto(expected[-1], where)
                await client.until(1 + len(expected))
        assert [call[1] for call in client.calls[1:]] == expected
        transport.close()
        await client.until_lost()

    run(main())


@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 60000])
def test_every_size(size: int, run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            for number in range(8):
                source.sendto(bytes(size), transport.get_extra_info("sockname"))
                await client.until(2 + number)
        assert {call[1] if size > 99 else len(call[1]) for call in client.calls[1:]} == {size}
        transport.close()
        await client.until_lost()

    run(main())


def test_trains_among_single_datagrams(run: Callable[..., Any], ours: Open) -> None:
    """A train longer than one wake-up hands over arrives whole, although the socket is empty by then."""

    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        where = transport.get_extra_info("sockname")
        expected = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source, udpring.SendRing(source) as tx:
            for _ in range(4):
                for _ in range(4):
                    source.sendto(b"x", where)
                    expected += 1
                    await client.until(1 + expected)
                most = max(64, DATAGRAMS_A_TURN)
                assert tx.send_batch([b"%3d" % number for number in range(most + 30)], where).accepted
                expected += most + 30
                await client.until(1 + expected)
                assert [call[1] for call in client.calls[-most - 30 :]] == [
                    b"%3d" % number for number in range(most + 30)
                ]
        transport.close()
        await client.until_lost()

    run(main())


class Faulty(Recorder):
    """Answers each datagram with one that cannot be sent, and then with the datagram itself."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("received", data)
        self.transport.sendto(bytes(70000), addr)
        self.transport.sendto(data, addr)


def test_errors_of_what_is_sent_at_once(run: Callable[..., Any], ours: Open) -> None:
    async def scenario(open_: Open) -> Any:
        server_transport, server = await open_(Faulty, local_addr=("127.0.0.1", 0))
        transport, client = await open_(Recorder, remote_addr=server_transport.get_extra_info("sockname"))
        for number in range(10):
            transport.sendto(b"%d" % number)
            await client.until(2 + number)
        await server.until(21)
        transport.close()
        server_transport.close()
        await client.until_lost()
        await server.until_lost()
        return client.calls, server.calls

    _, server = compared(scenario, run, ours)
    assert server.count(("error", "OSError", errno.EMSGSIZE)) == 10


def test_a_port_that_closes_amid_sparse_traffic(run: Callable[..., Any], ours: Open) -> None:
    """Each ICMP error is reported once, and later datagrams are received."""

    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            where = peer.getsockname()
            transport, client = await ours(Answering, remote_addr=where)
            own = transport.get_extra_info("sockname")
            for number in range(6):
                peer.sendto(b"1", own)
                await client.until(2 + number)
        while len(client.calls) < 8:  # the kernel limits the rate of ICMP errors
            transport.sendto(b"nobody hears")
            await asyncio.sleep(0.005)
        said = len(client.calls)
        assert set(client.calls[7:]) == {("error", "ConnectionRefusedError", errno.ECONNREFUSED)}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(where)
            for number in range(6):
                peer.sendto(b"0", own)
                while client.calls[said:].count(("received", b"0")) <= number:
                    await client.until(len(client.calls) + 1)
        transport.close()
        await client.until_lost()

    run(main())


@pytest.mark.usefixtures("no_room")
def test_a_full_socket_queues_what_would_go_at_once(run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        server_transport, server = await ours(Answering, local_addr=("127.0.0.1", 0))
        transport, client = await ours(Recorder, remote_addr=server_transport.get_extra_info("sockname"))
        for number in range(6):
            transport.sendto(b"2")
            await client.until(3 + 2 * number)
        assert [call[1] for call in client.calls[1:]] == [b"0", b"1"] * 6
        transport.close()
        server_transport.close()
        await client.until_lost()
        await server.until_lost()

    run(main())


def test_closing_and_raising_in_a_single_datagram(run: Callable[..., Any], ours: Open) -> None:
    class Ending(Recorder):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.note("received", data)
            self.transport.sendto(b"heard", addr)
            if data == b"end":
                self.transport.close()
            raise ArithmeticError

    async def scenario(open_: Open) -> Any:
        said: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, what: said.append(what["message"]))
        transport, client = await open_(Ending, local_addr=("127.0.0.1", 0))
        other, hears = await open_(Recorder, remote_addr=transport.get_extra_info("sockname"))
        for number in range(6):
            other.sendto(b"end" if number == 5 else b"%d" % number)
            await hears.until(2 + number)
        await client.until_lost()
        other.close()
        await hears.until_lost()
        await turns()
        return client.calls, hears.calls, len(said)

    compared(scenario, run, ours)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_tier(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses the best tier for single datagrams, unless another one is named."""

    async def tier_of(**keywords: Any) -> str:
        async with asyncio.timeout(BOUND):
            transport, _ = await udpring.open_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0), **keywords
            )
            tier: str = transport._rx.tier  # type: ignore[attr-defined]
            transport.close()
            await turns()
        return tier

    monkeypatch.delenv("UDPRING_TIER", raising=False)
    assert LOOPS[loop](tier_of()) == "mmsg"
    for name in ("mmsg", "uring-pool"):
        monkeypatch.setenv("UDPRING_TIER", name)
        try:
            assert LOOPS[loop](tier_of()) == name
        except udpring.RingError:
            assert name != "mmsg", "a host may deny io_uring"
