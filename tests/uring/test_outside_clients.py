"""The servers of examples/ against curl, wrk and ab, and with 10,000 connections each."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .example_servers import DENIED, ExampleServer, serving
from .outside import run
from .reactors import PATIENCE

NAME = "http_server.py"
GREETING = "Hello, World!\n"
CONNECTIONS = 10_000
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close without TIME_WAIT, so that the ports last."""
IO_URING, READINESS = ([sys.executable], "io_uring"), (DENIED, "readiness")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    (made / "long.bin").write_bytes(os.urandom(2_500_000))
    return made


@pytest.fixture(scope="module", params=[IO_URING, READINESS], ids=["io_uring", "denied"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[ExampleServer]:
    """By h11, on both backends."""
    python, backend = request.param
    with serving(python, backend, NAME, "--files", folder, "--workers", 2) as found:
        yield found


def url(server: ExampleServer, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def test_curl_uses_one_connection_for_many_urls(server: ExampleServer) -> None:
    said = run("curl", "-sS", "-w", "%{http_code} %{http_version} %{num_connects}\\n", *[url(server)] * 100)
    lines = said.splitlines()
    assert lines[0::2] == [GREETING.strip()] * 100
    assert lines[1::2] == ["200 1.1 1"] + ["200 1.1 0"] * 99
    said = run("curl", "-sS", "--http1.0", "-w", "%{http_code}", url(server))
    assert said == f"{GREETING}200"


@pytest.mark.parametrize("how", [("--data-binary",), ("-H", "Expect: 100-continue", "--data-binary")])
def test_curl_posts_a_body(server: ExampleServer, folder: Path, how: tuple[str, ...], tmp_path: Path) -> None:
    body, back = tmp_path / "body", tmp_path / "back"
    body.write_bytes((folder / "long.bin").read_bytes()[:1_000_000])
    run("curl", "-sS", "-f", "-o", back, "-X", "POST", *how, f"@{body}", url(server, "/echo"))
    assert back.read_bytes() == body.read_bytes()


def test_curl_posts_a_chunked_body(server: ExampleServer, folder: Path, tmp_path: Path) -> None:
    body, back = tmp_path / "body", tmp_path / "back"
    body.write_bytes((folder / "long.bin").read_bytes()[:1_000_000])
    chunked = ("-H", "Transfer-Encoding: chunked", "-X", "POST", "-T", body)
    said = run("curl", "-sS", "-v", "--stderr", "-", "-f", "-o", back, *chunked, url(server, "/echo"))
    assert "Transfer-Encoding: chunked" in said
    assert "100 Continue" in said
    assert back.read_bytes() == body.read_bytes()


def test_curl_reads_heads_and_files(server: ExampleServer, folder: Path, tmp_path: Path) -> None:
    assert "Content-Length: 2500000" in run("curl", "-sS", "-I", url(server, "/files/long.bin"))
    back = tmp_path / "back"
    run("curl", "-sS", "-f", "-o", back, url(server, "/files/long.bin"))
    assert back.read_bytes() == (folder / "long.bin").read_bytes()


def test_curl_sees_the_refusal_of_a_long_body(server: ExampleServer, folder: Path) -> None:
    """While it still sends the body."""
    code = ("-o", "/dev/null", "-w", "%{http_code}")
    without = ("-H", "Expect:", "--data-binary", f"@{folder / 'long.bin'}")
    assert run("curl", "-sS", *code, *without, url(server, "/echo")) == "413"


PIPELINE = """
init = function(args)
   local requests = {}
   for number = 1, 16 do requests[number] = wrk.format("GET", "/") end
   all = table.concat(requests)
end
request = function() return all end
"""


def wrk(server: ExampleServer, *options: object) -> int:
    """Runs wrk for a second. Returns the number of answers, which must all be good."""
    said = run("wrk", "-t2", "-c64", "-d1", "--timeout", "30s", *options, url(server))
    assert "Non-2xx" not in said
    assert "Socket errors" not in said
    found = re.search(r"(\d+) requests in", said)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    ("interpreter", "name", "parser", "pipelined"),
    [
        pytest.param(IO_URING, NAME, "h11", False, id="io_uring-h11"),
        pytest.param(IO_URING, NAME, "httptools", True, id="io_uring-httptools-pipelined"),
        pytest.param(READINESS, NAME, "h11", True, id="denied-h11-pipelined"),
        pytest.param(READINESS, NAME, "httptools", False, id="denied-httptools"),
        pytest.param(IO_URING, "http_net.py", "httptools", False, id="net-httptools"),
        pytest.param((DENIED, "epoll"), "http_net.py", "h11", True, id="net-denied-h11-pipelined"),
    ],
)
def test_wrk_finds_no_error(
    interpreter: tuple[list[str], str], name: str, parser: str, pipelined: bool, tmp_path: Path
) -> None:
    script = tmp_path / "pipeline.lua"
    script.write_text(PIPELINE)
    with serving(*interpreter, name, "--parser", parser) as server:
        before = server.descriptors()
        assert wrk(server, *(["-s", script] if pipelined else [])) > 64
        server.wait_for_descriptors(before)
        said = re.match(r"(\d+) connections, 0 cut off\n", server.stop(signal.SIGTERM))
        assert said is not None
        assert int(said[1]) >= 64


@pytest.mark.parametrize("keep_alive", [[], ["-k"]], ids=["closing", "keep-alive"])
@pytest.mark.parametrize("interpreter", [IO_URING, READINESS], ids=["io_uring", "denied"])
def test_ab_finds_no_failure(interpreter: tuple[list[str], str], keep_alive: list[str]) -> None:
    """It speaks HTTP/1.0. Without keep-alive each request has its own connection."""
    count = 5_000 if keep_alive else CONNECTIONS
    with serving(*interpreter, NAME, "--parser", "httptools", "--workers", 2) as server:
        before = server.descriptors()
        said = run("ab", "-q", "-n", count, "-c", 50, *keep_alive, url(server))
        assert re.search(rf"Complete requests: +{count}\n", said)
        assert re.search(r"Failed requests: +0\n", said)
        assert "Non-2xx" not in said
        if keep_alive:
            assert re.search(rf"Keep-Alive requests: +{count}\n", said)
        server.wait_for_descriptors(before)
        found = re.match(r"(\d+) connections, 0 cut off\n", server.stop(signal.SIGTERM))
        assert found is not None
        # It may open a few connections that it does not need.
        assert int(found[1]) >= (50 if keep_alive else count)


@pytest.mark.parametrize(
    ("interpreter", "name"),
    [
        pytest.param(IO_URING, "echo_ring.py", id="ring"),
        pytest.param(IO_URING, "echo_net.py", id="net"),
        pytest.param((DENIED, "epoll"), "echo_net.py", id="net-denied"),
        pytest.param(IO_URING, "echo_streams.py", id="streams"),
        pytest.param(READINESS, "echo_streams.py", id="streams-denied"),
    ],
)
def test_ten_thousand_connections_leave_no_descriptor(interpreter: tuple[list[str], str], name: str) -> None:
    """250 at a time, which all stand before the first one ends."""
    with serving(*interpreter, name) as server:
        before = server.descriptors()
        for _ in range(CONNECTIONS // 250):
            with contextlib.ExitStack() as closing:
                clients = []
                for _ in range(250):
                    sock = closing.enter_context(
                        socket.create_connection(("127.0.0.1", server.port), PATIENCE)
                    )
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    sock.sendall(b"hello")
                    clients.append(sock)
                assert [sock.recv(100) for sock in clients] == [b"hello"] * 250
        server.wait_for_descriptors(before)
        number = signal.SIGINT if name == "echo_net.py" else signal.SIGTERM
        assert server.stop(number).startswith(f"{CONNECTIONS} connections")
