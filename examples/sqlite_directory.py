#!/usr/bin/env python3
"""A VPN server whose clients are in an SQLite database. The node holds only those that are active.

    sqlite_directory.py add clients.sqlite PUBLIC_KEY ALLOWED_IP...     registers a client
    sqlite_directory.py remove clients.sqlite PUBLIC_KEY                its session ends within a second
    sqlite_directory.py serve clients.sqlite wg0.conf                   Ctrl-C ends it

wg0.conf needs no [Peer]. Its Address must cover the clients' addresses, for the kernel's route to them.
Without root, the interface is in a network namespace of its own.
"""

import asyncio
import contextlib
import ipaddress
import os
import sqlite3
import sys

import udpring


async def add(database: str, public_key: str, *allowed_ips: str) -> None:
    """Registers a client, or changes it."""
    networks = tuple(ipaddress.ip_network(each) for each in allowed_ips)
    with contextlib.closing(udpring.SqliteDirectory(database)) as directory:
        await directory.put(udpring.PeerConfig(udpring.keys.from_base64(public_key), allowed_ips=networks))


async def remove(database: str, public_key: str) -> None:
    """Removes a client."""
    with contextlib.closing(udpring.SqliteDirectory(database)) as directory:
        await directory.remove(udpring.keys.from_base64(public_key))


async def serve(database: str, path: str) -> None:
    """Runs the node of a wg-quick configuration and says every five seconds who is active."""
    config = udpring.Config.load(path)
    with contextlib.closing(udpring.SqliteDirectory(database)) as directory:
        inside = None if os.geteuid() == 0 else udpring.Rootless()
        async with udpring.Node(config, attachment=inside, peers=directory, idle_timeout=300) as node:
            print(f"{node.name}: UDP port {node.listen_port}, tier {node.tier}", flush=True)
            ended = asyncio.ensure_future(node.wait())
            while not ended.done():
                for peer in node.peers:
                    print(f"{peer.public_key}: {peer.rx_bytes} bytes in, {peer.tx_bytes} out", flush=True)
                await asyncio.wait([ended], timeout=5)
            print(f"{node.config.file}: {ended.result().reason}")


COMMANDS = {"add": add, "remove": remove, "serve": serve}

if __name__ == "__main__":
    try:
        asyncio.run(COMMANDS[sys.argv[1]](*sys.argv[2:]))
    except KeyboardInterrupt:
        pass
    except (KeyError, IndexError, TypeError):
        sys.exit(__doc__)
    except (udpring.UdpringError, sqlite3.Error, ValueError) as error:
        sys.exit(str(error))
