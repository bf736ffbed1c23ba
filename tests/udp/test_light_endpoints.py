"""The endpoints of an event loop share their buffers, and have no descriptor but their socket."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

import udpring
from udpring import RingError, WrongThreadError
from udpring._native import lib
from udpring.udp.endpoint_socket import _numeric
from udpring.udp.seat import Seat, Seats

from .conftest import BOUND, SOL_UDP, UDP_GRO, cut, send_train

LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
MakeSocket = Callable[..., socket.socket]
IP_RECVERR = 11  # linux/in.h

MANY = """
import asyncio, gc, os, sys
import udpring

COUNT = 300

class Protocol(asyncio.DatagramProtocol):
    got = 0

    def datagram_received(self, data, addr):
        Protocol.got += 1

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def opened():
    return (await udpring.open_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0)))[0]

async def main():
    first = [await opened() for _ in range(20)]  # under uvloop the first ones have more than a socket
    gc.collect()
    before, memory = descriptors(), resident()
    transports = [await opened() for _ in range(COUNT)]
    for number, transport in enumerate(transports):
        to = transports[number - 1].get_extra_info("sockname")
        for _ in range(4):
            transport.sendto(bytes(1200), to)
    while Protocol.got < 4 * COUNT:
        await asyncio.sleep(0.01)
    print(descriptors() - before - COUNT, resident() - memory)
    for transport in (*first, *transports):
        transport.close()
    await asyncio.sleep(0)

if sys.argv[1] == "uvloop":
    import uvloop
    run = uvloop.run
else:
    run = asyncio.run
run(asyncio.wait_for(main(), 60))
"""


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Any]:
    """Runs a coroutine in one of the loops, within the bound."""

    async def bounded(main: Awaitable[Any]) -> Any:
        async with asyncio.timeout(BOUND):
            return await main

    return lambda main: LOOPS[request.param](bounded(main))


@pytest.mark.parametrize("loop", LOOPS)
def test_an_endpoint_costs_its_socket_and_little_memory(loop: str) -> None:
    """Also after each has sent a burst and received one."""
    environment = {name: value for name, value in os.environ.items() if name != "UDPRING_TIER"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", MANY, loop],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    extra, memory = map(int, done.stdout.split())
    assert extra <= 0
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        assert memory < 300 * 20 * 1024


def test_a_transport_has_a_dictionary_only_when_needed() -> None:
    """Most of the memory and of the time to open one would be that dictionary."""

    async def main() -> None:
        transport, _ = await udpring.open_datagram_endpoint(
            Receiver, local_addr=("127.0.0.1", 0), tier="mmsg"
        )
        other: Any = transport
        try:
            assert vars(transport) == vars(transport._rx) == {}
            other.of_the_program = 1
            assert vars(transport) == {"of_the_program": 1}
        finally:
            transport.close()

    asyncio.run(main())


class Receiver(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[tuple[bytes, Any]] = []
        self.arrived = asyncio.Event()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append((data, addr))
        self.arrived.set()


def test_an_error_queue_does_not_keep_the_loop_busy(run: Callable[..., Any], make_socket: MakeSocket) -> None:
    """A send takes the error of the one before, and its entry stays in the queue."""

    async def main() -> None:
        sock, gone = make_socket(), make_socket()
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        nobody = gone.getsockname()
        gone.close()
        transport, _ = await udpring.open_datagram_endpoint(Receiver, sock=sock, tier="mmsg")
        await asyncio.sleep(0)
        sock.sendto(b"x", nobody)
        with pytest.raises(ConnectionRefusedError):
            sock.sendto(b"x", nobody)
        look = select.poll()
        look.register(sock, 0)
        assert look.poll(0)
        loop = asyncio.get_running_loop()
        end = loop.time() + BOUND
        while look.poll(0):
            assert loop.time() < end, "its error queue has entries still"
            await asyncio.sleep(0)
        transport.close()

    run(main())


def test_batches_of_a_turn_leave_by_their_own_sockets(run: Callable[..., Any]) -> None:
    async def main() -> None:
        pairs = []
        for host in ("127.0.0.1", "::1", "127.0.0.1"):
            pairs.append(await udpring.open_datagram_endpoint(Receiver, local_addr=(host, 0)))
        names = [transport.get_extra_info("sockname") for transport, _ in pairs]
        for turn in range(3):
            for place, (transport, _) in enumerate(pairs):
                to = names[place] if place == 1 else names[2 - place]
                for number in range(5):
                    transport.sendto(b"%d of %d in %d" % (number, place, turn), to)
            await asyncio.sleep(0)
        for place, (_, protocol) in enumerate(pairs):
            source = place if place == 1 else 2 - place
            while len(protocol.got) < 15:
                protocol.arrived.clear()
                await asyncio.wait_for(protocol.arrived.wait(), BOUND)
            assert protocol.got == [
                (b"%d of %d in %d" % (number, source, turn), names[source])
                for turn in range(3)
                for number in range(5)
            ]
        for transport, _ in pairs:
            transport.close()

    run(main())


def test_the_loop_refuses_readers_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does for its own transports. It polls the socket itself on the default tier only."""
    monkeypatch.delenv("UDPRING_TIER", raising=False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for opener in (udpring.open_datagram_endpoint, loop.create_datagram_endpoint):
            transport, _ = await opener(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
            descriptor = transport.get_extra_info("socket").fileno()
            with pytest.raises(RuntimeError, match="used by transport"):
                loop.add_reader(descriptor, print)
            transport.close()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_seats_read_their_own_sockets(make_socket: MakeSocket) -> None:
    sinks, source = [make_socket() for _ in range(3)], make_socket()
    shared = Seats()
    seats = [Seat(sink, shared) for sink in sinks]
    for number in range(4):
        for place, sink in enumerate(sinks):
            source.sendto(b"%d to %d" % (number, place), sink.getsockname())
    for place in (2, 0, 1):
        alone = seats[place]._alone(False)
        length = lib.udpring_recv_one(alone.memory) & 0xFFFF
        assert alone.payload[:length] == b"0 to %d" % place
        batch = seats[place].recv_batch(64, 0)
        assert batch.payloads() == [b"%d to %d" % (number, place) for number in (1, 2, 3)]
        assert batch.sockets == [sinks[place]] * 3
        assert not seats[place].recv_batch(64, 0)
    for seat in seats:
        seat.close()


def test_a_train_is_left_to_the_batch(make_socket: MakeSocket) -> None:
    first, second, source = make_socket(), make_socket(), make_socket()
    shared = Seats()
    seats = Seat(first, shared), Seat(second, shared)
    for sock, seat in zip((first, second), seats, strict=True):
        send_train(source, sock.getsockname(), b"t" * 400, 100)  # from now on trains come
        assert seat.recv_batch(64, 0).payloads() == [b"t" * 100] * 4
    for fetched in (True, False):
        send_train(source, first.getsockname(), b"t" * 900, 100)
        source.sendto(b"other", second.getsockname())
        assert lib.udpring_recv_one(seats[0]._alone(False).memory) == -errno.EAGAIN
        if fetched:
            assert seats[0].recv_batch(64, 0).payloads() == [b"t" * 100] * 9
        # Otherwise an exception kept the endpoint from fetching it. Others do not get it.
        assert seats[1].recv_batch(64, 0).payloads() == [b"other"]
    assert seats[0].stats["removed"] == 9
    assert not seats[0].recv_batch(64, 0)
    for seat in seats:
        seat.close()


def test_trains_come_once_datagrams_come_together(make_socket: MakeSocket) -> None:
    """Until then a single datagram costs less."""

    def trains(sock: socket.socket) -> int:
        return sock.getsockopt(SOL_UDP, UDP_GRO)

    sink, other, source = make_socket(), make_socket(), make_socket()
    shared = Seats()
    seat, calm = Seat(sink, shared), Seat(other, shared)
    for _ in range(20):
        for each, to in ((seat, sink), (calm, other)):
            source.sendto(b"single", to.getsockname())
            assert lib.udpring_recv_one(each._alone(False).memory) & 0xFFFF == 6
    source.sendto(b"empty follows", sink.getsockname())
    source.sendto(b"", sink.getsockname())
    assert seat.recv_batch(64, 0).payloads() == [b"empty follows", b""]
    assert not trains(sink)
    send_train(source, sink.getsockname(), b"t" * 450, 100)
    assert seat.recv_batch(64, 0).payloads() == cut(b"t" * 450, 100)
    assert trains(sink)
    assert not trains(other)
    assert seat.stats["trains"] == 0
    send_train(source, sink.getsockname(), b"t" * 450, 100)
    assert lib.udpring_recv_one(seat._alone(False).memory) == -errno.EAGAIN
    assert seat.recv_batch(64, 0).payloads() == cut(b"t" * 450, 100)
    assert seat.stats["trains"] == 1
    seat.close()
    assert not trains(sink)
    calm.close()


def test_trains_of_the_programs_own_are_cut(make_socket: MakeSocket) -> None:
    """It has switched UDP_GRO on for its socket, which stays so."""
    sink, source = make_socket(), make_socket()
    sink.setsockopt(SOL_UDP, UDP_GRO, 1)
    seat = Seat(sink, Seats())
    send_train(source, sink.getsockname(), b"t" * 250, 100)
    assert lib.udpring_recv_one(seat._alone(False).memory) == -errno.EAGAIN
    assert seat.recv_batch(64, 0).payloads() == cut(b"t" * 250, 100)
    seat.close()
    assert sink.getsockopt(SOL_UDP, UDP_GRO)


def test_a_closed_socket_ends_its_seat_alone(make_socket: MakeSocket) -> None:
    sink, other, source = make_socket(), make_socket(), make_socket()
    shared = Seats()
    seats = Seat(sink, shared), Seat(other, shared)
    sink.close()
    replacement = make_socket()  # the kernel gives it the number
    third = Seat(replacement, shared)
    source.sendto(b"new", replacement.getsockname())
    source.sendto(b"other", other.getsockname())
    for _ in range(2):
        with pytest.raises(RingError) as refused:
            seats[0].recv_batch(64, 0)
        assert refused.value.errno == errno.EBADF
    assert third.recv_batch(64, 0).payloads() == [b"new"]
    assert seats[1].recv_batch(64, 0).payloads() == [b"other"]
    for seat in (*seats, third):
        seat.close()


def test_threads_have_seats_of_their_own(make_socket: MakeSocket) -> None:
    sinks, source = [make_socket() for _ in range(4)], make_socket()
    mine = Seat(sinks[0], Seats())
    failures: list[BaseException] = []

    def work(sink: socket.socket) -> None:
        try:
            with pytest.raises(WrongThreadError):
                mine.recv_batch(64, 0)
            seat = Seat(sink, Seats())
            for number in range(100):
                source.sendto(b"%d" % number, sink.getsockname())
                assert seat.recv_batch(64, 0).payloads() == [b"%d" % number]
            seat.close()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(sink,)) for sink in sinks[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    source.sendto(b"mine", sinks[0].getsockname())
    assert mine.recv_batch(64, 0).payloads() == [b"mine"]
    mine.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_has_seats_of_its_own(make_socket: MakeSocket) -> None:
    sink, source = make_socket(), make_socket()
    seat = Seat(sink, Seats())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.raises(WrongThreadError):
                seat.recv_batch(64, 0)
            own = socket.socket(type=socket.SOCK_DGRAM)
            own.bind(("127.0.0.1", 0))
            fresh = Seat(own, Seats())
            source.sendto(b"child", own.getsockname())
            assert fresh.recv_batch(64, 0).payloads() == [b"child"]
            fresh.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    source.sendto(b"parent", sink.getsockname())
    assert seat.recv_batch(64, 0).payloads() == [b"parent"]
    seat.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "2001:DB8::0:1", "::ffff:1.2.3.4", "fe80::1"],
)
@pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6])
def test_plain_addresses_are_those_of_getaddrinfo(host: str, family: int) -> None:
    plain = _numeric((host, 53), family, 0)
    try:
        found = socket.getaddrinfo(host, 53, family, socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        assert plain is None
        return
    assert plain is None or found == [plain]
    assert plain is not None or family == socket.AF_INET6 or "." in host[2:]


@pytest.mark.parametrize(
    "place", [("localhost", 1), ("", 1), (None, 1), ("1.2", 1), ("::1%lo", 1), ("::1", "http")]
)
def test_other_hosts_are_left_to_getaddrinfo(place: object) -> None:
    assert _numeric(place, 0, 0) is None


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
def test_a_collection_while_an_endpoint_opens_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take the last other endpoint of the loop."""
    monkeypatch.delenv("UDPRING_TIER", raising=False)
    hold = Seats.hold

    class Protocol(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.got.set_result(data)

    async def main() -> None:
        left: list[Any] = [await udpring.open_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))]
        left[0][0].pause_reading()  # the loop forgets it

        def held(loop: asyncio.AbstractEventLoop) -> Seats:
            seats = hold(loop)
            left.clear()
            gc.collect()
            return seats

        monkeypatch.setattr(Seats, "hold", staticmethod(held))
        transport, protocol = await udpring.open_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
        transport.sendto(b"here", transport.get_extra_info("sockname"))
        assert await asyncio.wait_for(protocol.got, BOUND) == b"here"
        transport.close()

    asyncio.run(main())
