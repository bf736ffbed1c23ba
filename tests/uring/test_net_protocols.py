"""ProtocolNet: protocols in the manner of asyncio, on io_uring and on epoll."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import uvloop

from udpring.errors import WrongThreadError
from udpring.uring import NetProtocol, NetTransport, ProtocolNet

from .nets import FOUND, PATIENCE, connected, noise, received, serving
from .reactors import SANITIZED, descriptors

# Older kernels differ below what protocols see. The rest is Python, which needs no sanitised core.
CHOSEN = ["io_uring"] if SANITIZED else ["io_uring", "epoll"]


@pytest.fixture(params=[each for each in FOUND if each.id in CHOSEN])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


class Recorder(NetProtocol):
    """Notes its callbacks."""

    keeps_half_open = False
    made: ClassVar[list[Recorder]]

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.data = bytearray()

    def connection_made(self, transport: NetTransport) -> None:
        self.transport = transport
        self.calls.append("made")
        type(self).made.append(self)

    def data_received(self, data: bytes) -> None:
        if self.calls[-1] != "data":
            self.calls.append("data")
        self.data += data

    def eof_received(self) -> object:
        self.calls.append("eof")
        return self.keeps_half_open

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append(error)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


@pytest.fixture
def recorder() -> type[Recorder]:
    class Fresh(Recorder):
        made: ClassVar[list[Recorder]] = []

    return Fresh


class Echo(NetProtocol):
    def connection_made(self, transport: NetTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def run_until(net: ProtocolNet, condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        net.step(0.02)  # what it sends is no event


def talk(net: ProtocolNet, factory: type[Recorder]) -> tuple[Recorder, socket.socket]:
    """A protocol and its peer."""
    address = next(iter(net.listeners.values())) if net.listeners else net.listen("127.0.0.1", 0)
    peer = connected(address)
    before = len(factory.made)
    run_until(net, lambda: len(factory.made) > before)
    return factory.made[-1], peer


@pytest.mark.parametrize("views", [False, True])
def test_echo_of_protocols(options: dict[str, Any], views: bool) -> None:
    net = ProtocolNet(Echo, views=views, **options)
    address = net.listen("127.0.0.1", 0)
    payload = noise(300_000)

    def exchange(_number: int) -> bool:
        with connected(address) as sock, ThreadPoolExecutor(1) as pool:
            sending = pool.submit(sock.sendall, payload)
            assert received(sock, len(payload)) == payload
            sending.result(PATIENCE)
            return True

    before = descriptors()
    with serving(net, lambda each: net.run()), ThreadPoolExecutor(8) as pool:
        assert all(pool.map(exchange, range(16)))
    assert net.failures == 0
    assert not descriptors() - before


def test_callbacks_come_in_order(options: dict[str, Any], recorder: type[Recorder]) -> None:
    with ProtocolNet(recorder, **options) as net:
        protocol, peer = talk(net, recorder)
        with peer:
            transport = protocol.transport
            assert transport.get_extra_info("peername") == peer.getsockname()
            assert transport.get_extra_info("sockname") == peer.getpeername()
            with transport.get_extra_info("socket") as duplicate:
                assert duplicate.getpeername() == peer.getsockname()
            assert transport.get_extra_info("cipher", 5) == 5
            peer.sendall(b"hello")
            run_until(net, lambda: protocol.data)
            peer.shutdown(socket.SHUT_WR)
            run_until(net, lambda: None in protocol.calls)
            assert protocol.calls == ["made", "data", "eof", None]
            assert transport.is_closing()
            transport.write(b"dropped")
            transport.close()
            transport.abort()
            assert transport.get_extra_info("peername") is None
            assert transport.get_write_buffer_size() == 0


def test_half_open_protocol_answers_after_the_end(options: dict[str, Any], recorder: type[Recorder]) -> None:
    recorder.keeps_half_open = True
    with ProtocolNet(recorder, **options) as net:
        protocol, peer = talk(net, recorder)
        with peer:
            peer.shutdown(socket.SHUT_WR)
            run_until(net, lambda: "eof" in protocol.calls)
            protocol.transport.writelines([b"ans", b"wer"])
            protocol.transport.write_eof()
            with pytest.raises(RuntimeError, match="write_eof"):
                protocol.transport.write(b"late")
            net.step(0)
            assert received(peer, 100) == b"answer"
            protocol.transport.close()
            run_until(net, lambda: None in protocol.calls)


def test_writing_pauses_and_resumes(options: dict[str, Any], recorder: type[Recorder]) -> None:
    payload = noise(8 << 20)
    with ProtocolNet(recorder, high_water=100_000, low_water=1000, **options) as net:
        protocol, peer = talk(net, recorder)
        with peer, ThreadPoolExecutor(1) as pool:
            protocol.transport.write(memoryview(payload)[:100_000])
            assert "pause" not in protocol.calls
            protocol.transport.write(bytearray(payload[100_000:]))
            assert protocol.calls == ["made", "pause"]
            assert protocol.transport.get_write_buffer_size() == len(payload)
            protocol.transport.write_eof()
            assert (protocol.transport.get_write_buffer_size(), net.info.unsent) == (len(payload), 0)
            whole = pool.submit(received, peer, len(payload))
            run_until(net, lambda: "resume" in protocol.calls)
            while not whole.done():
                net.step(0.01)
            assert whole.result() == payload
            assert protocol.calls == ["made", "pause", "resume"]


def test_lost_connection_has_its_error(options: dict[str, Any], recorder: type[Recorder]) -> None:
    with ProtocolNet(recorder, queue_bytes=100_000, **options) as net:
        protocol, peer = talk(net, recorder)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        run_until(net, lambda: isinstance(protocol.calls[-1], ConnectionResetError))
        protocol, peer = talk(net, recorder)
        with peer:
            protocol.transport.write(bytes(100_001))  # more than queue_bytes
            run_until(net, lambda: isinstance(protocol.calls[-1], OSError))
            assert protocol.calls[-1].errno == errno.ENOBUFS
        protocol, peer = talk(net, recorder)
        with peer:
            protocol.transport.abort()
            run_until(net, lambda: protocol.calls[-1] is None)
            with pytest.raises(ConnectionResetError):
                peer.recv(1)


@pytest.mark.parametrize(
    "where", ["connection_made", "data_received", "eof_received", "connection_lost", "factory"]
)
def test_raising_protocol_loses_only_its_connection(
    options: dict[str, Any], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError(where)

    class Failing(Echo):
        def connection_lost(self, error: Exception | None) -> None:
            calls.append(error)

    def factory() -> Any:
        protocol = Failing() if not calls else Echo()
        if not calls:
            calls.append("first")
            fail() if where == "factory" else setattr(protocol, where, fail)
        return protocol

    with ProtocolNet(factory, **options) as net:
        address = net.listen("127.0.0.1", 0)
        with connected(address) as peer:
            peer.sendall(b"x")
            peer.shutdown(socket.SHUT_WR)
            run_until(net, lambda: net.info.closed)
        assert net.failures == 1
        assert "ZeroDivisionError" in caplog.text
        assert len(calls) == (1 if where in ("connection_lost", "factory") else 2)
        with connected(address) as peer:
            before = net.info.sends
            peer.sendall(b"works")
            run_until(net, lambda: net.info.sends > before)
            assert received(peer, 5) == b"works"


def test_interrupt_in_a_callback_loses_no_data(options: dict[str, Any], recorder: type[Recorder]) -> None:
    class Interrupted(recorder):  # type: ignore[misc,valid-type]
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"stop":
                raise KeyboardInterrupt

    with ProtocolNet(Interrupted, **options) as net:
        pairs = [talk(net, Interrupted) for _ in range(5)]
        for _protocol, peer in pairs:
            peer.sendall(b"stop")
        stops = 0
        while stops < 5:
            try:
                net.step(PATIENCE)
            except KeyboardInterrupt:
                stops += 1
        for protocol, peer in pairs:
            assert protocol.data == b"stop"
            peer.close()


def test_reading_pauses_and_resumes(options: dict[str, Any], recorder: type[Recorder]) -> None:
    with ProtocolNet(recorder, **options) as net:
        protocol, peer = talk(net, recorder)
        with peer:
            protocol.transport.pause_reading()
            peer.sendall(b"later")
            net.step(0.05)
            assert not protocol.data
            protocol.transport.resume_reading()
            run_until(net, lambda: protocol.data)
            other = Recorder()
            other.calls.append("made")
            protocol.transport.set_protocol(other)
            assert protocol.transport.get_protocol() is other
            peer.sendall(b"for the other")
            run_until(net, lambda: other.data)
            assert protocol.data == b"later"


def test_kept_views_never_change(options: dict[str, Any]) -> None:
    kept: list[memoryview] = []

    class Keeper(NetProtocol):
        def data_received(self, data: Any) -> None:
            if len(kept) < 3:
                kept.append(data[:4])
            else:
                seen.append(bytes(data))

    seen: list[bytes] = []
    with ProtocolNet(Keeper, views=True, buffers=4, buffer_bytes=64, **options) as net:
        with connected(net.listen("127.0.0.1", 0)) as peer:
            for index in range(3):
                peer.sendall(b"%04d" % index)
                run_until(net, lambda wanted=index + 1: len(kept) == wanted)  # type: ignore[misc]
            for index in range(50):
                peer.sendall(bytes([index]) * 64)
                run_until(net, lambda wanted=(index + 1) * 64: sum(map(len, seen)) == wanted)  # type: ignore[misc]
        assert [bytes(each) for each in kept] == [b"0000", b"0001", b"0002"]
        kept.clear()
        gc.collect()
        net.step(0)
        assert net.info.claimed == 0


def test_close_tells_the_protocols(options: dict[str, Any], recorder: type[Recorder]) -> None:
    with ProtocolNet(recorder, **options) as net:
        protocol, peer = talk(net, recorder)
        protocol.transport.write(b"x")
    with peer:
        assert protocol.calls == ["made", None]
        protocol.transport.write(b"dropped")
        assert protocol.transport.is_closing()
        assert protocol.transport.get_extra_info("peername") is None


@pytest.mark.parametrize("views", [False, True])
def test_callback_may_close_the_net(options: dict[str, Any], views: bool) -> None:
    class Closing(NetProtocol):
        def data_received(self, data: bytes) -> None:
            net.close()

        def connection_lost(self, error: Exception | None) -> None:
            lost.append(error)

    lost: list[Exception | None] = []
    with ProtocolNet(Closing, views=views, **options) as net:
        for _ in range(3):
            near, far = socket.socketpair()
            near.sendall(b"x")
            near.close()
            net.add_connection(far)
        net.run()
    assert net.closed
    assert lost == [None] * 3


def test_wrong_use_is_refused(options: dict[str, Any], recorder: type[Recorder]) -> None:
    raised = []

    class Nested(recorder):  # type: ignore[misc,valid-type]
        def data_received(self, data: bytes) -> None:
            try:
                net.step(0)
            except RuntimeError as error:
                raised.append(error)

    with ProtocolNet(Nested, **options) as net, ThreadPoolExecutor(1) as pool:
        protocol, peer = talk(net, Nested)
        with peer:
            with pytest.raises(WrongThreadError):
                pool.submit(protocol.transport.write, b"x").result(PATIENCE)
            with pytest.raises(TypeError):
                protocol.transport.write("text")  # type: ignore[arg-type]
            peer.sendall(b"x")
            run_until(net, lambda: raised)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_net_serves_inside_an_event_loop(options: dict[str, Any], run: Callable[..., Any]) -> None:
    class AsyncioEcho(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def main() -> None:
        with ProtocolNet(AsyncioEcho, **options) as net:
            address: Any = net.listen("127.0.0.1", 0)
            net.attach()
            payload = noise(2_000_000)

            async def client() -> None:
                reader, writer = await asyncio.open_connection(address[0], address[1])
                for size in (1, 1000, 1, 70_000):
                    writer.write(payload[:size])
                    assert await reader.readexactly(size) == payload[:size]
                writer.write(payload)
                assert await reader.readexactly(len(payload)) == payload
                writer.close()
                await writer.wait_closed()

            near, far = socket.socketpair()
            transport = net.add_connection(far)
            near.settimeout(PATIENCE)
            await asyncio.wait_for(asyncio.gather(*(client() for _ in range(10))), PATIENCE)
            transport.write(b"from a task")  # not in a callback: the net notices
            with near:
                assert await asyncio.to_thread(received, near, 11) == b"from a task"
            net.detach()

    run(main())
