"""A program that sends a node's own messages through the node: they are dropped, or would never end."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from dataclasses import replace
from typing import cast

import pytest
from packet_nodes import between, config, drops, node, run, until

import udpring


class Relay(asyncio.DatagramProtocol):
    """The way between two nodes. ``sent`` has the messages of the first."""

    def __init__(self, behind: int) -> None:
        self.sent: list[bytes] = []
        self._behind = behind
        self._client: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.address: tuple[str, int] = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if addr[1] == self._behind:
            self._transport.sendto(data, self._client)
            return
        self._client = addr
        self.sent.append(data)
        self._transport.sendto(data, ("127.0.0.1", self._behind))

    def packet(self, message: bytes, port: int) -> bytes:
        """As the kernel's routes would bring it back."""
        udp = struct.pack("!HHHH", port, self.address[1], 8 + len(message), 0) + message
        host = ipaddress.ip_address(self.address[0]).packed
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + host + host + udp


def test_own_messages_are_dropped_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with node(config(1, 0)) as second:
            loop = asyncio.get_running_loop()
            transport, relay = await loop.create_datagram_endpoint(
                lambda: Relay(second.listen_port), local_addr=("127.0.0.1", 0)
            )
            await through(relay, second)
            transport.close()

    async def through(relay: Relay, second: udpring.Node) -> None:
        settings = config(0, 1, ports={1: relay.address[1]})
        (peer,) = settings.peers
        here = ipaddress.ip_network(relay.address[0])
        peer = replace(peer, allowed_ips=(*peer.allowed_ips, here))
        async with node(replace(settings, peers=(peer,))) as first:
            await first.packets.send([between(0, 1, b"x")])
            await second.packets.recv()
            own = list(relay.sent)
            assert {message[0] for message in own} == {1, 4}, "an initiation and data"
            await first.packets.send([relay.packet(each, first.listen_port) for each in own])
            await until(lambda: drops(first) == {"routing_loop": len(own)})
            await until(lambda: "leads into this tunnel" in caplog.text)
            # Of another tunnel, with the same addresses and ports.
            other = own[-1][:4] + bytes(each ^ 1 for each in own[-1][4:8]) + own[-1][8:]
            await first.packets.send([relay.packet(other, first.listen_port), between(0, 1, b"y")])
            assert (await second.packets.recv()).payloads() == [between(0, 1, b"y")]
            assert drops(first) == {"routing_loop": len(own)}
            assert drops(second) == {"spoofed": 1}
        assert caplog.text.count("leads into this tunnel") == 1

    run(body)
