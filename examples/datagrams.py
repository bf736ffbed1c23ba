#!/usr/bin/env python3
"""Many datagrams over loopback, in batches: datagrams.py [COUNT]. No root; prints the rate and the tier."""

import argparse
import socket
import sys
import time

import udpring


def main(count: int) -> None:
    """Sends ``count`` datagrams of 1200 bytes to itself, 64 per batch, and counts arrivals."""
    with socket.socket(type=socket.SOCK_DGRAM) as inbox, socket.socket(type=socket.SOCK_DGRAM) as outbox:
        inbox.bind(("127.0.0.1", 0))
        inbox.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        payloads = [bytes(1200)] * 64
        arrived = 0
        begin = time.perf_counter()
        with udpring.RecvRing(inbox) as rx, udpring.SendRing(outbox) as tx:
            for _ in range(0, count, len(payloads)):
                report = tx.send_batch(payloads, inbox.getsockname())
                for index, error in report.errors:
                    print(f"datagram {index} of the batch: {error}", file=sys.stderr)
                expected = arrived + report.accepted
                while arrived < expected:
                    with rx.recv_batch(timeout=1.0) as batch:
                        if not batch:
                            sys.exit(f"{expected - arrived} datagrams did not arrive within a second")
                        arrived += len(batch)
            seconds = time.perf_counter() - begin
            print(f"{arrived} datagrams, {arrived / seconds:,.0f} a second, tiers {tx.tier} and {rx.tier}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=100_000, help="default: 100000")
    try:
        main(parser.parse_args().count)
    except udpring.UdpringError as error:
        sys.exit(str(error))
