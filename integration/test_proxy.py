"""``udpring proxy`` of the user nobody, used by curl in the namespace outside."""

from __future__ import annotations

import re
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from lab import Rig, until
from lab.rootless import DEVICES, NAME, Place, rootless_place, spot, web_server


@pytest.fixture(params=sorted(DEVICES))
def place(rig: Rig, readable: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Place]:
    """With the interface of ``tunnel.b`` up and a name server there."""
    with rootless_place(rig, readable, request.param) as made:
        made.tunnel.a.space.ip("link", "set", "lo", "up")
        yield made


@contextmanager
def proxy(place: Place, *options: str, before: tuple[str, ...] = ()) -> Iterator[list[int]]:
    """A running proxy, ended by SIGTERM; the ports that it says it has. ``before``: of its command line."""
    words = [*before, sys.executable, "-P", "-m", "udpring.cli.main", "proxy", str(place.file), *options]
    count = len(options) // 2
    with place.program(*words) as process:
        ports = lambda: re.findall(r" at 127\.0\.0\.1 port (\d+)", place.said())  # noqa: E731
        until(
            lambda: "connections at once:" in place.said() or process.poll() is not None, "the proxy listens"
        )
        assert process.poll() is None, place.said()
        assert len(ports()) == count
        yield [int(port) for port in ports()]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, place.said()


def test_curl_uses_socks_and_forwarded_ports(place: Place) -> None:
    """By name, which the server in the tunnel alone knows, by number in both families, and forwarded."""
    space = place.tunnel.a.space
    with web_server(place) as (port, content):
        options = ("--socks", "0", "--forward", f"0={NAME}:{port}")
        with proxy(place, *options) as (socks_port, forwarded):
            for host in (NAME, spot(place, 4), spot(place, 6)):
                got = space.run(
                    "curl", "-sS", "--max-time", "60", "--socks5-hostname", f"127.0.0.1:{socks_port}",
                    "-o", str(place.directory / "got"), f"http://{host}:{port}/content", timeout=90,
                )  # fmt: skip
                assert got.stderr == ""
                assert (place.directory / "got").read_bytes() == content
            space.run(
                "curl", "-sS", "--max-time", "60", "-o", str(place.directory / "forwarded"),
                f"http://127.0.0.1:{forwarded}/content", timeout=90,
            )  # fmt: skip
            assert (place.directory / "forwarded").read_bytes() == content
            refused = space.run(
                "curl", "-sS", "--socks5-hostname", f"127.0.0.1:{socks_port}", f"http://{NAME}:1/",
                check=False, timeout=90,
            )  # fmt: skip
            assert refused.returncode == 97, refused
            assert "(5)" in refused.stderr, "connection refused, RFC 1928"
            with space.socket("127.0.0.1", socket.SOCK_STREAM) as client:
                client.connect(("127.0.0.1", socks_port))
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert client.recv(1) == b"", "no SOCKS: the connection is closed"
    assert NAME in place.names.asked


GREETER = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as listening:
    held = []
    while True:
        held.append(listening.accept()[0])
        held[-1].sendall(b"hello")
"""
LIMITED = ("sh", "-c", 'ulimit -Sn 64 && ulimit -Hn 120 && exec "$@"', "sh")


def test_nohup_keeps_a_hangup_ignored(place: Place) -> None:
    words = [sys.executable, "-P", "-m", "udpring.cli.main", "proxy", str(place.file), "--socks", "0"]
    with place.program("nohup", *words) as process:
        until(
            lambda: " at 127.0.0.1 port " in place.said() or process.poll() is not None, "the proxy listens"
        )
        status = Path(f"/proc/{process.pid}/status").read_text()
        ignored, caught = (
            int(re.findall(rf"{name}:\t(\w+)", status)[0], 16) for name in ("SigIgn", "SigCgt")
        )
        assert ignored & 1 << signal.SIGHUP - 1
        assert caught & 1 << signal.SIGTERM - 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, place.said()


def test_open_files_bound_the_connections(place: Place) -> None:
    """By the hard limit. Further ones wait until there is room."""
    space, inner = place.tunnel.a.space, place.tunnel.b.inner4
    with (
        place.program(sys.executable, "-P", "-c", GREETER, inner, space="b"),
        proxy(place, "--forward", f"0={inner}:7000", before=LIMITED) as (port,),
        ExitStack() as stack,
    ):
        (said,) = re.findall(r"connections at once: (\d+)", place.said())
        assert f"open files allow {said} of 1024 connections" in place.said()
        bound = int(said)
        assert bound == (120 - 47) // 6
        clients = [
            stack.enter_context(space.socket("127.0.0.1", socket.SOCK_STREAM)) for _ in range(bound + 2)
        ]
        for client in clients:
            client.settimeout(60)
            client.connect(("127.0.0.1", port))
        for client in clients[:bound]:
            assert client.recv(5) == b"hello"
        assert select.select(clients[bound:], [], [], 0.5)[0] == []
        for client in clients[:2]:
            # The greeter never closes, so the connection ends by a reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        for client in clients[bound:]:
            assert client.recv(5) == b"hello"
