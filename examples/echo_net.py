#!/usr/bin/env python3
"""A TCP echo server on one thread, without Python per message: echo_net.py [PORT]. Ctrl-C ends it."""

import argparse
import signal
import sys

from udpring import UdpringError
from udpring.uring import Net


def main(port: int) -> None:
    """Echoes until Ctrl-C."""
    net = Net()
    signal.signal(signal.SIGINT, lambda number, frame: net.stop())
    with net:
        address = net.listen("127.0.0.1", port)
        assert isinstance(address, tuple)
        print(f"echoing on port {address[1]}, {net.backend}", flush=True)
        for turn in net.turns():
            # A peer that reads slowly is read slowly: its send queue is bounded.
            net.send_rows(turn)
        info = net.info
        print(f"{info.opened} connections, {info.failed} failed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=0, help="default: a free one")
    try:
        main(parser.parse_args().port)
    except (UdpringError, OSError, OverflowError) as error:
        sys.exit(str(error))
