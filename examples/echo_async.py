#!/usr/bin/env python3
"""The echo server on asyncio, without a thread: echo_async.py [PORT]. Ctrl-C ends it."""

import argparse
import asyncio
import contextlib
import signal
import socket
import sys

import udpring


async def echo(rx: udpring.RecvRing, tx: udpring.SendRing) -> None:
    """Each turn of the loop handles the datagrams that are there, so a flood does not block other tasks for
    long."""
    async for batch in rx:
        with batch:
            report = await tx.send_batch_async(batch, batch.addresses)
        for index, error in report.errors:
            print(f"datagram {index} of a batch was not sent: {error}", file=sys.stderr)


async def main(port: int) -> None:
    """Echoes until Ctrl-C."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", port))
        with udpring.RecvRing(sock) as rx, udpring.SendRing(sock) as tx:
            print(f"echoing on port {sock.getsockname()[1]}, tier {rx.tier}", flush=True)
            echoing = asyncio.create_task(echo(rx, tx))
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, echoing.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await echoing
            print(f"{tx.stats['packets']} echoed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=0, help="default: a free one")
    try:
        asyncio.run(main(parser.parse_args().port))
    except (udpring.UdpringError, OSError, OverflowError) as error:
        sys.exit(str(error))
