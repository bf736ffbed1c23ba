"""examples/http_server.py and http_net.py on the wire: framing, limits, times and their end."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import signal
import socket
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .example_servers import DENIED, INTERPRETERS, ExampleServer, serving
from .reactors import PATIENCE

STREAMS = [
    pytest.param((*interpreter.values, "http_server.py", "--parser", parser), id=f"{interpreter.id}-{parser}")
    for interpreter, parser in itertools.product(INTERPRETERS, ("h11", "httptools"))
]
NET = [
    pytest.param(([sys.executable], "io_uring", "http_net.py", "--parser", "httptools"), id="net"),
    pytest.param((DENIED, "epoll", "http_net.py"), id="net-denied-h11"),
]
HELLO = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GREETING = b"Hello, World!\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    (made / "inner").mkdir()
    (made / "inner" / "secret").write_text("secret")
    for name, length in (("empty", 0), ("one.txt", 1), ("long.bin", 3_000_001)):
        (made / name).write_bytes(os.urandom(length))
    (made / "link").symlink_to("one.txt")
    os.mkfifo(made / "fifo")
    return made


@pytest.fixture(scope="module", params=[*STREAMS, *NET])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[ExampleServer]:
    words = request.param
    more = ("--files", folder, "--workers", 2) if "http_server.py" in words else ()
    with serving(*words, *more) as found:
        yield found


class Client:
    """A connection, and the answers that come on it."""

    def __init__(self, server: ExampleServer, room: int | None = None) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(PATIENCE)
        if room is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.sock.connect(("127.0.0.1", server.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
        """The next answer."""
        response = http.client.HTTPResponse(self, method=method)  # type: ignore[arg-type]
        response.begin()
        return response, response.read()

    def makefile(self, mode: str) -> object:
        """For HTTPResponse, which must not close the reader."""
        reader = self._reader
        return types.SimpleNamespace(
            read=reader.read,
            readline=reader.readline,
            readinto=reader.readinto,
            flush=lambda: None,
            close=lambda: None,
        )

    def status(self, request: bytes) -> int:
        self.send(request)
        return self.answer()[0].status

    def at_end(self) -> bool:
        """Whether the server has ended the connection, and not by a reset."""
        return self._reader.read(1) == b""


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /echo HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x;e=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunks
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


def test_routes(server: ExampleServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        for method, path, code, body in (
            ("GET", "/", 200, GREETING),
            ("GET", f"http://127.0.0.1:{server.port}/?x=1", 200, GREETING),
            ("HEAD", "/", 200, b""),
            ("GET", "/none", 404, None),
            ("POST", "/echo", 200, b"payload"),
            ("GET", "/echo", 405, None),
            ("DELETE", "/", 405, None),
            ("OPTIONS", "*", 404, None),
        ):
            connection.request(method, path, b"payload" if method == "POST" else None)
            response = connection.getresponse()
            found = response.read()
            assert response.status == code
            assert body is None or found == body
            assert (response.getheader("Allow") is not None) == (code == 405)
            assert response.getheader("Date", "").endswith(" GMT")
            if method == "HEAD":
                assert response.getheader("Content-Length") == str(len(GREETING))


def test_pipelined_requests_are_answered_in_order(server: ExampleServer) -> None:
    bodies = [b"%d" % number * (number % 50) for number in range(300)]
    requests = [
        chunked([body[:3], body[3:]] if len(body) > 3 else [body or b"x"]) if number % 3 == 0 else post(body)
        for number, body in enumerate(bodies)
    ]
    with Client(server) as client:
        client.send(b"".join(requests))
        for number, body in enumerate(bodies):
            response, found = client.answer()
            assert (response.status, found) == (200, body or (b"x" if number % 3 == 0 else b""))


def test_requests_may_come_in_any_pieces(server: ExampleServer) -> None:
    stream = b"".join([HELLO, post(b"body"), chunked([b"ab", b"c"], b"X: y\r\n"), HELLO])
    chosen = random.Random(server.port)
    cuts = [[1] * len(stream), *([chosen.randint(1, 40) for _ in stream] for _ in range(10))]
    for lengths in cuts:
        with Client(server) as client:
            at = 0
            for length in lengths:
                client.send(stream[at : at + length])
                at += length
            assert [client.answer()[1] for _ in range(4)] == [GREETING, b"body", b"abc", GREETING]


def test_body_is_asked_for_when_the_client_waits(server: ExampleServer) -> None:
    with Client(server) as client:
        for _ in range(2):
            head, body = post(b"large", b"Expect: 100-Continue").split(b"\r\n\r\n")
            client.send(head + b"\r\n\r\n")
            assert client.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(body)
            assert client.answer()[1] == b"large"
        client.send(post(b"at once", b"Expect: 100-continue"))
        assert client.answer()[1] == b"at once"
        client.send(
            b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.answer()[0].status == 413
        assert client.at_end()


LONG = b"x" * 20_000
REFUSED = {
    "no request": (b"hello\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two lengths": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "bad length": (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", 400),
    "bad chunk": (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "space in a name": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "long body": (post(b"x" * (1 << 20) + b"y"), 413),
    "long chunks": (chunked([bytes(60_000)] * 20), 413),
    "long whole head": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + LONG + b"\r\n\r\n", 431),
    "long head": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + LONG * 5, 431),
    "long target": (b"GET /" + LONG * 5, 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000, 431),
    "other version": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "future version": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "cut off": (b"GET / HTTP/1.1\r\nHost", 400),
    "cut off body": (post(b"body")[:-1], 400),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_request_ends_the_connection(server: ExampleServer, kind: str) -> None:
    """Its answer arrives whole, although the client has sent more than was read, and comes after others."""
    request, code = REFUSED[kind]
    with Client(server) as client:
        with contextlib.suppress(OSError):  # the server may have ended the connection before it read all
            client.send(HELLO + request)
            client.sock.shutdown(socket.SHUT_WR)
        assert client.answer()[1] == GREETING
        response, _ = client.answer()
        assert (response.status, response.getheader("Connection")) == (code, "close")
        with contextlib.suppress(ConnectionError):
            assert client.at_end()


def test_endless_trailer_is_refused(server: ExampleServer) -> None:
    with Client(server) as client:
        client.send(chunked([b"x"])[:-2] + b"X: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(60):
                client.send(b"y" * 65536)
        assert client.answer()[0].status in (413, 431)


def test_connection_ends_when_the_client_says_so(server: ExampleServer) -> None:
    with Client(server) as client:
        client.send(HELLO + HELLO.replace(b"Host: a", b"Host: a\r\nConnection: close") + HELLO)
        assert client.answer()[0].getheader("Connection") is None
        assert client.answer()[0].getheader("Connection") == "close"
        assert client.at_end()
    with Client(server) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.answer()[0].getheader("Connection") == "close"
        assert client.at_end()


def test_half_closed_client_gets_its_answers(server: ExampleServer) -> None:
    with Client(server) as client:
        client.send(HELLO * 3)
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.answer()[1] for _ in range(3)] == [GREETING] * 3
        assert client.at_end()


def test_upgrade_is_not_taken(server: ExampleServer) -> None:
    """The request is answered as an ordinary one, as RFC 9110 allows."""
    with Client(server) as client:
        client.send(HELLO.replace(b"Host: a", b"Host: a\r\nConnection: Upgrade\r\nUpgrade: h2c") + HELLO)
        assert [client.answer()[1] for _ in range(2)] == [GREETING] * 2


@pytest.mark.parametrize("server", STREAMS, indirect=True)
def test_files_are_sent_whole(server: ExampleServer, folder: Path) -> None:
    with Client(server) as client:
        names = ["long.bin", "empty", "one.txt", "long.bin"]
        client.send(b"".join(b"GET /files/%s HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode() for name in names))
        for name in names:
            assert client.answer()[1] == (folder / name).read_bytes()
        client.send(b"HEAD /files/long.bin HTTP/1.1\r\nHost: a\r\n\r\n")
        response, body = client.answer("HEAD")
        assert (response.getheader("Content-Length"), body) == ("3000001", b"")


@pytest.mark.parametrize(
    "name",
    ["inner", "inner/secret", "inner%2fsecret", "..", "%2e%2e", "", "link", "fifo", "absent", "a%00b", "%ff"],
)
def test_other_files_are_not_found(server: ExampleServer, name: str) -> None:
    with Client(server) as client:
        assert client.status(b"GET /files/%s HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode()) == 404
        assert client.status(HELLO) == 200


# -- times and the end --


def drip(client: Client, data: bytes) -> bytes:
    """Sends ``data``, and then byte after byte until the server answers. Returns the answer."""
    client.send(data)
    client.sock.setblocking(False)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            return client.sock.recv(65536)
        client.send(b"x")
        time.sleep(0.005)
    raise AssertionError("the server waits for ever")


@pytest.mark.parametrize("words", [STREAMS[0], STREAMS[-1], NET[0]])
@pytest.mark.parametrize("time_of", ["idle", "head", "body"])
def test_slow_clients_are_bounded(words: tuple[Any, ...], time_of: str) -> None:
    """However steadily their bytes come. Only one time is short, so that a slow test is not taken for one."""
    with serving(*words, f"--{time_of}", 0.2) as server:
        before = server.descriptors()
        with Client(server) as client:
            if time_of == "idle":
                assert client.at_end()
            else:
                begun = b"GET /" if time_of == "head" else post(b"x" * 999_999)[:80]
                assert drip(client, begun).startswith(b"HTTP/1.1 408 ")
        server.wait_for_descriptors(before)


@pytest.mark.parametrize("words", [STREAMS[-1], NET[0]])
def test_client_that_reads_nothing_is_dropped(words: tuple[Any, ...]) -> None:
    with serving(*words, "--idle", 0.5) as server:
        before = server.descriptors()
        with Client(server, room=4096) as client, contextlib.suppress(ConnectionError):
            for _ in range(100_000):
                client.send(HELLO * 100)
            pytest.fail("all of it was read")
        server.wait_for_descriptors(before)


@pytest.mark.parametrize(
    "words",
    [
        *STREAMS[:1],
        pytest.param((*STREAMS[1].values[0], "--processes"), id="io_uring-processes"),
        pytest.param((*STREAMS[2].values[0], "--processes"), id="denied-processes"),
        *STREAMS[3:],
        *NET,
    ],
)
def test_sigterm_answers_what_was_begun(words: tuple[Any, ...]) -> None:
    """Also when a service manager sends it to all processes."""
    with serving(*words) as server, contextlib.ExitStack() as closing:
        clients = [closing.enter_context(Client(server)) for _ in range(12)]
        for client in clients:
            assert client.status(HELLO) == 200
        idle, begun = clients[:6], clients[6:]
        for client in begun:
            client.send(post(b"body", b"Expect: 100-continue")[:-4])
            assert client.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it was read
        server.signal_all(signal.SIGTERM)
        for client in idle:
            assert client.at_end()
        for client in begun:
            client.send(b"body")
            response, found = client.answer()
            assert (response.getheader("Connection"), found) == ("close", b"body")
            assert client.at_end()
        for client in clients:
            client.__exit__()
        assert server.wait() == "12 connections, 0 cut off\n"
