"""What http_server.py and http_net.py answer: the pages and the bytes of an answer's head."""

from __future__ import annotations

import email.utils
import functools
import mimetypes
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from http_requests import Headers, Parser, Request


@dataclass(slots=True)
class Answer:
    """An answer with its body, or with the path of a file."""

    status: int
    body: bytes = b""
    headers: Headers = field(default_factory=list)
    file: Path | None = None


PLAIN: Headers = [(b"Content-Type", b"text/plain; charset=utf-8")]


def in_words(status: int, words: str, *headers: tuple[bytes, bytes]) -> Answer:
    """An answer for people."""
    return Answer(status, f"{words}\n".encode(), [*PLAIN, *headers])


def respond(request: Request, files: Path | None) -> Answer:
    """The routes."""
    path = request.target.partition(b"?")[0]
    if not path.startswith(b"/"):  # the form for proxies
        path = urllib.parse.urlsplit(path).path or b"/"
    allowed = {b"/": (b"GET", b"HEAD"), b"/echo": (b"POST",)}.get(path)
    if path.startswith(b"/files/") and files is not None:
        allowed = (b"GET", b"HEAD")
    if allowed is None:
        return in_words(404, "there is no such page")
    if request.method not in allowed:
        return in_words(405, "this page has other methods", (b"Allow", b", ".join(allowed)))
    if path == b"/":
        return Answer(200, b"Hello, World!\n", PLAIN)
    if path == b"/echo":
        return Answer(200, bytes(request.body), [(b"Content-Type", b"application/octet-stream")])
    assert files is not None
    name = urllib.parse.unquote(path[len(b"/files/") :].decode("latin-1"), errors="surrogateescape")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return in_words(404, "there is no such file")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Answer(200, b"", [(b"Content-Type", kind.encode())], files / name)


@functools.lru_cache(2)
def date(second: int) -> bytes:
    """The value of the header Date."""
    return email.utils.formatdate(second, usegmt=True).encode()


def head(parser: Parser, request: Request | None, answer: Answer, length: int, *, closing: bool) -> bytes:
    """The head of the answer to ``request`` (None: it was refused), whose body has ``length`` bytes."""
    headers = [*answer.headers, (b"Content-Length", b"%d" % length), (b"Date", date(int(time.time())))]
    if closing:
        headers.append((b"Connection", b"close"))
    elif request is not None and request.version == b"1.0":
        headers.append((b"Connection", b"keep-alive"))
    with_body = request is None or request.method != b"HEAD"
    return parser.answer(answer.status, headers, length if with_body else 0)
