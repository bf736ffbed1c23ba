"""Packets written to one node's interface as if its host sent them, and read from another one's.

Both use AF_PACKET with a virtio header, so super-packets can be sent and are seen as the node wrote them.
"""

from __future__ import annotations

import socket
import time
from ipaddress import ip_address

from offload_model import Vnet, segment

from lab.node import Node

SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32


def _open(node: Node, protocol: int) -> socket.socket:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.bind((node.interface, protocol))
        return sock

    sock = node.space.call(make)
    sock.settimeout(30)
    return sock


class Injector:
    """Sends as the node's host does."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._socket = _open(node, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
        # The interface's queue holds a whole window. Packets dropped by the host would not be the node's
        # fault.
        node.space.ip("link", "set", node.interface, "txqueuelen", "5000")

    def send(self, vnet: Vnet, packet: bytes) -> None:
        protocol = ETH_P_IPV6 if packet[0] >> 4 == 6 else ETH_P_IP
        self._socket.sendto(vnet.pack() + packet, (self._node.interface, protocol))

    def close(self) -> None:
        self._socket.close()


class Listener:
    """Packets that arrive at the node's interface from ``sources``: as written, and segmented."""

    def __init__(self, node: Node, sources: set[str]) -> None:
        self._sources = {ip_address(each).packed for each in sources}
        self._socket = _open(node, ETH_P_ALL)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.written: list[tuple[Vnet, bytes]] = []
        self.packets: list[bytes] = []

    def _ours(self, packet: bytes) -> bool:
        source = packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]
        return source in self._sources

    def wait(self, count: int, seconds: float = 30.0) -> bool:
        """Waits until there are ``count`` packets in all. False if they did not come."""
        deadline = time.monotonic() + seconds
        while len(self.packets) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._socket.settimeout(left)
            try:
                message = self._socket.recv(1 << 17)
            except TimeoutError:
                return False
            vnet, packet = Vnet.of(message)
            if not self._ours(packet):
                continue
            # The receiving side states its view of the checksum, which needs no completion.
            vnet = vnet._replace(flags=vnet.flags & 1)
            self.written.append((vnet, packet))
            pieces = segment(vnet, packet)
            assert pieces is not None, f"no super-packet: {vnet}, {packet[:80].hex()}"
            self.packets += pieces
        return True

    def close(self) -> None:
        self._socket.close()


def carry(
    source: Injector, target: Listener, messages: list[tuple[Vnet, bytes]], *, window: int, ahead: int
) -> None:
    """Sends them all, at most about ``window`` bytes and ``ahead`` packets ahead of the arrivals.

    Raises AssertionError if one never arrives.
    """
    due = len(target.packets)
    bytes_ahead = packets_ahead = 0
    for number, (vnet, packet) in enumerate(messages, 1):
        source.send(vnet, packet)
        pieces = len(segment(vnet, packet) or ())
        due += pieces
        packets_ahead += pieces
        bytes_ahead += len(packet)
        if bytes_ahead >= window or packets_ahead >= ahead or number == len(messages):
            assert target.wait(due), f"{due - len(target.packets)} of {due} packets never arrived"
            bytes_ahead = packets_ahead = 0


__all__ = ["Injector", "Listener", "carry"]
