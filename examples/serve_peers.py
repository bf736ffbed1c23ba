#!/usr/bin/env python3
"""A node whose peers come and go while it runs: serve_peers.py 10.9.0.1/24 [PORT]. Needs root.

The configuration is built in code, with a new private key. Commands come on standard input (a terminal or a
pipe), one a line:

    add PUBLIC_KEY ADDRESS [HOST:PORT]
    remove PUBLIC_KEY
    pause | resume

Every event is printed. At the end of the input the node takes no new sessions and waits up to ten seconds for
its peers to end their work.
"""

import argparse
import asyncio
import ipaddress
import sys

import udpring


def endpoint(text: str) -> udpring.Endpoint:
    """``HOST:PORT``; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    return udpring.Endpoint(host.removeprefix("[").removesuffix("]"), int(port))


def peer(key: str, address: str, where: str | None = None) -> udpring.PeerConfig:
    """The peer with one address inside the tunnel."""
    return udpring.PeerConfig(
        public_key=udpring.keys.from_base64(key),
        allowed_ips=(ipaddress.ip_network(address),),
        endpoint=None if where is None else endpoint(where),
    )


async def carry_out(node: udpring.Node, line: str) -> None:
    """Carries out one command."""
    match line.split():
        case ["add", key, address, *where] if len(where) < 2:
            await node.add_peer(peer(key, address, *where))
        case ["remove", key]:
            await node.remove_peer(key)
        case ["pause"]:
            node.pause()
        case ["resume"]:
            node.resume()
        case []:
            pass
        case _:
            raise ValueError(f"not a command: {line.strip()}")


def in_words(event: udpring.NodeEvent) -> str:
    """One line for an event."""
    match event:
        case udpring.PeerUp(key, where):
            return f"{key} is up at {where}"
        case udpring.PeerSilent(key, reason):
            return f"{key} is silent: {reason}"
        case udpring.PeerRoamed(key, where):
            return f"{key} moved to {where}"
        case udpring.PeerRefused(key, reason):
            return f"{key} was refused: {reason}"
        case _:
            return str(event)


async def print_events(events: udpring.EventReader) -> None:
    """Prints each event, until the node ends."""
    async for event in events:
        print(in_words(event), flush=True)


async def main(address: str, port: int = 0) -> None:
    """Runs the node until the input or the interface ends."""
    interface = udpring.InterfaceConfig(
        private_key=udpring.keys.generate_private_key(),
        listen_port=port,
        addresses=(ipaddress.ip_interface(address),),
    )
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    node = udpring.Node(udpring.Config(interface))
    printing = asyncio.ensure_future(print_events(node.events()))
    async with node:
        print(f"{node.name}: UDP port {node.listen_port}, public key {node.public_key}", flush=True)
        ended = asyncio.ensure_future(node.wait())
        while not ended.done():
            reading = asyncio.ensure_future(lines.readline())
            await asyncio.wait([reading, ended], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
            elif not (line := reading.result()):
                busy = await node.drain(10, quiet=3)
                print(f"ends with {len(busy)} busy peers", flush=True)
                break
            else:
                try:
                    await carry_out(node, line.decode())
                except (udpring.UdpringError, ValueError) as wrong:
                    print(wrong, flush=True)
    await printing


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", help="of the node, with its prefix length")
    parser.add_argument("port", nargs="?", type=int, default=0, help="default: a free one")
    chosen = parser.parse_args()
    try:
        asyncio.run(main(chosen.address, chosen.port))
    except KeyboardInterrupt:
        pass
    except (udpring.UdpringError, ValueError) as error:
        sys.exit(str(error))
