#!/usr/bin/env python3
"""Accepts TCP connections, prints each and closes it: accept_connections.py [--reactor] [PORT].

Ctrl-C ends it. With --reactor an event loop accepts them, on kernels without io_uring by readiness.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import sys

from udpring import UdpringError
from udpring.uring import Listener, Reactor, Ring


def accept_with_a_ring(port: int) -> None:
    """One operation accepts one connection, and says who it is."""
    with Ring(8) as ring, socket.create_server(("127.0.0.1", port)) as listener:
        print(f"accepting on port {listener.getsockname()[1]}, io_uring", flush=True)
        while True:
            ring.accept(listener)
            for done in ring.reap():
                os.close(done.check())
                print(f"accepted {done.address!r}", flush=True)


async def accept_with_a_reactor(port: int) -> None:
    """Other tasks may run meanwhile."""
    async with Reactor() as reactor, Listener.bind("127.0.0.1", port) as listener:
        assert isinstance(listener.address, tuple)
        print(f"accepting on port {listener.address[1]}, {reactor.backend}", flush=True)
        while True:
            async with await listener.accept() as connection:
                print(f"accepted {connection.peer_address!r}", flush=True)


def main(port: int, reactor: bool) -> None:
    """Accepts until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        if reactor:
            asyncio.run(accept_with_a_reactor(port))
        else:
            accept_with_a_ring(port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=0, help="default: a free one")
    parser.add_argument("--reactor", action="store_true", help="accept in an event loop")
    chosen = parser.parse_args()
    try:
        main(chosen.port, chosen.reactor)
    except (UdpringError, OSError, OverflowError) as error:
        sys.exit(str(error))
