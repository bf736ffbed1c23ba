"""``pause_reading`` and ``resume_reading`` of a datagram transport, and its base classes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

import udpring
from udpring.udp.transport import DATAGRAMS_A_TURN

from .conftest import send_train
from .test_endpoint import Open, Recorder, ours, run, turns

__all__ = ["ours", "run"]  # fixtures


class Pausing(Recorder):
    """Pauses at each datagram whose number is in ``pauses``."""

    pauses: tuple[int, ...] = ()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("received", int(data))
        if int(data) in self.pauses:
            self.transport.pause_reading()

    def numbers(self) -> list[int]:
        return [call[1] for call in self.calls if call[0] == "received"]

    async def until_number(self, number: int) -> None:
        while number not in self.numbers():
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
def source() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


def test_it_is_both_kinds_of_transport(run: Callable[..., Any], ours: Open) -> None:
    async def main() -> None:
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        assert isinstance(transport, asyncio.DatagramTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, udpring.RingTransport)
        with pytest.raises(NotImplementedError):
            transport.write(b"x")
        transport.close()
        await client.until_lost()

    run(main())


@pytest.mark.parametrize("train", [False, True], ids=["single datagrams", "trains"])
def test_nothing_comes_while_it_is_paused(
    train: bool, run: Callable[..., Any], ours: Open, source: socket.socket
) -> None:
    """Pauses at the first, in the middle and at the last datagram of a batch lose and reorder nothing."""

    async def main() -> None:
        transport, client = await ours(Pausing, local_addr=("127.0.0.1", 0))
        where = transport.get_extra_info("sockname")
        client.pauses = (0, 5, 6, 63, 64, 100, 127, 199)
        if train:  # longer than one turn hands over, so the ring keeps the rest
            assert DATAGRAMS_A_TURN < 128
            send_train(source, where, b"".join(b"%03d" % number for number in range(128)), 3)
            send_train(source, where, b"".join(b"%03d" % number for number in range(128, 200)), 3)
        else:
            for number in range(200):
                source.sendto(b"%d" % number, where)
        for number in client.pauses:
            await client.until_number(number)
            assert not transport.is_reading()
            await turns(5)
            assert client.numbers() == list(range(number + 1))
            transport.pause_reading()
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
        source.sendto(b"200", where)
        await client.until_number(200)
        transport.close()
        assert not transport.is_reading()
        await client.until_lost()
        assert client.numbers() == list(range(201))

    run(main())


def test_a_pause_before_the_first_datagram(
    run: Callable[..., Any], ours: Open, source: socket.socket
) -> None:
    class Early(Pausing):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        transport, client = await ours(Early, local_addr=("127.0.0.1", 0))
        source.sendto(b"1", transport.get_extra_info("sockname"))
        await turns()
        assert client.calls == ["made"]
        transport.resume_reading()
        await client.until_number(1)
        transport.close()
        await client.until_lost()

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_while_it_is_paused(
    how: str, run: Callable[..., Any], ours: Open, source: socket.socket
) -> None:
    async def main() -> None:
        transport, client = await ours(Pausing, local_addr=("127.0.0.1", 0))
        client.pauses = (2,)
        for number in range(6):
            source.sendto(b"%d" % number, transport.get_extra_info("sockname"))
        await client.until_number(2)
        getattr(transport, how)()
        transport.resume_reading()
        assert not transport.is_reading()
        await client.until_lost()
        await turns()
        assert client.numbers() == [0, 1, 2]

    run(main())


def test_sending_goes_on_while_it_is_paused(
    run: Callable[..., Any], ours: Open, source: socket.socket
) -> None:
    async def main() -> None:
        source.bind(("127.0.0.1", 0))
        source.settimeout(30)
        transport, client = await ours(Recorder, local_addr=("127.0.0.1", 0))
        transport.pause_reading()
        for number in range(3):
            transport.sendto(b"%d" % number, source.getsockname())
        await turns()
        assert [source.recv(10) for _ in range(3)] == [b"0", b"1", b"2"]
        transport.close()
        await client.until_lost()

    run(main())
