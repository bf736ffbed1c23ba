"""``udpring proxy`` of the user nobody, used by curl in the namespace outside."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
def proxy(place: Place, *options: str) -> Iterator[list[int]]:
    """A running proxy, ended by SIGTERM; the ports that it says it has."""
    words = [sys.executable, "-P", "-m", "udpring.cli.main", "proxy", str(place.file), *options]
    count = len(options) // 2
    with place.program(*words) as process:
        ports = lambda: re.findall(r" at 127\.0\.0\.1 port (\d+)", place.said())  # noqa: E731
        until(lambda: len(ports()) == count or process.poll() is not None, "the proxy listens")
        assert process.poll() is None, place.said()
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
