#!/usr/bin/env python3
"""A TCP echo server with a worker for each core: echo_streams.py [PORT]. Ctrl-C ends it.

With --processes the workers are processes, which run in parallel on interpreters with a global lock.
"""

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


def main() -> None:
    """Echoes until Ctrl-C."""
    arguments = sys.argv[1:]
    processes = "--processes" in arguments
    ports = [int(word) for word in arguments if word.isdecimal()]
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    with Server(echo, port=ports[0] if ports else 0, processes=processes, receive_armed=True) as server:
        print(f"echoing on port {server.port}, {server.backend}, {server.workers} workers", flush=True)
        stop.wait()
        cut = server.shutdown(5.0)
        print(f"{server.metrics.accepted} connections, {cut} cut off")


if __name__ == "__main__":
    try:
        main()
    except UdpringError as error:
        sys.exit(str(error))
