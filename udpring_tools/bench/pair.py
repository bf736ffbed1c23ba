"""Two namespaces joined by a veth, and two nodes of one program in them that are peers."""

from __future__ import annotations

import contextlib
import secrets
import socket
from ipaddress import IPv4Address

from udpring.errors import UdpringError
from udpring.tunnel import keys, uapi
from udpring.wireguard.cipher import Cipher
from udpring_tools.bench.program import NodeProcess, Program
from udpring_tools.bench.space import Space, join

__all__ = ["Ground", "Pair"]

OUTER = ("10.99.0.1", "10.99.0.2")
INNER = ("10.100.0.1", "10.100.0.2")
PORT = 51820
MTU = 1420


class Ground:
    """The two joined namespaces. They hold one pair of nodes at a time."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self.here = self._stack.enter_context(contextlib.closing(Space()))
            self.there = self._stack.enter_context(contextlib.closing(Space()))
            join(self.here, self.there, [[f"{address}/24"] for address in OUTER])
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Pair:
    """A node of ``program`` on each side of ``ground``: keys, endpoints and addresses set, links up, and a
    first packet answered.

    Raises HostError if the program does not start, UdpringError if no packet gets through.
    """

    def __init__(self, ground: Ground, program: Program) -> None:
        self.program = program
        self.here, self.there = self.spaces = (ground.here, ground.there)
        self.target = INNER[1]
        self.private_keys = [keys.generate_private_key() for _ in INNER]
        self.public_keys = [keys.public_key(key) for key in self.private_keys]
        self.nodes: list[NodeProcess] = []
        self._stack = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> None:
        tag = secrets.token_hex(3)
        for side, space in enumerate(self.spaces):
            node = NodeProcess(space, self.program, f"bench{tag}{'ab'[side]}")
            self._stack.callback(node.close)
            self.nodes.append(node)
        for side, node in enumerate(self.nodes):
            other = 1 - side
            node.uapi.set(
                [
                    uapi.SetPrivateKey(self.private_keys[side]),
                    uapi.SetListenPort(PORT),
                    uapi.PeerBegin(self.public_keys[other]),
                    uapi.SetEndpoint(IPv4Address(OUTER[other]).packed, PORT),
                    uapi.AllowedIp(socket.AF_INET, IPv4Address(INNER[other]).packed, 32),
                    *self._cipher(),
                ]
            )
            ip = node.inside.command
            ip("ip", "addr", "add", f"{INNER[side]}/24", "dev", node.interface)
            ip("ip", "link", "set", node.interface, "mtu", str(MTU), "up")
        self.here, self.there = self.spaces = (self.nodes[0].inside, self.nodes[1].inside)
        try:
            # The first packets may be lost, because a node notices shortly afterwards that its interface is
            # up.
            self.here.command("ping", "-c", "3", "-i", "0.2", "-w", "20", self.target)
        except UdpringError:
            raise UdpringError(f"{self.program.name}: no packet gets through the tunnel") from None

    def _cipher(self) -> list[uapi.SetOperation]:
        """Other programs do not know the setting, so the default is not set."""
        cipher = self.program.cipher
        return [] if cipher is Cipher.CHACHA20_POLY1305 else [uapi.SetCipher(cipher)]

    def cpu_seconds(self) -> float:
        """The resources used by both nodes so far."""
        return sum(node.cpu_seconds() for node in self.nodes)

    def facts(self) -> dict[str, str | int | None]:
        """The choices of its program."""
        return self.nodes[0].facts()

    def resident_mib(self) -> list[float]:
        """The value of each node."""
        return [node.resident_mib() for node in self.nodes]

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
