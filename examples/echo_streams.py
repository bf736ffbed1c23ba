#!/usr/bin/env python3
"""A TCP echo server with a worker for each core: echo_streams.py [PORT]. SIGTERM or Ctrl-C ends it.

With --processes the workers are processes, which run in parallel on interpreters with a global lock.
"""

import argparse
import signal
import sys
import threading

from udpring import UdpringError
from udpring.uring import Connection
from udpring.uring.server import Server


async def echo(connection: Connection) -> None:
    """One connection. The peer that reads slowly is read slowly."""
    while data := await connection.recv():
        await connection.send_all(data)


def main(port: int, processes: bool) -> None:
    """Echoes until SIGTERM or Ctrl-C."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.set())
    with Server(echo, port=port, processes=processes, receive_armed=True) as server:
        print(f"echoing on port {server.port}, {server.backend}, {server.workers} workers", flush=True)
        stop.wait()
        cut = server.shutdown(5.0)
        print(f"{server.metrics.accepted} connections, {cut} cut off")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=0, help="default: a free one")
    parser.add_argument("--processes", action="store_true", help="workers are processes")
    chosen = parser.parse_args()
    try:
        main(chosen.port, chosen.processes)
    except (UdpringError, OSError, OverflowError) as error:
        sys.exit(str(error))
