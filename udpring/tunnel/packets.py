"""The attachment ``Packets``: the program itself sends and receives the packets of a node (``node.packets``).

There is no device, so no right of any kind is needed, and nothing of the host is changed. Addresses, routes
and DNS servers of a configuration are not used. Its MTU is.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from udpring._native import lib
from udpring.tunnel.attachment import Attached, PlaneSettings
from udpring.tunnel.config import Config, InterfaceConfig, IPAddress, Network
from udpring.tunnel.control_values import End
from udpring.tunnel.keys import to_base64
from udpring.tunnel.link import LinkWatch
from udpring.tunnel.plane import Plane
from udpring.tunnel.plane_packets import PacketPort, set_mtu
from udpring.wireguard.device import Device

__all__ = ["AttachedPackets", "Packets", "PacketsOfNode"]

DEFAULT_MTU = 1420
_LEAST: int = lib.UDPRING_PACKETS_BYTES_MIN
_MOST: int = lib.UDPRING_PACKETS_BYTES_MAX
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Packets:
    """No device: the program sends and receives IP packets by ``node.packets``.

    send_bytes, receive_bytes: the room for packets that a worker has not sent yet, and for those that the
        program has not read yet. For each worker, as a power of two, 512 KiB to 1 GiB. A packet takes 16
        bytes and its length, rounded up to a multiple of 16.

    Raises ValueError for another number.
    """

    send_bytes: int = 1 << 20
    receive_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        for name, size in (("send_bytes", self.send_bytes), ("receive_bytes", self.receive_bytes)):
            if not _LEAST <= size <= _MOST or size & (size - 1):
                raise ValueError(f"{name}={size}: use a power of two from {_LEAST} to {_MOST}")

    async def open(self, settings: PlaneSettings) -> AttachedPackets:
        """Opens the sockets and the queues. Raises HostError."""
        return AttachedPackets(
            Plane(
                settings.name or f"packets{next(_numbers)}",
                tier=settings.tier,
                workers=settings.workers,
                listen_port=settings.listen_port,
                fwmark=settings.fwmark,
                asks=settings.asks,
                mtu=DEFAULT_MTU,
                queues=(self.send_bytes, self.receive_bytes),
            )
        )


class AttachedPackets:
    """A plane without a device. It is up from the start to the end."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.gone: asyncio.Future[End] | None = None
        self.mtu = DEFAULT_MTU
        self._port: PacketPort | None = None

    def port(self, loop: asyncio.AbstractEventLoop, key_of: Callable[[int], str | None]) -> PacketPort:
        """The one port of the node."""
        if self._port is None:
            self._port = PacketPort(self.plane, loop, key_of, lambda: self.mtu)
        return self._port

    def close_port(self) -> None:
        """Ends all waits for packets and for room. Must come before the plane is closed."""
        if self._port is not None:
            self._port.close()

    def set_mtu(self, mtu: int | None) -> None:
        """Takes the MTU of a configuration; None: the default. Longer packets are dropped from now on."""
        self.mtu = mtu or DEFAULT_MTU
        set_mtu(self.plane, self.mtu)

    def link(self, changed: Callable[[], None]) -> LinkWatch:
        return _Up(self)

    async def set_up(
        self, config: Config, endpoints: Sequence[IPAddress], set_mark: Callable[[int], None]
    ) -> None:
        self.set_mtu(config.interface.mtu)

    async def set_routes(
        self, settings: InterfaceConfig, added: Sequence[Network], removed: Sequence[Network]
    ) -> bool:
        return True  # there are none

    async def undo(self) -> None:
        pass

    async def close(self) -> None:
        pass


class PacketsOfNode:
    """The attribute ``packets`` of a node with ``attachment=Packets()``."""

    def _packets_end(self) -> tuple[Attached, Device]:
        raise TypeError("this object is no node")

    @property
    def packets(self) -> PacketPort:
        """Sends and receives the node's IP packets.

        Raises TypeError with another attachment: its packets go elsewhere. Raises ClosedError while the node
        is down.
        """
        attached, device = self._packets_end()
        if not isinstance(attached, AttachedPackets):
            raise TypeError("the node's packets go to an interface. Use attachment=udpring.Packets()")

        def key_of(peer: int) -> str | None:
            known = device.by_id.get(peer)
            return None if known is None else to_base64(known.public_key)

        return attached.port(asyncio.get_running_loop(), key_of)


class _Up:
    """The watch of an end that never goes down."""

    up = True

    def __init__(self, attached: AttachedPackets) -> None:
        self._attached = attached

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        pass

    def stop(self) -> None:
        """The node stops, and closes its plane next."""
        self._attached.close_port()

    def look(self) -> bool:
        return True
