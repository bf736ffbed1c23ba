"""Messages to a service manager (sd_notify(3)), received on the test's own socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring.tunnel.service_manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@udpring-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        sock.settimeout(30)
        yield sock, name


def test_a_life(listener: tuple[socket.socket, str]) -> None:
    sock, name = listener

    async def live() -> None:
        manager = ServiceManager({"NOTIFY_SOCKET": name})
        manager.ready()
        manager.reloading()
        manager.ready()
        manager.stopping()

    asyncio.run(live())
    said = [sock.recv(1000).decode().split("\n") for _ in range(4)]
    assert said[0] == said[2] == ["READY=1"]
    assert said[1][0] == "RELOADING=1"
    assert said[1][1].startswith("MONOTONIC_USEC=")
    assert said[3] == ["STOPPING=1"]


def test_full_socket_blocks_nobody_and_loses_no_state(listener: tuple[socket.socket, str]) -> None:
    sock, name = listener

    async def live() -> list[bytes]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"full", name.replace("@", "\0", 1) if name.startswith("@") else name)
        manager = ServiceManager(
            {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
        )
        manager.ready()
        manager.reloading()
        manager.ready()
        said: list[bytes] = []
        while said.count(b"READY=1") < 2:
            said.append(await asyncio.to_thread(sock.recv, 1000))
        manager.stopping()
        return said

    said = [
        each for each in asyncio.run(asyncio.wait_for(live(), 60)) if each not in (b"full", b"WATCHDOG=1")
    ]
    assert [each.split(b"\n")[0] for each in said] == [b"READY=1", b"RELOADING=1", b"READY=1"]


def test_the_watchdog_is_fed_while_the_loop_runs(listener: tuple[socket.socket, str]) -> None:
    sock, name = listener

    async def live() -> None:
        manager = ServiceManager(
            {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
        )
        manager.ready()
        for _ in range(4):
            await asyncio.to_thread(sock.recv, 1000)
        manager.stopping()

    asyncio.run(asyncio.wait_for(live(), 30))


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "many"},
        {"NOTIFY_SOCKET": "x" * 400},
    ],
)
def test_nobody_listening_is_no_error(environment: dict[str, str]) -> None:
    async def live() -> None:
        manager = ServiceManager(environment)
        manager.ready()
        manager.reloading()
        manager.stopping()

    asyncio.run(live())


def test_the_watchdog_of_another_process_is_not_fed(listener: tuple[socket.socket, str]) -> None:
    sock, name = listener

    async def live() -> None:
        manager = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"})
        manager.ready()
        manager.stopping()

    asyncio.run(live())
    assert [sock.recv(100), sock.recv(100)] == [b"READY=1", b"STOPPING=1"]
