#!/usr/bin/env python3
"""An HTTP/1.1 server on one thread, with little overhead: http_net.py [PORT]. SIGTERM or Ctrl-C ends it.

The pages and the parsers are those of http_server.py. The connections are protocols of a ProtocolNet: one
call into C serves the sockets of all. There is no event loop, so a look at all of them keeps the times.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time

from http_requests import PARSERS, Refused
from http_site import head, in_words, respond

from udpring import UdpringError
from udpring.uring.net_protocols import NetProtocol, NetTransport, ProtocolNet

PART_BYTES = 8192
"""Of a connection, that are parsed before the others have their turn. A turn may bring more."""
GRACE_SECONDS = 0.2
"""When the server ends, requests that are on their way are still answered."""
LINGER_SECONDS = 2.0
"""After the last answer, for the client to read it. A close with unread bytes would reset the connection."""


class Site:
    """What the connections share."""

    def __init__(self, parser: str, times: dict[str, float]) -> None:
        self.parser = PARSERS[parser]
        self.times = times
        self.open: set[HttpProtocol] = set()
        self.busy: set[HttpProtocol] = set()  # with bytes that are not parsed yet
        self.draining = False
        self.now = time.monotonic()

    def go_on(self) -> None:
        """Gives each busy connection its turn."""
        for connection in list(self.busy):
            connection.go_on()

    def look(self) -> None:
        """Ends the connections whose time is over."""
        self.now = time.monotonic()
        for connection in [each for each in self.open if each.deadline <= self.now]:
            connection.expire()

    def drain(self) -> None:
        """Ends connections without a request, and others after their answer."""
        self.draining = True
        self.drained = self.now = time.monotonic()
        for connection in self.open:
            if connection.state == "idle":
                connection.deadline = self.now + GRACE_SECONDS


class HttpProtocol(NetProtocol):
    """One connection."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._parser = site.parser()
        self._input = bytearray()
        self._at_end = False  # of the client's direction
        self._full = False  # the client does not read its answers
        self.state = "idle"
        self.deadline = site.now + site.times["idle"]

    def connection_made(self, transport: NetTransport) -> None:
        self._transport = transport
        self._site.open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._site.open.discard(self)
        self._site.busy.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.state == "ended":
            return
        if self._input or self._full or len(data) > PART_BYTES:
            self._input += data
            self._rest()
        else:
            self._parser.feed(data)
            self._answer_all()

    def eof_received(self) -> bool:
        self._at_end = True
        self._rest()
        return True  # the transport stays open until all is answered

    def pause_writing(self) -> None:
        self._full = True
        self.deadline = self._site.now + self._site.times["idle"]
        self._rest()

    def resume_writing(self) -> None:
        self._full = False
        self.deadline = self._site.now + self._site.times["idle"]
        self._rest()

    def _rest(self) -> None:
        """Waits for its turn, if there is something to do."""
        if self.state == "ended":
            self._input.clear()
            if self._at_end:
                self._transport.close()
        busy = (self._input or self._at_end) and not self._full and self.state != "ended"
        if self._input:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
        (self._site.busy.add if busy else self._site.busy.discard)(self)

    def go_on(self) -> None:
        """Parses a part of the bytes that came."""
        part = bytes(self._input[:PART_BYTES])
        del self._input[:PART_BYTES]
        self._parser.feed(part)  # empty: the end
        self._answer_all()
        if not part and self.state != "ended":
            self._end()
        self._rest()

    def expire(self) -> None:
        """A time is over."""
        if self.state in ("head", "body") and not self._full:
            self._refuse(Refused(408, "the request took too long"))
        elif self.state == "idle" and not self._full:
            self._end()
        else:
            self._transport.abort()

    def _answer_all(self) -> None:
        """Answers all whole requests."""
        answers: list[bytes] = []
        parser, before = self._parser, self.state
        closing = False
        try:
            while not closing and (request := parser.next()) is not None:
                before = ""
                closing = not request.keep_alive or self._site.draining
                answer = respond(request, None)
                answers.append(head(parser, request, answer, len(answer.body), closing=closing))
                if request.method != b"HEAD":
                    answers.append(answer.body)
            if parser.awaits_continue and not closing:
                answers.append(parser.answer(100, [], 0))
        except Refused as refused:
            self._transport.write(b"".join(answers))
            self._refuse(refused)
            return
        if answers:
            self._transport.write(b"".join(answers))
        if closing:
            self._end()
            return
        self.state = parser.state
        if self.state != before and not self._full:
            self.deadline = self._site.now + self._site.times[self.state]

    def _refuse(self, refused: Refused) -> None:
        answer = in_words(refused.status, str(refused))
        self._transport.write(head(self._parser, None, answer, len(answer.body), closing=True) + answer.body)
        self._end()

    def _end(self) -> None:
        self.state = "ended"
        self.deadline = self._site.now + LINGER_SECONDS
        self._transport.write_eof()


def main() -> None:
    """Serves until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--parser", choices=PARSERS, default="h11", help="a parser that is installed")
    for name, seconds in (("idle", 15.0), ("head", 10.0), ("body", 30.0), ("drain", 10.0)):
        parser.add_argument(f"--{name}", type=float, default=seconds, metavar="SECONDS")
    chosen = parser.parse_args()
    site = Site(chosen.parser, {"idle": chosen.idle, "head": chosen.head, "body": chosen.body})
    look = min(1.0, chosen.idle, chosen.head, chosen.body)
    net = ProtocolNet(lambda: HttpProtocol(site), buffers=64, buffer_bytes=8192)
    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        stop.set()
        net.wake()

    def serve(seconds: float) -> None:
        net.step(0 if site.busy else seconds)
        site.go_on()
        if time.monotonic() - site.now >= seconds:
            site.look()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with net:
        address = net.listen("127.0.0.1", chosen.port)
        assert isinstance(address, tuple)
        print(f"serving on port {address[1]}, {net.backend}, 1 thread", flush=True)
        while not stop.is_set():
            serve(look)
        serve(0)  # clients that wait
        net.stop_listening()
        site.drain()
        while site.open and time.monotonic() < site.drained + chosen.drain:
            serve(GRACE_SECONDS / 4)
        print(f"{net.info.opened} connections, {len(site.open)} cut off")


if __name__ == "__main__":
    try:
        main()
    except (UdpringError, OSError) as error:
        sys.exit(str(error))
