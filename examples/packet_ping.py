#!/usr/bin/env python3
"""Pings an address through a tunnel, packet by packet: packet_ping.py wg0.conf 10.9.0.1 [--count N].

With --answer instead of an address it answers the pings of others, until Ctrl-C. The node has no device, so
any user may run both, as often as they like. Addresses of the file are those that packets are sent from, and
answered for.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import os
import struct
import sys
import time

import udpring

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

ICMP, ICMPV6 = 1, 58
#: Type numbers of echo requests and replies (RFC 792, RFC 4443).
REQUEST, REPLY = {ICMP: 8, ICMPV6: 128}, {ICMP: 0, ICMPV6: 129}
ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
WAIT = 5.0


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(source: IPAddress, destination: IPAddress, protocol: int, payload: bytes) -> bytes:
    """An IP packet of the addresses' version."""
    addresses = source.packed + destination.packed
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload
    fields = 0x45, 0, 20 + len(payload), 0, 0, 64, protocol
    header = struct.pack("!BBHHHBBH", *fields, 0) + addresses
    return struct.pack("!BBHHHBBH", *fields, checksum(header)) + addresses + payload


def echo(source: IPAddress, destination: IPAddress, types: dict[int, int], rest: bytes) -> bytes:
    """An echo message. ``rest``: all behind the checksum."""
    protocol = ICMP if source.version == 4 else ICMPV6
    message = bytes((types[protocol], 0, 0, 0)) + rest
    covered = message
    if protocol == ICMPV6:  # the addresses too (RFC 8200, 8.1)
        covered = source.packed + destination.packed + struct.pack("!II", len(message), ICMPV6) + message
    filled = message[:2] + checksum(covered).to_bytes(2, "big") + message[4:]
    return ip_packet(source, destination, protocol, filled)


def read_echo(data: memoryview, types: dict[int, int]) -> tuple[IPAddress, IPAddress, bytes] | None:
    """Source, destination and all behind the checksum of an echo message; None: it is something else.

    The tunnel hands over whole IP packets only, whose source belongs to the peer.
    """
    if data[0] >> 4 == 4:
        start, protocol, addresses, size = (data[0] & 15) * 4, data[9], 12, 4
        if data[6] & 0x3F or data[7]:
            return None  # a fragment
    else:
        start, protocol, addresses, size = 40, data[6], 8, 16
    message = data[start:]
    if protocol not in (ICMP, ICMPV6) or len(message) < ECHO.size or message[0] != types[protocol]:
        return None
    source = ipaddress.ip_address(bytes(data[addresses : addresses + size]))
    destination = ipaddress.ip_address(bytes(data[addresses + size : addresses + 2 * size]))
    return source, destination, bytes(message[4:])


async def answer(node: udpring.Node, own: list[IPAddress]) -> None:
    """Answers the echo requests for the node's addresses."""
    print(f"answering on port {node.listen_port}, tier {node.tier}", flush=True)
    answered = 0
    try:
        async for batch in node.packets:
            replies = []
            for packet in batch:
                found = read_echo(packet.data, REQUEST)
                if found is not None and found[1] in own:
                    replies.append(echo(found[1], found[0], REPLY, found[2]))
            await node.packets.send(replies)
            answered += len(replies)
    finally:
        print(f"{answered} answered")


async def ping(node: udpring.Node, source: IPAddress, target: IPAddress, count: int) -> bool:
    """Sends ``count`` echo requests one after the other. Whether all were answered."""
    identifier, arrived = os.getpid() & 0xFFFF, 0
    for sequence in range(1, count + 1):
        rest = struct.pack("!HH", identifier, sequence) + os.urandom(48)
        began = time.perf_counter()
        await node.packets.send([echo(source, target, REQUEST, rest)])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT):
                while (target, source, rest) not in [
                    read_echo(packet.data, REPLY) for packet in await node.packets.recv()
                ]:
                    pass
            arrived += 1
            print(f"{target}: number {sequence}, {1000 * (time.perf_counter() - began):.2f} ms", flush=True)
    print(f"{arrived} of {count} answered")
    return arrived == count


async def main(options: argparse.Namespace) -> bool:
    """Runs the node of the file until the pings are done."""
    config = udpring.Config.load(options.file)
    own: list[IPAddress] = [address.ip for address in config.interface.addresses]
    async with udpring.Node(config, attachment=udpring.Packets()) as node:
        if options.answer:
            await answer(node, own)
            return True
        source = next((address for address in own if address.version == options.address.version), None)
        if source is None:
            sys.exit(f"{options.file} has no Address of IPv{options.address.version} to ping from")
        return await ping(node, source, options.address, options.count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pings an address through a tunnel, packet by packet.")
    parser.add_argument("file", help="a configuration as for wg-quick")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("address", nargs="?", type=ipaddress.ip_address, help="whom to ping")
    what.add_argument("--answer", action="store_true", help="answer the pings of others")
    parser.add_argument("--count", type=int, default=4, help="how many pings (default: 4)")
    try:
        sys.exit(not asyncio.run(main(parser.parse_args())))
    except KeyboardInterrupt:
        pass
    except udpring.UdpringError as error:
        sys.exit(str(error))
