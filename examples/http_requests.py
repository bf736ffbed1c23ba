"""Reads HTTP/1.1 requests, for http_server.py. A library parses, and the limits are here.

A ``Parser`` makes no system call: it takes the bytes that came and returns whole requests.
"""

from __future__ import annotations

import collections
import functools
import http
from dataclasses import dataclass, field
from typing import Any, Protocol

try:
    import h11
except ImportError:
    raise SystemExit("this example parses by the package h11: pip install h11") from None
try:
    import httptools
except ImportError:
    httptools = None  # type: ignore[assignment]

HEAD_BYTES = 16 * 1024
"""Of a request line and its header."""
BODY_BYTES = 1 << 20
FRAMED_BYTES = 2 * BODY_BYTES
"""Of a body with the sizes and extensions of its chunks, and with trailers."""

Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """A request that ends its connection."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class Request:
    """A request. Names in ``headers`` are in lower case."""

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    keep_alive: bool
    body: bytearray = field(default_factory=bytearray)

    def check(self) -> None:
        """Raises Refused for a head that cannot be served (RFC 9112)."""
        fields = dict(self.headers)
        names = [name for name, _ in self.headers]
        length = sum(len(name) + len(value) + 4 for name, value in self.headers) + len(self.target)
        if self.version not in (b"1.0", b"1.1"):
            raise Refused(505, "HTTP/1.0 and HTTP/1.1 are served")
        if length > HEAD_BYTES:
            raise Refused(431, f"the head is longer than {HEAD_BYTES} bytes")
        if names.count(b"host") != 1 and (b"host" in fields or self.version == b"1.1"):
            raise Refused(400, "one Host is needed")
        if b"transfer-encoding" in fields and (b"content-length" in fields or self.version == b"1.0"):
            raise Refused(400, "two statements of the body's length")  # request smuggling
        if fields.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise Refused(501, "the only transfer encoding is chunked")
        self.check_body(int(fields.get(b"content-length", 0)))

    def check_body(self, length: int) -> None:
        """Raises Refused if the body is too long."""
        if length > BODY_BYTES:
            raise Refused(413, f"the body is longer than {BODY_BYTES} bytes")


class Parser(Protocol):
    """Reads requests out of the bytes of a connection."""

    def feed(self, data: bytes) -> None:
        """Bytes that came. Empty: the client has ended its direction."""

    def next(self) -> Request | None:
        """The next whole request, or None if it needs more bytes. Raises Refused."""

    @property
    def state(self) -> str:
        """ "idle" between requests, "head" or "body" inside one."""

    @property
    def awaits_continue(self) -> bool:
        """Whether the client waits for 100 (Continue) before it sends the body."""

    def answer(self, status: int, headers: Headers, length: int) -> bytes:
        """The head of the answer to the last request. ``length`` bytes of the body follow it."""


class H11Parser:
    """h11 follows both directions, so it sees the answers too."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._request: Request | None = None

    def feed(self, data: bytes) -> None:
        self._h11.receive_data(data)

    def next(self) -> Request | None:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise Refused(error.error_status_hint, str(error)) from None
            if isinstance(event, h11.Request):
                self._request = self._request_of(event)
                self._request.check()
            elif isinstance(event, h11.Data):
                assert self._request is not None
                self._request.body += event.data
                self._request.check_body(len(self._request.body))
            elif isinstance(event, h11.EndOfMessage):
                whole, self._request = self._request, None
                return whole
            else:  # NEED_DATA, or PAUSED until the last request is answered
                return None

    def _request_of(self, event: h11.Request) -> Request:
        headers = list(event.headers)
        wishes = b",".join(value for name, value in headers if name == b"connection").lower()
        keep_alive = event.http_version == b"1.1" and b"close" not in wishes.replace(b" ", b"").split(b",")
        return Request(event.method, event.target, event.http_version, headers, keep_alive)

    @property
    def state(self) -> str:
        if self._request is not None:
            return "body"
        return "head" if self._h11.trailing_data[0] else "idle"

    @property
    def awaits_continue(self) -> bool:
        return self._h11.they_are_waiting_for_100_continue

    def answer(self, status: int, headers: Headers, length: int) -> bytes:
        reason = http.HTTPStatus(status).phrase.encode()
        if status == 100:
            return self._h11.send(h11.InformationalResponse(status_code=100, headers=[], reason=reason))
        head = self._h11.send(h11.Response(status_code=status, headers=headers, reason=reason))
        if length:
            body: Any = range(length)  # h11 counts the bytes and does not look at them
            self._h11.send_with_data_passthrough(h11.Data(data=body))
        self._h11.send(h11.EndOfMessage())
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return head


class HttptoolsParser:
    """httptools calls the methods ``on_...`` for all requests of a segment. It bounds nothing."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Headers = []
        self._whole: collections.deque[Request] = collections.deque()
        self._refused: Refused | None = None
        self._fed = 0  # bytes since the begin of the request
        self.state = "idle"
        self.awaits_continue = False

    def feed(self, data: bytes) -> None:
        if not data and self.state != "idle":
            self._refused = self._refused or Refused(400, "the request is cut off")
        for start in range(0, len(data), HEAD_BYTES):  # in parts, so that the bounds hold for long data too
            if self._refused is None:
                self._feed_part(data[start : start + HEAD_BYTES])

    def _feed_part(self, data: bytes) -> None:
        self._fed += len(data)
        while data and self._refused is None:
            try:
                self._parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:  # there is no other protocol here
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                cause = error.__context__
                status = 505 if "version" in str(error) else 400
                self._refused = cause if isinstance(cause, Refused) else Refused(status, str(error))
        if self._fed > {"head": HEAD_BYTES, "body": FRAMED_BYTES}.get(self.state, self._fed):
            status = 431 if self.state == "head" else 413
            self._refused = self._refused or Refused(status, f"the {self.state} is too long")

    def on_message_begin(self) -> None:
        self._target, self._headers, self._fed = b"", [], 0
        self.state = "head"

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state == "head":  # not in a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        version, keep_alive = self._parser.get_http_version().encode(), self._parser.should_keep_alive()
        method = self._parser.get_method()
        self._request = Request(method, self._target, version, self._headers, keep_alive)
        self._request.check()
        expected = dict(self._headers).get(b"expect", b"").lower()
        self.awaits_continue = expected == b"100-continue" and version == b"1.1"
        self.state = "body"

    def on_body(self, body: bytes) -> None:
        self.awaits_continue = False
        self._request.body += body
        self._request.check_body(len(self._request.body))

    def on_message_complete(self) -> None:
        self._whole.append(self._request)
        self.awaits_continue = False
        self.state = "idle"

    def next(self) -> Request | None:
        if self._whole:
            return self._whole.popleft()
        if self._refused is not None:
            raise self._refused
        return None

    def answer(self, status: int, headers: Headers, length: int) -> bytes:
        self.awaits_continue = False
        return _status_line(status) + b"".join([b"%s: %s\r\n" % pair for pair in headers]) + b"\r\n"


@functools.cache
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, http.HTTPStatus(status).phrase.encode())


PARSERS: dict[str, type[Parser]] = {"h11": H11Parser}
if httptools is not None:
    PARSERS["httptools"] = HttptoolsParser
