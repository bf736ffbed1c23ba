#!/usr/bin/env python3
"""A TCP echo server on a ring alone, with one thread: echo_ring.py [PORT]. SIGTERM or Ctrl-C ends it.

Each connection has one operation in flight, a receive or a send. So a peer that reads slowly is read slowly.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

from udpring import UdpringError
from udpring.uring import Completion, Flag, Ring

CONNECTIONS = 10_000
"""At once. More wait in the kernel's backlog."""
RECEIVE = 65536
PAUSE_SECONDS = 0.1
"""After accept(2) failed, mostly for lack of descriptors."""


class EchoServer:
    """``user_data`` of each operation is the function that goes on when it has ended."""

    def __init__(self, ring: Ring, listener: socket.socket) -> None:
        self._ring, self._listener = ring, listener
        self._open: set[int] = set()
        self._accepting = False
        self.accepted = 0

    def serve(self) -> None:
        """Runs until an exception, such as KeyboardInterrupt."""
        self._accept()
        while True:
            self._ring.wait(1)  # submits, too
            for done in self._ring.completions():
                go_on: Callable[[Completion], None] = done.user_data  # type: ignore[assignment]
                go_on(done)

    def close(self) -> None:
        """Closes all connections."""
        for fd in self._open:
            os.close(fd)
        self._open.clear()

    def _accept(self) -> None:
        if not self._accepting and len(self._open) < CONNECTIONS:
            self._accepting = True
            self._ring.set_data(self._ring.accept(self._listener), self._accepted)

    def _accepted(self, done: Completion) -> None:
        self._accepting = False
        if done.result < 0:
            self._accepting = True
            self._ring.set_data(self._ring.timeout(PAUSE_SECONDS), self._paused)
            return
        self.accepted += 1
        self._open.add(done.result)
        self._receive(done.result)
        self._accept()

    def _paused(self, done: Completion) -> None:
        self._accepting = False
        self._accept()

    def _receive(self, fd: int) -> None:
        self._ring.set_data(self._ring.recv(fd, RECEIVE), lambda done: self._send(fd, done))

    def _send(self, fd: int, done: Completion) -> None:
        if done.result <= 0:  # the end of the stream, or an error
            self._end(fd)
            return
        length, how = done.result, socket.MSG_WAITALL | socket.MSG_NOSIGNAL
        ticket = self._ring.send(fd, done.data, message_flags=how)
        self._ring.set_data(ticket, lambda sent: self._sent(fd, sent.result == length))

    def _sent(self, fd: int, whole: bool) -> None:
        if whole:
            self._receive(fd)
        else:
            self._end(fd)

    def _end(self, fd: int) -> None:
        self._open.discard(fd)
        self._ring.close_file(fd, flags=Flag.SKIP_SUCCESS)
        self._accept()


def main(port: int) -> None:
    """Echoes until SIGTERM or Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a KeyboardInterrupt, as Ctrl-C
    with (
        socket.create_server(("127.0.0.1", port), backlog=1024) as listener,
        Ring(1024, slots=CONNECTIONS + 1024) as ring,
    ):
        server = EchoServer(ring, listener)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                print(f"echoing on port {listener.getsockname()[1]}, io_uring, 1 thread", flush=True)
                server.serve()
        finally:
            server.close()
        print(f"{server.accepted} connections")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=0, help="default: a free one")
    try:
        main(parser.parse_args().port)
    except (UdpringError, OSError, OverflowError) as error:
        sys.exit(str(error))
