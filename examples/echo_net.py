#!/usr/bin/env python3
"""A TCP echo server on one thread, without Python per message: echo_net.py [PORT]. Ctrl-C ends it."""

import signal
import sys

from udpring import UdpringError
from udpring.uring import Net


def main() -> None:
    """Echoes until Ctrl-C."""
    net = Net()
    signal.signal(signal.SIGINT, lambda number, frame: net.stop())
    with net:
        address = net.listen("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0)
        assert isinstance(address, tuple)
        print(f"echoing on port {address[1]}, {net.backend}", flush=True)
        for turn in net.turns():
            # A peer that reads slowly is read slowly: its send queue is bounded.
            net.send_many(turn.ids, turn.starts, turn.lengths)
        info = net.info
        print(f"{info.opened} connections, {info.failed} failed")


if __name__ == "__main__":
    try:
        main()
    except UdpringError as error:
        sys.exit(str(error))
