"""Where a node's packets come from and go to: the seam between a node and its interface.

An ``Attachment`` is a choice that a program gives to ``Node``. ``open`` makes an ``Attached`` of it: one live
end, with a plane of its own. The node keeps to this order: ``open``; ``link``; ``set_up``, again after each
reload; ``undo``; the plane is closed by the tunnel; ``close``.

``Tun`` is the default: a TUN device in the network namespace of the caller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.config import Config, InterfaceConfig, IPAddress, Network
from udpring.tunnel.control_values import End
from udpring.tunnel.interface import keep_unset, plan
from udpring.tunnel.interface_setup import Setup, gather
from udpring.tunnel.link import Link, LinkWatch
from udpring.tunnel.plane import Plane

__all__ = ["Attached", "Attachment", "PlaneSettings", "Tun", "TunPlane"]

DEFAULT_NAME = "udpring%d"
"""The kernel puts a number in place of %d."""

log = logging.getLogger("udpring.node")


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """A node's requirements for its plane, with any attachment. Named like the arguments of ``Plane``.

    ``name``: of the interface; None: the attachment's default.
    """

    name: str | None = None
    tier: str = "auto"
    workers: int | None = None
    listen_port: int = 0
    fwmark: int = 0
    asks: bool = False


class Attached(Protocol):
    """One live end of a node. Its methods run in the thread of the node's event loop."""

    @property
    def plane(self) -> Plane:
        """The open plane. The node's tunnel closes it."""

    @property
    def gone(self) -> asyncio.Future[End] | None:
        """Resolved when the end cannot go on for a reason that the plane does not see. None: there is none
        such."""

    def link(self, changed: Callable[[], None]) -> LinkWatch:
        """A watch of the end's state, up or down. It calls ``changed`` when that changes."""

    async def set_up(
        self, config: Config, endpoints: Sequence[IPAddress], set_mark: Callable[[int], None]
    ) -> None:
        """Gives the interface its addresses, MTU and routes, or changes them to those of ``config``.

        ``endpoints``: the peers' addresses that are known. ``set_mark`` is called with the mark that the
        node's sockets need, before any route is set. Raises HostError; nothing is changed then.
        """

    async def set_routes(
        self, settings: InterfaceConfig, added: Sequence[Network], removed: Sequence[Network]
    ) -> bool:
        """Allowed IPs came with a change of one peer, and others went: changes their routes, if ``set_up``
        made routes. The cost must not depend on the other peers. Raises HostError; no route is changed then.

        False: nothing was done, because a default route among them takes a ``set_up``, which the node calls.
        """

    async def undo(self) -> None:
        """Undoes ``set_up``. May be called again, and without ``set_up``."""

    async def close(self) -> None:
        """Frees everything but the plane. Called once, after the plane was closed."""


class Attachment(Protocol):
    """A choice of where packets come from and go to. It has no state: several nodes may be given one."""

    async def open(self, settings: PlaneSettings) -> Attached:
        """Opens a plane. Raises HostError, and leaves nothing behind then."""


class Tun:
    """A TUN device in the network namespace of the caller. Takes CAP_NET_ADMIN there.

    ``confined``: for a process that a seccomp filter confines later (``confinement``).
    """

    def __init__(self, *, confined: bool = False) -> None:
        self._confined = confined

    async def open(self, settings: PlaneSettings) -> Attached:
        """Makes the interface."""
        return _AttachedTun(
            Plane(
                settings.name or DEFAULT_NAME,
                tier=settings.tier,
                workers=settings.workers,
                listen_port=settings.listen_port,
                fwmark=settings.fwmark,
                asks=settings.asks,
                confined=self._confined,
            )
        )


class TunPlane:
    """The live TUN device itself, without its addresses and routes."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.gone: asyncio.Future[End] | None = None

    def link(self, changed: Callable[[], None]) -> LinkWatch:
        """A watch of the interface."""
        return Link(self.plane.tun_fileno(), changed)

    async def close(self) -> None:
        """There is nothing but the plane."""


class _AttachedTun(TunPlane):
    def __init__(self, plane: Plane) -> None:
        super().__init__(plane)
        self._setup: Setup | None = None

    async def set_up(
        self, config: Config, endpoints: Sequence[IPAddress], set_mark: Callable[[int], None]
    ) -> None:
        name = self.plane.name
        if self._setup is not None:
            config = keep_unset(config, self._setup.plan)
        facts = await run_blocking(lambda: gather(config, name, endpoints), name="udpring-gather")
        made = plan(config, name, facts)
        for warning in made.warnings:
            log.warning("%s: %s", name, warning)
        set_mark(made.fwmark)
        if self._setup is None:
            self._setup = Setup(made)
            await run_blocking(self._setup.apply, name="udpring-setup")
        else:
            setup = self._setup
            await run_blocking(lambda: setup.change(made), name="udpring-setup")

    async def set_routes(
        self, settings: InterfaceConfig, added: Sequence[Network], removed: Sequence[Network]
    ) -> bool:
        if (setup := self._setup) is None:
            return True
        return await run_blocking(lambda: setup.set_routes(settings, added, removed), name="udpring-routes")

    async def undo(self) -> None:
        setup, self._setup = self._setup, None
        if setup is not None:
            await run_blocking(setup.undo, name="udpring-undo")
