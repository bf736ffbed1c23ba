#!/usr/bin/env python3
"""Sends numbered datagrams to an echo server and checks what returns: echo_client.py HOST PORT [COUNT]."""

import argparse
import socket
import struct
import sys
import time

import udpring

SIZE = 200
BURST = 64
NUMBER = struct.Struct("!Q")


def echo(sock: socket.socket, count: int) -> tuple[int, int]:
    """Sends ``count`` datagrams in bursts. Returns the numbers of correct and of foreign answers.

    A burst is one buffer, cut into datagrams of SIZE bytes. Answers are read by columns: the offset of each
    datagram in the batch's data, and its length."""
    returned = strange = 0
    block = bytearray(BURST * SIZE)
    with udpring.RecvRing(sock) as rx, udpring.SendRing(sock) as tx:
        for first in range(0, count, BURST):
            burst = min(BURST, count - first)
            for n in range(burst):
                NUMBER.pack_into(block, n * SIZE, first + n)
            report = tx.send_batch(memoryview(block)[: burst * SIZE], lengths=SIZE)
            for _, error in report.errors:
                print(f"not sent: {error}", file=sys.stderr)
            awaited = set(range(first, first + burst))
            while awaited:
                with rx.recv_batch(timeout=1.0) as batch:
                    if not batch:
                        break  # missing after a second: lost
                    for offset, length in zip(batch.offsets, batch.lengths, strict=True):
                        number = NUMBER.unpack_from(batch.data, offset)[0] if length == SIZE else -1
                        strange += number not in awaited
                        awaited.discard(number)
                        returned += 1
    return returned, strange


def main(host: str, port: int, count: int) -> None:
    """A connected socket receives only from its peer, and reports when nobody listens there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.connect((host, port))
        began = time.perf_counter()
        returned, strange = echo(sock, count)
        rate = returned / (time.perf_counter() - began)
    print(f"{returned} of {count} returned, {strange} not ours, {rate:,.0f} a second")
    sys.exit(returned != count or strange != 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("count", nargs="?", type=int, default=100_000, help="of datagrams (default: 100000)")
    chosen = parser.parse_args()
    try:
        main(chosen.host, chosen.port, chosen.count)
    except (udpring.UdpringError, OSError, OverflowError) as error:
        sys.exit(str(error))
