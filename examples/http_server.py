#!/usr/bin/env python3
"""An HTTP/1.1 server with a worker for each core: http_server.py [PORT]. SIGTERM or Ctrl-C ends it.

GET / says hello, POST /echo returns its body, and GET /files/NAME sends a file of the folder --files.
A library parses the requests: h11, or with --parser httptools the faster one of Node.js.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import signal
import stat
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from http_requests import PARSERS, Refused, Request
from http_site import Answer, head, in_words, respond

from udpring import UdpringError
from udpring.uring import Connection, Reactor, open_file
from udpring.uring.server import Server

PIECE_BYTES = 1 << 20
"""Of a file, within the time for one answer."""
GRACE_SECONDS = 0.2
"""When the server ends, requests that are on their way are still answered."""
LINGER_SECONDS = 2.0


@dataclass(frozen=True)
class Options:
    """Seconds: ``idle`` between requests and for an answer, ``head`` and ``body`` to arrive."""

    parser: str
    files: Path | None
    idle: float
    head: float
    body: float


# -- one connection --


class Exchange:
    """Answers the requests of one connection, in their order."""

    def __init__(self, connection: Connection, options: Options) -> None:
        self._connection, self._options = connection, options
        self._parser = PARSERS[options.parser]()
        self._state = ""
        self._answers: list[bytes] = []  # of the requests that came together
        self._closing = False
        self._times = {"idle": options.idle, "head": options.head, "body": options.body}

    async def serve(self) -> None:
        """Ends when the client or the server ends the connection, or a time is over."""
        ended = False
        try:
            async with asyncio.timeout(self._options.idle) as self._timer:
                self._connection.on_drain = self._drain
                while not self._closing and not ended:
                    ended = await self._receive()
                    await self._answer_all()
        except TimeoutError:
            if self._state in ("head", "body"):
                self._refuse(Refused(408, "the request took too long"))
                await self._connection.send_all(b"".join(self._answers), timeout=LINGER_SECONDS)
            ended = self._state == ""  # it does not read its answers
        finally:
            self._connection.on_drain = None
        if not ended:
            await self._linger()

    def _within(self, seconds: float) -> None:
        """Moves the deadline. Moves that are small are left out, because they cost more than they change."""
        now, deadline = asyncio.get_running_loop().time(), self._timer.when() or 0.0
        if abs(deadline - now - seconds) > seconds / 4:
            self._timer.reschedule(now + seconds)

    def _drain(self) -> None:
        """The server ends. The next answer says so, but a client without request is not waited for."""
        if self._state == "idle" and not self._timer.expired():
            self._within(GRACE_SECONDS)

    async def _receive(self) -> bool:
        """Waits for bytes. Returns whether the client has ended its direction."""
        state = self._parser.state
        if state != self._state or state == "idle":
            self._within(
                GRACE_SECONDS if self._connection.draining and state == "idle" else self._times[state]
            )
        self._state = state
        data = await self._connection.recv()
        self._parser.feed(data)
        return not data

    async def _answer_all(self) -> None:
        """Answers all whole requests."""
        try:
            while not self._closing and (request := self._parser.next()) is not None:
                self._state = ""
                await self._answer(request, respond(request, self._options.files))
            if not self._closing and self._parser.awaits_continue:
                self._answers.append(self._parser.answer(100, [], 0))
        except Refused as refused:
            self._refuse(refused)
        await self._send()

    def _refuse(self, refused: Refused) -> None:
        self._closing = True
        answer = in_words(refused.status, str(refused))
        self._head(None, answer, len(answer.body))
        self._answers.append(answer.body)

    async def _answer(self, request: Request, answer: Answer) -> None:
        self._closing = not request.keep_alive or self._connection.draining
        with_body = request.method != b"HEAD"
        if answer.file is None:
            self._head(request, answer, len(answer.body))
            if with_body:
                self._answers.append(answer.body)
            return
        found = await Reactor.current().do("statx", answer.file, follow_symlinks=False)
        try:
            if found.result < 0 or not stat.S_ISREG(found.stat.st_mode):
                raise FileNotFoundError
            opened = await open_file(answer.file)
        except OSError:
            await self._answer(request, in_words(404, "there is no such file"))
            return
        async with opened as file:
            length = os.fstat(file.fileno()).st_size
            self._head(request, answer, length)
            await self._send()
            sent = 0
            while with_body and sent < length:
                self._within(self._options.idle)
                moved = await self._connection.send_file(file, sent, min(PIECE_BYTES, length - sent))
                if not moved:
                    raise ConnectionAbortedError(f"{answer.file} became shorter while it was sent")
                sent += moved

    def _head(self, request: Request | None, answer: Answer, length: int) -> None:
        self._answers.append(head(self._parser, request, answer, length, closing=self._closing))

    async def _send(self) -> None:
        if self._answers:
            self._within(self._options.idle)
            answers, self._answers = b"".join(self._answers), []
            await self._connection.send_all(answers)

    async def _linger(self) -> None:
        """Lets the client read the last answer. A close with unread bytes would reset the connection."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._connection.shutdown()
                while await self._connection.recv():
                    pass


async def serve(options: Options, connection: Connection) -> None:
    """The handler of the server."""
    await Exchange(connection, options).serve()


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--parser", choices=PARSERS, default="h11", help="a parser that is installed")
    parser.add_argument("--files", type=Path, metavar="FOLDER")
    parser.add_argument("--workers", type=int, metavar="N", help="by default one for each core")
    parser.add_argument("--processes", action="store_true", help="workers are processes, not threads")
    for name, seconds, words in (
        ("idle", 15.0, "between requests, and for an answer"),
        ("head", 10.0, "for a head to arrive"),
        ("body", 30.0, "for a body to arrive"),
        ("drain", 10.0, "for connections, when the server ends"),
    ):
        parser.add_argument(f"--{name}", type=float, default=seconds, metavar="SECONDS", help=words)
    return parser.parse_args()


def main() -> None:
    """Serves until SIGTERM or Ctrl-C."""
    chosen = parse_arguments()
    options = Options(chosen.parser, chosen.files, chosen.idle, chosen.head, chosen.body)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.set())
    handler = functools.partial(serve, options)
    with Server(
        handler,
        chosen.host,
        chosen.port,
        workers=chosen.workers,
        processes=chosen.processes,
        receive_armed=True,
    ) as server:
        print(f"serving on port {server.port}, {server.backend}, {server.workers} workers", flush=True)
        stop.wait()
        cut = server.shutdown(chosen.drain)
        print(f"{server.metrics.accepted} connections, {cut} cut off")


if __name__ == "__main__":
    try:
        main()
    except (UdpringError, OSError) as error:
        sys.exit(str(error))
