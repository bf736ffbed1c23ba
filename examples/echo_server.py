#!/usr/bin/env python3
"""Sends each datagram back to its source: echo_server.py [PORT]. Ctrl-C ends it."""

import argparse
import contextlib
import socket
import sys

import udpring


def serve(sock: socket.socket) -> None:
    """Echoes until Ctrl-C. A batch is sent in place: no byte is copied, and no object is made for a datagram.
    The report has the unreachable destinations. All others get their answer."""
    failed = 0
    with udpring.RecvRing(sock) as rx, udpring.SendRing(sock) as tx:
        print(f"echoing on port {sock.getsockname()[1]}, tier {rx.tier}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                with rx.recv_batch() as batch:
                    report = tx.send_batch(batch, batch.addresses)
                failed += len(report.errors)
        echoed, drops = tx.stats["packets"], rx.stats["kernel_drops"]
    print(f"{echoed} echoed, {failed} not sent, {drops} lost because the socket was full")


def main(port: int) -> None:
    """Opens the socket. The rings borrow it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", port))
        serve(sock)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=0, help="default: a free one")
    try:
        main(parser.parse_args().port)
    except (udpring.UdpringError, OSError, OverflowError) as error:
        sys.exit(str(error))
