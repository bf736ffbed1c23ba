"""A udpring.Node over planes in memory: configurations, the planes it opened, and a loop with a bound."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fake_plane import FakePlane

from udpring.errors import HostError
from udpring.tunnel.config import Config, Endpoint, InterfaceConfig, PeerConfig
from udpring.tunnel.control import BootClock
from udpring.tunnel.keys import generate_private_key, public_key

OWN = generate_private_key()
KEYS = [public_key(generate_private_key()) for _ in range(4)]


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def peer(number: int, *allowed: str, host: str | None = None, **rest: Any) -> PeerConfig:
    return PeerConfig(
        KEYS[number],
        allowed_ips=tuple(network(each) for each in allowed),
        endpoint=Endpoint(host, 5000 + number) if host else None,
        **rest,
    )


def config(*peers: PeerConfig, **interface: Any) -> Config:
    return Config(InterfaceConfig(private_key=OWN, **interface), peers)


class Planes:
    """Replaces the Plane class and keeps the opened planes."""

    def __init__(self) -> None:
        self.opened: list[FakePlane] = []
        self.refuse: HostError | None = None

    def __call__(self, name: str, **options: Any) -> FakePlane:
        if self.refuse:
            raise self.refuse
        made = FakePlane(BootClock(), name=name.replace("%d", "0"))
        made.port = options["listen_port"] or 40000
        made.options = options  # type: ignore[attr-defined]
        self.opened.append(made)
        return made

    @property
    def one(self) -> FakePlane:
        assert len(self.opened) == 1
        return self.opened[0]


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(body(), 30)
        assert len(asyncio.all_tasks()) == 1, "a task is left"

    asyncio.run(bounded())


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come about"
        await asyncio.sleep(0.005)
