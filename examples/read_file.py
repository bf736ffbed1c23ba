#!/usr/bin/env python3
"""Prints the length and the first line of a file: read_file.py [--reactor] PATH.

With --reactor an event loop waits for the operations, on kernels without io_uring by threads.
"""

import asyncio
import sys

from udpring import UdpringError
from udpring.uring import Reactor, Ring, open_file

PIECE = 65536


def read_with_a_ring(path: str) -> bytes:
    """Reads piece after piece. Each ``reap`` submits one operation and waits for it."""
    content = b""
    with Ring(8) as ring:
        ring.openat2(path)
        fd = ring.reap()[0].check()
        while True:
            ring.read(fd, PIECE, offset=len(content))
            [done] = ring.reap()
            if not done.check():
                break
            content += done.data
        ring.close_file(fd)
        ring.reap()
    return content


async def read_with_a_reactor(path: str) -> bytes:
    """Other tasks may run meanwhile."""
    async with Reactor(), open_file(path, "rb") as file:
        return await file.read()


def main() -> None:
    """Reads the file that the command line names."""
    words = [word for word in sys.argv[1:] if word != "--reactor"]
    if len(words) != 1:
        sys.exit(__doc__)
    by_reactor = len(words) < len(sys.argv) - 1
    content = asyncio.run(read_with_a_reactor(words[0])) if by_reactor else read_with_a_ring(words[0])
    first, _, _ = content.partition(b"\n")
    print(f"{len(content)} bytes, first line {first!r}")


if __name__ == "__main__":
    try:
        main()
    except (UdpringError, OSError) as error:
        sys.exit(str(error))
