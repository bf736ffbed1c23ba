"""The examples of the ring layer run unchanged, also where io_uring is denied."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from .example_servers import DENIED, EXAMPLES, INTERPRETERS, serving

SECONDS = 30.0


@pytest.mark.parametrize(("python", "backend"), INTERPRETERS)
@pytest.mark.parametrize("workers", [[], ["--processes"]])
def test_echo_server_on_streams(python: list[str], backend: str, workers: list[str]) -> None:
    payload = os.urandom(200_000)
    with (
        serving(python, backend, "echo_streams.py", *workers) as server,
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as sock,
    ):
        sock.sendall(payload[:1000])
        found = b""
        while len(found) < 1000:
            found += sock.recv(65536)
        assert found == payload[:1000]


@pytest.mark.parametrize(
    ("python", "backend"),
    [pytest.param([sys.executable], "io_uring", id="io_uring"), pytest.param(DENIED, "epoll", id="denied")],
)
def test_echo_server_on_columns(python: list[str], backend: str) -> None:
    payload = os.urandom(3_000_000)
    with (
        serving(python, backend, "echo_net.py") as server,
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as sock,
    ):
        sender = Thread(target=sock.sendall, args=(payload,))
        sender.start()
        found = bytearray()
        while len(found) < len(payload):
            found += sock.recv(65536)
        sender.join(SECONDS)
        assert found == payload


@pytest.mark.parametrize("words", [[], ["--reactor"]])
@pytest.mark.parametrize(("python", "backend"), INTERPRETERS)
def test_reading_of_a_file(tmp_path: Path, python: list[str], backend: str, words: list[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\n" * 50_000)
    words = [*python, str(EXAMPLES / "read_file.py"), *words, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    if backend == "readiness" and "--reactor" not in words:
        assert done.returncode == 1
        assert "io_uring_setup" in done.stderr
        return
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "400000 bytes, first line b'one'\n"


@pytest.mark.parametrize(
    ("python", "backend", "words"),
    [
        ([sys.executable], "io_uring", []),
        ([sys.executable], "io_uring", ["--reactor"]),
        (DENIED, "readiness", ["--reactor"]),
    ],
)
def test_accepting_of_connections(python: list[str], backend: str, words: list[str]) -> None:
    with serving(python, backend, "accept_connections.py", *words) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port), SECONDS) as sock:
                assert sock.recv(10) == b""


@pytest.mark.parametrize(("python", "backend"), INTERPRETERS)
def test_copy_of_a_folder(tmp_path: Path, python: list[str], backend: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    lengths = [0, 1, 4096, 256 * 1024, 3_000_001]
    for number, length in enumerate(lengths * 5):
        path = source / f"folder{number % 3}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(length))
    words = [*python, str(EXAMPLES / "copy_files.py"), str(source), str(target)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == f"{backend}: 25 files, {sum(lengths) * 5} bytes\n"
    for path in source.rglob("*"):
        if path.is_file():
            assert (target / path.relative_to(source)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("python", "backend"), INTERPRETERS)
def test_walk_of_a_tree(tmp_path: Path, python: list[str], backend: str) -> None:
    for number in range(300):
        path = tmp_path / f"folder{number % 7}" / f"inner{number % 3}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(number))
    words = [*python, str(EXAMPLES / "walk_statx.py"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == f"{backend}: 300 files, 28 folders, {sum(range(300))} bytes\n"


def test_copy_names_the_missing_file(tmp_path: Path) -> None:
    words = [sys.executable, str(EXAMPLES / "copy_files.py"), str(tmp_path / "absent"), str(tmp_path / "x")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert "absent" in done.stderr


def test_echo_server_on_a_ring() -> None:
    payload = os.urandom(200_000)
    with (
        serving([sys.executable], "io_uring", "echo_ring.py") as server,
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as sock,
    ):
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
        found = b""
        while data := sock.recv(65536):
            found += data
        assert found == payload


def test_ring_needs_io_uring() -> None:
    words = [*DENIED, str(EXAMPLES / "echo_ring.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "io_uring" in done.stderr
