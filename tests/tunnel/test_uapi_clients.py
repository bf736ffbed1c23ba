"""Silent clients of the UAPI socket: which are closed, which make room, and which never are."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest
from served import Served, serving, until

from udpring.tunnel import uapi_clients
from udpring.tunnel.uapi_clients import IDLE_SECONDS, SPARE_WITHIN, Client

HALF = b"set=1\nfwmark=7\nlisten"


class Connection:
    """A client that sends exactly what the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, here: Served, said: bytes = b"") -> Connection:
        """Returns when the server knows the client and waits for its next bytes."""
        before = set(here.server.clients)
        made = cls(*await asyncio.open_unix_connection(here.path))
        made.writer.write(said)
        await until(lambda: set(here.server.clients) - before)
        (client,) = set(here.server.clients) - before
        await until(lambda: client._waits_for == "bytes" and client.within_request == bool(said))
        return made

    async def is_closed(self) -> bytes:
        """Waits for the end. Returns the bytes received before it."""
        return await asyncio.wait_for(self.reader.read(), 30)

    async def get(self) -> bytes:
        self.writer.write(b"get=1\n\n")
        return await asyncio.wait_for(self.reader.readuntil(b"errno=0\n\n"), 30)

    def close(self) -> None:
        self.writer.close()


@pytest.fixture(autouse=True)
def small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clients fill it instead of 128."""
    monkeypatch.setattr(
        uapi_clients.ClientTable.__init__, "__kwdefaults__", {"most": 4, "idle": IDLE_SECONDS}
    )


@serving
async def test_idle_client_is_closed(here: Served) -> None:
    idle = await Connection.open(here)
    here.skipped += IDLE_SECONDS - 1
    here.server.clients.close_idle()
    other = await Connection.open(here)
    here.skipped += 2
    here.server.clients.close_idle()
    assert await idle.is_closed() == b""
    assert b"listen_port" in await other.get()
    other.close()


@serving
async def test_idle_request_ends_with_etimedout(here: Served) -> None:
    half = await Connection.open(here, HALF)
    here.skipped += IDLE_SECONDS + 1
    here.server.clients.close_idle()
    assert await half.is_closed() == f"errno=-{errno.ETIMEDOUT}\n\n".encode()
    assert here.tunnel.fwmark == 7, "lines before the end stay applied"


@serving
async def test_idle_clients_are_closed_without_a_newcomer(here: Served) -> None:
    """The table's own timer does it."""
    here.server.clients._idle = 0.2
    idle = await Connection.open(here)
    assert await idle.is_closed() == b""
    await until(lambda: not len(here.server.clients))


@serving
async def test_full_table_makes_room_for_a_newcomer(here: Served) -> None:
    clients = []
    for _ in range(4):
        clients.append(await Connection.open(here))
        here.skipped += 2
    newcomer = await Connection.open(here)
    assert await clients[0].is_closed() == b"", "the longest silent one"
    for stays in (*clients[1:], newcomer):
        assert b"listen_port" in await stays.get()
        stays.close()


@serving
async def test_client_between_requests_goes_first(here: Served) -> None:
    within = [await Connection.open(here, HALF) for _ in range(3)]
    here.skipped += SPARE_WITHIN + 1
    between = await Connection.open(here)
    here.skipped += 2
    newcomer = await Connection.open(here)
    assert await between.is_closed() == b""
    for client in within:
        client.writer.write(b"_port=0\n\n")
        assert await asyncio.wait_for(client.reader.readuntil(b"\n\n"), 30) == b"errno=0\n\n"
    for client in (*within, newcomer):
        client.close()


@serving
async def test_slow_request_is_not_hurt_by_newcomers(here: Served) -> None:
    """Bytes arrive, though rarely, so a newcomer has to wait."""
    slow = [await Connection.open(here, b"set=1\nfwmark=") for _ in range(4)]
    for _ in range(5):
        here.skipped += SPARE_WITHIN - 1
        for client in slow:
            client.writer.write(b"0")
        await until(lambda: all(client.silence() < 1 for client in here.server.clients))
        assert not here.server.clients.evict()
    newcomer = asyncio.create_task(here.ask("get=1\n\n"))
    await asyncio.sleep(0)
    assert not newcomer.done()
    for client in slow:
        client.writer.write(b"9\n\n")
        assert await asyncio.wait_for(client.reader.readuntil(b"\n\n"), 30) == b"errno=0\n\n"
    slow[0].close()
    assert "fwmark=9\n" in await newcomer
    for client in slow[1:]:
        client.close()


@serving
async def test_newcomer_waits_until_a_request_falls_silent(here: Served) -> None:
    clients = [await Connection.open(here, HALF) for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uapi_clients, "SPARE_WITHIN", 0.3)
        assert "listen_port" in await here.ask("get=1\n\n")
    assert await clients[0].is_closed() == f"errno=-{errno.ETIMEDOUT}\n\n".encode()
    for client in clients[1:]:
        client.close()


@serving
async def test_slow_reader_stays_and_stuck_one_goes(here: Served) -> None:
    lines = [f"allowed_ip=10.{high}.{low}.0/24" for high in range(100) for low in range(256)]
    await here.set(f"public_key={'ab' * 32}", *lines)
    await until(lambda: not len(here.server.clients))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(here.path))
        sock.setblocking(False)
        sock.sendall(b"get=1\n\n")
        await until(lambda: [each for each in here.server.clients if each._waits_for == "room"])
        (client,) = here.server.clients
        for _ in range(3):
            here.skipped += IDLE_SECONDS + 1
            # Too little for the server to continue: it waits until three quarters of the buffer are free
            # (unix(7)).
            assert sock.recv(40000)
            here.server.clients.close_idle()
            assert not client.ended
        here.skipped += IDLE_SECONDS + 1
        here.server.clients.close_idle()
        assert client.ended
        await until(lambda: not here.server._serving)


@serving
async def test_no_descriptors_left_closes_the_longest_silent(here: Served) -> None:
    idle = await Connection.open(here)
    here.skipped += 2
    await here.server._not_accepted(OSError(errno.EMFILE, "too many"))
    assert await idle.is_closed() == b""


def test_bytes_not_yet_looked_at_are_progress() -> None:
    """The event loop may be late. A client whose bytes have arrived is not idle."""
    ours, theirs = socket.socketpair()
    now = [100.0]
    with ours, theirs:
        client = Client(ours, lambda: now[0])
        now[0] += 50
        assert client.silence() == 50
        theirs.sendall(b"g")
        assert client.silence() == 0
        now[0] += 5
        assert client.silence() == 0, "still not looked at"


def test_small_pieces_of_a_long_request_are_gathered() -> None:
    async def body() -> None:
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            client = Client(here, lambda: 0.0)
            there.sendall(b"second")
            assert await client.gather(b"first ", 100) == b"first second"
            there.sendall(b"third")
            assert await client.gather(b"whole\n\n", 100) == b"whole\n\n"
            assert await client.gather(b"full", 4) == b"full"
            assert await client.gather(b"nine ", 7) == b"nine th"
            there.shutdown(socket.SHUT_WR)
            assert await client.gather(b"", 100) == b"ird"
            assert await client.gather(b"end", 100) == b"end"

    asyncio.run(body())
