"""``udpring.install`` and ``udpring.use_in``: endpoints of unchanged libraries on the rings."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

import udpring

from .test_endpoint import Echo, Recorder, run

__all__ = ["run"]  # fixtures

LOCAL = ("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    before = [vars(loops).get("create_datagram_endpoint") for loops in (asyncio.BaseEventLoop, uvloop.Loop)]
    yield
    udpring.uninstall()
    after = [vars(loops).get("create_datagram_endpoint") for loops in (asyncio.BaseEventLoop, uvloop.Loop)]
    assert after == before


async def opened(*arguments: Any, **keywords: Any) -> tuple[Any, Any]:
    """As a library opens an endpoint."""
    return await asyncio.get_running_loop().create_datagram_endpoint(Recorder, *arguments, **keywords)


async def is_on_rings(**keywords: Any) -> bool:
    transport, protocol = await opened(**keywords)
    transport.close()
    await protocol.until_lost()
    return isinstance(transport, udpring.RingTransport)


async def echoed(**keywords: Any) -> None:
    """A datagram to a server of the same loop and back."""
    loop = asyncio.get_running_loop()
    server_transport, server = await loop.create_datagram_endpoint(Echo, **keywords)
    transport, client = await opened(remote_addr=server_transport.get_extra_info("sockname")[:2])
    transport.sendto(b"there")
    await client.until(2)
    assert client.calls[1][:2] == ("received", b"there")
    for each, protocol in ((transport, client), (server_transport, server)):
        assert isinstance(each, udpring.RingTransport)
        each.close()
        await protocol.until_lost()


def test_libraries_use_the_rings(run: Callable[..., Any]) -> None:
    async def main() -> None:
        assert not await is_on_rings(local_addr=LOCAL)
        udpring.install()
        await echoed(local_addr=LOCAL)
        await echoed(local_addr=("::1", 0))
        udpring.uninstall()
        udpring.uninstall()
        assert not await is_on_rings(local_addr=LOCAL)

    run(main())


def test_one_loop_uses_the_rings(run: Callable[..., Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        udpring.use_in(loop)
        await echoed(local_addr=LOCAL)
        other = type(loop)()
        assert "create_datagram_endpoint" not in vars(other)
        other.close()
        udpring.uninstall(loop)
        udpring.uninstall(loop)
        assert not await is_on_rings(local_addr=LOCAL)

    run(main())


def test_a_loop_with_an_option_of_its_own(run: Callable[..., Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        udpring.install(tier="uring-pool")
        udpring.use_in(loop, tier="mmsg")
        transport, protocol = await opened(local_addr=LOCAL)
        assert "mmsg" in repr(transport)
        transport.close()
        await protocol.until_lost()
        udpring.uninstall()
        assert await is_on_rings(local_addr=LOCAL)
        udpring.uninstall(loop)
        assert not await is_on_rings(local_addr=LOCAL)

    run(main())


def test_a_further_install_changes_the_options(run: Callable[..., Any]) -> None:
    async def main() -> None:
        for tier in ("uring-pool", "mmsg"):
            udpring.install(tier=tier)
            transport, protocol = await opened(local_addr=LOCAL)
            assert tier in repr(transport)
            transport.close()
            await protocol.until_lost()

    run(main())


def test_a_wrapped_method_is_left_in_place() -> None:
    """Another library wrapped the method after us. Removing ours ends its effect."""

    async def main() -> None:
        udpring.install()
        ours = asyncio.BaseEventLoop.create_datagram_endpoint

        async def wrapped(*arguments: Any, **keywords: Any) -> Any:
            return await ours(*arguments, **keywords)

        asyncio.BaseEventLoop.create_datagram_endpoint = wrapped  # type: ignore[method-assign, assignment]
        try:
            udpring.uninstall()
            assert asyncio.BaseEventLoop.create_datagram_endpoint is wrapped
            assert not await is_on_rings(local_addr=LOCAL)
            udpring.install()
            assert await is_on_rings(local_addr=LOCAL)
        finally:
            asyncio.BaseEventLoop.create_datagram_endpoint = ours  # type: ignore[method-assign]

    asyncio.run(main())


class Proxied(socket.socket):
    """As of a library that sends through a SOCKS proxy."""

    def sendto(self, *arguments: Any) -> int:
        return super().sendto(*arguments)


def test_other_sockets_pass_through(run: Callable[..., Any], tmp_path: Path) -> None:
    async def main() -> None:
        udpring.install()
        if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):  # uvloop has no such addresses
            assert not await is_on_rings(local_addr=str(tmp_path / "socket"), family=socket.AF_UNIX)
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, two:
            transport, protocol = await opened(sock=one)
            two.send(b"unix")
            await protocol.until(2)
            assert protocol.calls[1][1] == b"unix"
            transport.close()
            await protocol.until_lost()
        assert not await is_on_rings(sock=Proxied(socket.AF_INET, socket.SOCK_DGRAM))
        lite = socket.IPPROTO_UDPLITE
        assert not await is_on_rings(sock=socket.socket(socket.AF_INET, socket.SOCK_DGRAM, lite))
        assert await is_on_rings(sock=socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with pytest.raises(ValueError, match="A UDP Socket was expected"), socket.socket() as stream:
            await opened(sock=stream)

    run(main())


def test_a_replaced_socket_class_passes_through(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        udpring.install()
        monkeypatch.setattr(socket, "socket", Proxied)
        assert not await is_on_rings(local_addr=LOCAL)

    run(main())


def test_arguments_are_as_the_loop_has_them(run: Callable[..., Any]) -> None:
    async def outcomes() -> list[Any]:
        seen: list[Any] = []
        for keywords in (
            {"reuse_address": True},
            {"reuse_address": False},
            {"reuse_port": True},
            {"colour": "blue"},
            {"local_addr": list(LOCAL)},
            {"local_addr": None},
            {"local_addr": None, "family": socket.AF_INET},
        ):
            try:
                transport, protocol = await opened(**{"local_addr": LOCAL} | keywords)
                transport.close()
                await protocol.until_lost()
                seen.append("opened")
            except (TypeError, ValueError, DeprecationWarning) as error:  # warnings are errors here
                seen.append(type(error).__name__)
        return seen

    async def main() -> None:
        expected = await outcomes()
        udpring.install()
        assert await outcomes() == expected

    run(main())


def test_names_under_uvloop_are_refused_at_once() -> None:
    """As by uvloop's own transport, which does not look names up."""

    async def main() -> None:
        udpring.install()
        for _ in range(2):
            transport, protocol = await opened(local_addr=LOCAL)
            for wrong in (("example.invalid", 80), ("::1", 80)):
                with pytest.raises(ValueError, match="socket family mismatch or a DNS lookup"):
                    transport.sendto(b"x", wrong)
            with pytest.raises(TypeError):
                transport.sendto(b"x", 5)
            transport.sendto(b"still there", transport.get_extra_info("sockname"))
            await protocol.until(2)
            transport.close()
            await protocol.until_lost()
            assert protocol.calls[1:] == [("received", b"still there", "tuple"), ("lost", None)]
            udpring.uninstall()

    uvloop.run(main())


def test_sending_at_once(run: Callable[..., Any]) -> None:
    """A program may block on the answer to each datagram, in the same turn of the loop."""

    async def main() -> None:
        udpring.install(send_at_once=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind(LOCAL)
            sink.settimeout(30)
            transport, protocol = await opened(local_addr=LOCAL)
            for number in range(5):
                transport.sendto(b"%d" % number, sink.getsockname())
                assert transport.get_write_buffer_size() == 0
                assert sink.recv(100) == b"%d" % number
            transport.close()
            await protocol.until_lost()

    run(main())


def test_flush_sends_what_is_queued(run: Callable[..., Any]) -> None:
    async def main() -> None:
        udpring.use_in(asyncio.get_running_loop())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind(LOCAL)
            sink.settimeout(30)
            transport, protocol = await opened(local_addr=LOCAL)
            for number in range(5):
                transport.sendto(b"%d" % number, sink.getsockname())
            assert transport.get_write_buffer_size() == 4
            transport.flush()
            assert transport.get_write_buffer_size() == 0
            assert [sink.recv(100) for _ in range(5)] == [b"%d" % number for number in range(5)]
            transport.close()
            transport.flush()
            await protocol.until_lost()

    run(main())


def test_a_loop_is_not_kept_alive() -> None:

    def used() -> Callable[[], object]:
        loop = asyncio.new_event_loop()
        udpring.use_in(loop)
        loop.close()
        return weakref.ref(loop)

    gc.collect()
    gc.disable()
    try:
        assert used()() is None
    finally:
        gc.enable()


def test_a_wrong_tier_is_refused() -> None:
    for call in (udpring.install, lambda tier: udpring.use_in(asyncio.new_event_loop(), tier=tier)):
        with pytest.raises(ValueError, match="tier"):
            call(tier="fast")
