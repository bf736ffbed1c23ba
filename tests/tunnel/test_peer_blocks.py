"""Peers of a set request that C reads and applies many at once: the result is that of single lines.

The answer to ``get`` is that of the reference in Python."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from reference.uapi_answers import format_get

from udpring._native import lib
from udpring.tunnel.block_applier import BlockApplier
from udpring.tunnel.keys import generate_private_key
from udpring.tunnel.peer_blocks import PeerBlocks
from udpring.tunnel.plane import Plane, SocketAddress
from udpring.tunnel.socket_file import SocketFile
from udpring.tunnel.tunnel import Tunnel
from udpring.tunnel.uapi_server import BLOCK_MAX, UapiServer
from udpring.tunnel.uapi_text import get_answer
from udpring.tunnel.uapi_values import DeviceInfo, PeerInfo
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.peer import Peer

QUEUES = (1 << 19, 1 << 19)
KEYS = [f"{number:02x}" * 32 for number in range(1, 9)]


class Down:
    """The interface of such a plane is down: no handshake begins."""

    up = False

    def __init__(self, changed: Callable[[], None]) -> None:
        pass

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        pass

    def stop(self) -> None:
        pass

    def look(self) -> bool:
        return self.up


class Node:
    """A UAPI server over a plane without a device, which needs no right."""

    def __init__(self, folder: Path, name: str) -> None:
        self.plane = Plane(name, queues=QUEUES, workers=1)
        self.tunnel = Tunnel(self.plane, loop=asyncio.get_running_loop(), link=Down)
        self.path = folder / f"{name}.sock"
        self.server = UapiServer(self.tunnel, SocketFile(self.path))

    async def ask(self, *pieces: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 26)
        try:
            for piece in pieces:
                writer.write(piece.encode())
                await writer.drain()
                await asyncio.sleep(0)
            return (await asyncio.wait_for(reader.readuntil(b"\n\n"), 60)).decode()
        finally:
            writer.close()
            await writer.wait_closed()

    def text(self) -> bytes:
        return b"".join(get_answer(self.tunnel))

    def described(self) -> DeviceInfo:
        """The same from the plane's and the protocol's own values, one by one."""
        tunnel = self.tunnel
        states = tunnel.states()
        peers = []
        for peer in tunnel.device.by_id.values():
            end = states[peer.id].endpoint
            peers.append(
                PeerInfo(
                    peer.public_key,
                    peer.preshared_key,
                    (end.ip, end.port, str(end.scope_id or "")) if end else None,
                    peer.last_handshake_wall,
                    states[peer.id].tx_bytes,
                    states[peer.id].rx_bytes,
                    peer.persistent_keepalive,
                    tunnel.allowed_ips(peer.id),
                    peer.cipher,
                    tunnel.peer_offload(peer.id),
                )
            )
        return DeviceInfo(
            tunnel.private_key, tunnel.listen_port, tunnel.fwmark, peers, tunnel.paused, tunnel.offload
        )


@contextlib.asynccontextmanager
async def node(folder: Path, name: str = "blocks0") -> AsyncIterator[Node]:
    made = Node(folder, name)
    made.tunnel.start()
    made.server.start()
    try:
        yield made
    finally:
        await made.server.close()
        made.tunnel.close()


class LinesAlone(BlockApplier):
    """Leaves every block to the parser of lines."""

    def take(self, text: bytes, start: int) -> int:
        self.lines, self.unfinished = 0, False
        return 0


def blocks(count: int, port: int = 51820) -> str:
    return "".join(
        f"public_key={number + 1:064x}\nendpoint=10.{number >> 8}.{number & 255}.1:{port}\n"
        f"replace_allowed_ips=true\nallowed_ip=11.{number >> 8}.{number & 255}.0/24\n"
        f"allowed_ip=fd00::{number:x}/128\n"
        for number in range(count)
    )


def line(chosen: random.Random) -> str:
    """One of a peer. Nearly always as ``wg`` writes it."""
    prefix = chosen.choice(["10.0.0.0/8", "10.1.2.3/16", "fd00::1/64", "0.0.0.0/0", "::/0", "10.1.2.3/32"])
    rare = [
        f"allowed_ip=-{prefix}",
        "remove=true",
        "update_only=true",
        "cipher=aes-256-gcm",
        "offload=off",
        "preshared_key=" + "AB" * 32,
        "persistent_keepalive_interval=007",
        "persistent_keepalive_interval=65536",
        "endpoint=[::ffff:10.0.0.1]:9",
        "endpoint=[fe80::1%1]:9",
        "endpoint=10.0.0.1:0",
        "endpoint=10.0.0.1",
        "allowed_ip=10.0.0.0/08",
        "allowed_ip=10.0.0.0/33",
        "protocol_version=2",
        "nonsense",
    ]
    common = [
        f"allowed_ip={prefix}",
        f"allowed_ip={prefix}",
        f"endpoint=10.0.0.{chosen.randrange(1, 4)}:{chosen.randrange(1, 65536)}",
        f"endpoint=[fd00::{chosen.randrange(1, 4)}]:9",
        f"persistent_keepalive_interval={chosen.choice([0, 25, 65535])}",
        f"preshared_key={chosen.choice(['00' * 32, '17' * 32])}",
        "protocol_version=1",
    ]
    return chosen.choice(rare if chosen.random() < 0.04 else common)


def request(chosen: random.Random) -> str:
    lines = ["set=1", *(["replace_peers=true"] if chosen.random() < 0.2 else [])]
    for _ in range(chosen.randrange(12)):
        lines.append(f"public_key={chosen.choice(KEYS)}")
        lines += ["replace_allowed_ips=true"] * (chosen.random() < 0.6)
        lines += [line(chosen) for _ in range(chosen.randrange(5))]
    return "\n".join([*lines, "\n"])


def cut(chosen: random.Random, text: str) -> Iterator[str]:
    while text:
        size = chosen.choice([7, 100, 1000, 10_000])
        yield text[:size]
        text = text[size:]


def test_blocks_have_the_result_of_lines(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path, "blocks0") as fast, node(tmp_path, "lines0") as slow:
            slow.server._blocks = LinesAlone(slow.tunnel)
            own = generate_private_key().hex()
            for each in (fast, slow):
                await each.ask(f"set=1\nprivate_key={own}\nlisten_port={each.plane.port}\n\n")
            port = f"listen_port={slow.plane.port}".encode(), f"listen_port={fast.plane.port}".encode()
            for seed in range(150):
                chosen = random.Random(seed)
                asked = request(chosen)
                answers = [await each.ask(*cut(chosen, asked)) for each in (fast, slow)]
                assert answers[0] == answers[1], f"seed {seed}: {asked}"
                assert fast.text() == slow.text().replace(*port), f"seed {seed}: {asked}"
                assert fast.text() == b"".join(format_get(fast.described())), f"seed {seed}"

    asyncio.run(body())


def test_thousand_peers_are_few_commands(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as here:
            before = here.plane.stats().commands
            assert await here.ask(f"set=1\n{blocks(1000)}\n") == "errno=0\n\n"
            assert len(here.tunnel.device.peers) == 1000
            assert await here.ask(f"set=1\n{blocks(1000, 7)}\n") == "errno=0\n\n"
            assert (await here.ask("get=1\n\n")).count(":7\n") == 1000
            assert await here.ask("set=1\nreplace_peers=true\n\n") == "errno=0\n\n"
            assert here.plane.stats().peers == 0
            assert here.plane.stats().commands - before < 200

    asyncio.run(body())


def test_peer_that_is_so_already_is_not_touched(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as here:
            await here.ask(f"set=1\n{blocks(3)}\n")
            settings = here.tunnel.settings
            await here.ask(f"set=1\n{blocks(3)}\n")
            assert here.tunnel.settings == settings
            read = PeerBlocks()
            peers = list(here.tunnel.device.by_id)
            assert read.read(blocks(3).encode() + b"\n", 0)
            assert here.plane.apply_blocks(read, peers) == bytes(3)
            here.plane.endpoint(peers[1], SocketAddress(bytes([10, 9, 9, 9]), 9))
            assert here.plane.apply_blocks(read, peers) == bytes([0, lib.UDPRING_BLOCK_CHANGED, 0])
            here.plane.prefixes_clear(peers[2])
            assert here.plane.apply_blocks(read, peers) == bytes([0, 0, lib.UDPRING_BLOCK_CHANGED])
            assert here.text() == b"".join(format_get(here.described()))

    asyncio.run(body())


def test_peer_that_fails_leaves_no_unknown_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with node(tmp_path) as here:
            register = here.tunnel.register_peer
            third = (3).to_bytes(32, "big")

            def registers(peer: int, public_key: bytes) -> Peer:
                if public_key == third:
                    here.plane.peer_remove(peer)
                    raise MemoryError
                return register(peer, public_key)

            monkeypatch.setattr(here.tunnel, "register_peer", registers)
            assert await here.ask(f"set=1\n{blocks(5)}\n") == f"errno=-{errno.ENOMEM}\n\n"
            assert len(here.tunnel.device.peers) == 2
            assert here.plane.stats().peers == 2

    asyncio.run(body())


def test_prefix_moves_in_the_order_of_blocks(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as here:
            taken = "replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\n"
            await here.ask(f"set=1\npublic_key={KEYS[1]}\n{taken}\n")
            await here.ask(f"set=1\npublic_key={KEYS[0]}\n{taken}public_key={KEYS[1]}\n{taken}\n")
            owner = here.tunnel.find(bytes.fromhex(KEYS[1]))
            assert owner is not None
            assert here.tunnel.allowed_ips(owner) == [(bytes([10, 0, 0, 0]), 8)]

    asyncio.run(body())


@pytest.mark.parametrize("count", [1000, 5000])
def test_peer_with_very_many_prefixes(tmp_path: Path, count: int) -> None:
    """More than C reads of one peer, more than is kept of one, and more than a piece of an answer."""

    async def body() -> None:
        async with node(tmp_path) as here:
            many = "".join(f"allowed_ip=10.{n >> 8}.{n & 255}.0/24\n" for n in range(count))
            assert len(many) > BLOCK_MAX or count == 1000
            asked = f"set=1\npublic_key={KEYS[0]}\nreplace_allowed_ips=true\n{many}{blocks(2)}\n"
            assert await here.ask(asked) == "errno=0\n\n"
            assert (await here.ask("get=1\n\n")).count("allowed_ip=") == count + 4
            assert here.text() == b"".join(format_get(here.described()))

    asyncio.run(body())


def test_peer_whose_other_lines_do_not_come_is_applied(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as here:
            _, writer = await asyncio.open_unix_connection(here.path)
            writer.write(f"set=1\npublic_key={KEYS[0]}\nallowed_ip=10.0.0.0/8\n".encode())
            async with asyncio.timeout(60):
                while here.tunnel.find(bytes.fromhex(KEYS[0])) is None:
                    await asyncio.sleep(0.005)
            writer.close()
            await writer.wait_closed()

    asyncio.run(body())


def test_rare_settings_are_in_the_answer(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as here:
            await here.ask(
                f"set=1\npaused=true\npublic_key={KEYS[0]}\nendpoint=[fe80::1%1]:7\ncipher=aes-256-gcm\n"
                f"offload=off\npersistent_keepalive_interval=65535\n\n"
            )
            peer = here.tunnel.device.peers[bytes.fromhex(KEYS[0])]
            peer.last_handshake_wall = (1 << 62) + 123_456_789
            assert peer.cipher is Cipher.AES_256_GCM
            text = here.text()
            assert text == b"".join(format_get(here.described()))
            assert b"endpoint=[fe80::1%1]:7\n" in text

    asyncio.run(body())


def test_secrets_do_not_stay_in_memory_of_blocks() -> None:
    read = PeerBlocks()
    text = f"public_key={KEYS[0]}\npreshared_key={'17' * 32}\n\n".encode()
    assert read.read(text, 0) == len(text) - 1
    assert "17" * 32 not in repr(read.blocks())
    read.zeroise()
    assert bytes(read._memory) == bytes(len(read._memory))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"public",
        b"public_key=" + b"11" * 32,
        b"public_key=" + b"11" * 32 + b"\n",
        b"public_key=" + b"11" * 32 + b"\nallowed_ip=10.0.0.0/8\npubli",
    ],
)
def test_text_that_ends_within_a_block_is_unfinished(text: bytes) -> None:
    read = PeerBlocks()
    assert read.read(text, 0) == 0
    assert read.unfinished
