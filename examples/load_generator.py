#!/usr/bin/env python3
"""Sends datagrams at a rate: load_generator.py HOST PORT [--rate N] [--size BYTES] [--seconds N].

Use it on your own machines: it sends at any rate.
"""

import argparse
import collections
import socket
import sys
import time

import udpring

BURST = 256
PIPELINE = 4
"""Bursts in flight: the next one is submitted while the kernel still has the last."""


def generate(tx: udpring.SendRing, address: tuple[str, int], size: int, rate: float, seconds: float) -> None:
    """Sends for this long and prints the result. Errors are counted, and sending continues."""
    block = bytes(BURST * size)
    sent, errors = 0, collections.Counter[str]()
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        owed = min(int(passed * rate) + 1 - sent, BURST)
        if owed <= 0:
            time.sleep(min(0.001, seconds - passed))
            continue
        tx.submit(memoryview(block)[: owed * size], address, lengths=size)
        sent += owed
        for ticket in tx.reap(wait=1 if tx.pending > PIPELINE * BURST else 0):
            errors.update(str(error.strerror) for _, error in ticket.report.errors)
    for ticket in tx.drain(timeout=5.0):
        errors.update(str(error.strerror) for _, error in ticket.report.errors)
    passed = time.monotonic() - began
    accepted = sent - errors.total() - tx.pending
    print(f"{accepted} datagrams in {passed:.2f} s: {accepted / passed:,.0f} a second, tier {tx.tier}")
    for what, count in errors.most_common():
        print(f"{count} not sent: {what}")


def main() -> None:
    """Reads the command line. The address is resolved once."""
    parser = argparse.ArgumentParser(description="Sends datagrams at a rate.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=100_000, help="datagrams a second (100000)")
    parser.add_argument("--size", type=int, default=200, help="bytes of payload (200)")
    parser.add_argument("--seconds", type=float, default=5, help="how long (5)")
    args = parser.parse_args()
    if not (args.rate > 0 and 0 < args.size <= 65507 and args.seconds > 0):
        parser.error("rate and seconds are above zero, a size is 1 to 65507")
    found = socket.getaddrinfo(args.host, args.port, socket.AF_INET, socket.SOCK_DGRAM)
    address = str(found[0][4][0]), args.port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, udpring.SendRing(sock) as tx:
        generate(tx, address, args.size, args.rate, args.seconds)


if __name__ == "__main__":
    try:
        main()
    except (udpring.UdpringError, OSError) as error:
        sys.exit(str(error))
