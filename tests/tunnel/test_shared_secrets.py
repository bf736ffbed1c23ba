"""Shared secrets are computed a few at a time, and before the first handshake."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from served import Served, serving, until

from udpring.tunnel.directory_changes import ChangeFeed
from udpring.tunnel.keys import generate_private_key, public_key
from udpring.tunnel.shared_secrets import AT_ONCE, SharedSecrets
from udpring.wireguard.peer import Peer

KEYS = [public_key(generate_private_key()) for _ in range(3 * AT_ONCE)]
PEERS = "".join(f"public_key={key.hex()}\n" for key in KEYS)


def prepared(here: Served) -> list[Peer]:
    return [peer for peer in here.tunnel.device.peers.values() if peer._static_static is not None]


@serving
async def test_secrets_come_after_the_answer_and_before_handshakes(here: Served) -> None:
    own = generate_private_key()
    assert await here.ask(f"set=1\nprivate_key={own.hex()}\n{PEERS}\n") == "errno=0\n\n"
    await until(lambda: len(prepared(here)) == len(KEYS))
    before = [peer._static_static for peer in prepared(here)]
    other = generate_private_key()
    await here.set(f"private_key={other.hex()}")
    await until(lambda: len(prepared(here)) == len(KEYS))
    assert not set(before) & {peer._static_static for peer in prepared(here)}


@serving
async def test_a_few_secrets_at_a_time(here: Served) -> None:
    await here.set(f"private_key={generate_private_key().hex()}")
    assert await here.ask(f"set=1\n{PEERS}\n") == "errno=0\n\n"
    secrets = here.tunnel._secrets
    for _ in range(3):
        before = len(prepared(here))
        secrets._work()
        assert len(prepared(here)) - before <= AT_ONCE
    await until(lambda: not secrets._wanted)


@serving
async def test_without_a_private_key_there_is_nothing_to_compute(here: Served) -> None:
    assert await here.ask(f"set=1\n{PEERS}\n") == "errno=0\n\n"
    assert here.tunnel._secrets._timer is None
    assert not prepared(here)


def test_closed_tunnel_computes_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        made = Served(tmp_path / "fake0.sock")
        made.tunnel.set_private_key(generate_private_key())
        made.tunnel.add_peer(KEYS[0])
        assert made.tunnel._secrets._timer is not None
        await made.server.close()
        made.tunnel.close()
        assert made.tunnel._secrets._timer is None

    asyncio.run(body())


MANY = 200_000
CPU_SECONDS = 6.0
"""Some twenty times what each of these needs. With a search over the keys taken so far, they need more."""


def test_many_peers_cost_each_the_same() -> None:
    loop: Any = SimpleNamespace(call_later=lambda *_: None)
    device: Any = SimpleNamespace(public_key=b"", by_id={})
    secrets = SharedSecrets(device, loop=loop)
    secrets.want(range(MANY))
    began = time.thread_time()
    while secrets._wanted and time.thread_time() - began < CPU_SECONDS:
        secrets._work()
    assert not secrets._wanted


def test_many_announced_peers_cost_each_the_same() -> None:
    async def body() -> None:
        feed = ChangeFeed()
        following = feed.follow()
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        keys = [number.to_bytes(32) for number in range(MANY)]
        feed.announce(keys)
        taken = [await first]
        began = time.thread_time()
        while len(taken) < MANY and time.thread_time() - began < CPU_SECONDS:
            taken.append(await anext(following))
        assert taken == keys
        await following.aclose()

    asyncio.run(body())
