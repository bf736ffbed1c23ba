"""A node without root: its interface lives in a user and network namespace of its own.

The UDP sockets stay in the namespace of the program. The interface is a TUN device where ``/dev/net/tun``
may be opened, or else a veth pair with packet sockets at its far end. A process holds the namespaces
(``namespaces.py``) and makes sockets there.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from udpring._native import lib
from udpring.errors import HostError
from udpring.tunnel.attachment import Attached, PlaneSettings
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.config import Config, InterfaceConfig, IPAddress, Network
from udpring.tunnel.control_values import End
from udpring.tunnel.inside_link import InsideLink
from udpring.tunnel.interface import Plan, keep_unset, plan
from udpring.tunnel.interface_setup import Setup, gather
from udpring.tunnel.link import LinkWatch
from udpring.tunnel.namespaces import Namespaces
from udpring.tunnel.plane import Plane
from udpring.tunnel.plane_options import OFFLOADS, offload_flags, workers_asked

__all__ = ["AttachedRootless", "Rootless"]

DEFAULT_NAME = "udpring%d"

log = logging.getLogger("udpring.node")


class Rootless:
    """The interface in namespaces of its own: no right is needed. Takes iproute2 and user namespaces.

    device: ``tun``, ``packet`` (a veth pair with packet sockets), or ``auto``: the first that this host
        allows.
    confined: for a process that a seccomp filter confines later (``confinement``).
    """

    def __init__(self, device: Literal["auto", "tun", "packet"] = "auto", *, confined: bool = False) -> None:
        if device not in ("auto", "tun", "packet"):
            raise ValueError(f"{device!r} is not a device: use auto, tun or packet")
        self.device = device
        self._confined = confined

    async def open(self, settings: PlaneSettings) -> Attached:
        """Makes the namespaces, the interface and the plane."""
        spaces = Namespaces()
        name = settings.name or DEFAULT_NAME
        queues = lib.udpring_plane_workers(workers_asked(settings.workers))
        offload = not offload_flags(None) & OFFLOADS["udp"]
        if not name.isascii() or not 0 < len(name) < 16:
            raise HostError(
                f"interface name {name!r} does not have 1 to 15 characters", cure="choose another"
            )
        await run_blocking(
            lambda: spaces.start(self.device, name, queues, offload), name="udpring-namespaces"
        )
        try:
            plane = Plane(
                spaces.name,
                descriptors=spaces.descriptors,
                query=spaces.query.fileno(),
                tier=settings.tier,
                workers=settings.workers,
                listen_port=settings.listen_port,
                fwmark=settings.fwmark,
                asks=settings.asks,
                confined=self._confined,
            )
        except HostError as refused:
            spaces.close()
            if settings.fwmark and refused.errno == errno.EPERM:
                cure = "take FwMark out: a default route of a rootless node needs none"
                raise HostError(refused.message, errno=errno.EPERM, cure=cure) from None
            raise
        except BaseException:
            spaces.close()
            raise
        spaces.close_descriptors()
        if spaces.why:
            log.info("%s: packet sockets in place of a TUN device: %s", spaces.name, spaces.why)
        return AttachedRootless(plane, spaces)


class AttachedRootless:
    """The live end. ``spaces``: for ``Node.socket`` and the similar methods."""

    def __init__(self, plane: Plane, spaces: Namespaces) -> None:
        self.plane = plane
        self.spaces = spaces
        loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[End] | None = loop.create_future()
        self._setup: Setup | None = None
        spaces.watch(loop, self._ended)

    def _ended(self, reason: str) -> None:
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(End(reason))

    def link(self, changed: Callable[[], None]) -> LinkWatch:
        spaces = self.spaces
        removed = lambda: self._ended("the interface was removed")  # noqa: E731
        return InsideLink(self.plane.name, spaces.query, spaces.notices, changed, removed)

    async def set_up(
        self, config: Config, endpoints: Sequence[IPAddress], set_mark: Callable[[int], None]
    ) -> None:
        settings, name = config.interface, self.plane.name
        if self._setup is not None:
            config = keep_unset(config, self._setup.plan)
        bare = replace(config, interface=replace(config.interface, dns=(), dns_search=(), table="off"))
        facts = await run_blocking(lambda: gather(bare, name, endpoints), name="udpring-gather")
        inside = replace(config, interface=replace(config.interface, dns=(), dns_search=()))
        made = plan(inside, name, facts, alone=True)
        set_mark(settings.fwmark)
        names = "".join(f"nameserver {address}\n" for address in settings.dns)
        if settings.dns_search:
            names += f"search {' '.join(settings.dns_search)}\n"
        if names:
            await run_blocking(lambda: self.spaces.set_names(names), name="udpring-names")
        before, self._setup = self._setup, self._setup or self._new_setup(made)
        setup = self._setup
        work = setup.apply if before is None else lambda: setup.change(made)
        await run_blocking(work, name="udpring-setup")

    def _new_setup(self, made: Plan) -> Setup:
        prefix, descriptors = self.spaces.entry(keep_rights=True)
        return Setup(made, prefix, descriptors)

    async def set_routes(
        self, settings: InterfaceConfig, added: Sequence[Network], removed: Sequence[Network]
    ) -> bool:
        if (setup := self._setup) is None:
            return True
        return await run_blocking(lambda: setup.set_routes(settings, added, removed), name="udpring-routes")

    async def undo(self) -> None:
        setup, self._setup = self._setup, None
        if setup is None or (self.gone is not None and self.gone.done()):
            return
        # All at once, in place of step by step: nothing else is in this namespace.
        try:
            await run_blocking(self.spaces.down, name="udpring-undo")
        except OSError as failed:
            log.warning("%s: %s", self.plane.name, failed)

    async def close(self) -> None:
        gone, self.gone = self.gone, None
        if gone is not None and not gone.done():
            gone.cancel()
        await run_blocking(self.spaces.close, name="udpring-namespaces")
