"""One TCP connection that carries as much as it can, directly or through a SOCKS 5 proxy.

    -m udpring_tools.bench.stream serve PORT                    serves one connection
    -m udpring_tools.bench.stream out HOST PORT SECONDS SOCKS   sends
    -m udpring_tools.bench.stream in HOST PORT SECONDS SOCKS    receives

``SOCKS`` is the proxy's port on loopback, 0 for none. iperf3 knows no proxies. The client prints the bytes
that arrived and the seconds between the first and the last of them, as the receiver saw them.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

from udpring.errors import UdpringError
from udpring_tools.bench.space import Space
from udpring_tools.bench.traffic import TcpRun

__all__ = ["PORT", "stream"]

PORT = 5202
READY = "serving"
CHUNK = 128 << 10
"""Bytes of a call, as iperf3's."""
PATIENCE = 30.0
"""Seconds by which a run may exceed its duration."""
_ORDER = struct.Struct("!?d")
"""The client's first message: whether it sends, and for how many seconds."""
_RESULT = struct.Struct("!Qd")


def stream(here: Space, there: Space, target: str, seconds: float, *, out: bool, socks: int = 0) -> TcpRun:
    """From ``here`` to ``target`` in ``there``, or back. Raises UdpringError."""
    words = _module()
    server = there.spawn(*words, "serve", str(PORT))
    try:
        assert server.stdout
        if server.stdout.readline().strip() != READY:
            raise UdpringError(f"no stream is served at port {PORT}: is it free in the namespace?")
        direction = "out" if out else "in"
        printed = here.command(
            *words, direction, target, str(PORT), str(seconds), str(socks), timeout=seconds + PATIENCE
        )
    finally:
        server.kill()
        server.communicate()
    arrived, took = printed.split()
    return TcpRun(int(arrived) * 8 / float(took) / 1e9, float(took), None)


def _module() -> list[str]:
    from udpring_tools.bench.interpreter import module_argv  # noqa: PLC0415

    return module_argv("udpring_tools.bench.stream")


# ---- the two ends ----


def _send(connection: socket.socket, seconds: float) -> None:
    data = bytes(CHUNK)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def _receive(connection: socket.socket) -> tuple[int, float]:
    into = bytearray(CHUNK)
    arrived = connection.recv_into(into)
    began = time.monotonic()
    while count := connection.recv_into(into):
        arrived += count
    return arrived, time.monotonic() - began


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise ConnectionError("the other end closed the connection")
        data += more
    return data


def _serve(port: int) -> None:
    with socket.create_server(("0.0.0.0", port)) as listening:
        print(READY, flush=True)
        connection, _ = listening.accept()
    with connection:
        client_sends, seconds = _ORDER.unpack(_exactly(connection, _ORDER.size))
        if client_sends:
            connection.sendall(_RESULT.pack(*_receive(connection)))
        else:
            _send(connection, seconds)
        connection.recv(1)  # until the client has closed


def _connect(host: str, port: int, socks: int) -> socket.socket:
    if not socks:
        return socket.create_connection((host, port), timeout=PATIENCE)
    connection = socket.create_connection(("127.0.0.1", socks), timeout=PATIENCE)
    # RFC 1928: no authentication, then CONNECT to an IPv4 address.
    connection.sendall(b"\5\1\0" + b"\5\1\0\1" + socket.inet_aton(host) + port.to_bytes(2, "big"))
    answer = _exactly(connection, 2 + 10)
    if answer[3]:
        raise ConnectionError(f"the proxy answered {answer[3]}")
    return connection


def _run(out: bool, host: str, port: int, seconds: float, socks: int) -> None:
    with _connect(host, port, socks) as connection:
        connection.settimeout(None)
        connection.sendall(_ORDER.pack(out, seconds))
        if out:
            _send(connection, seconds)
            result = _RESULT.unpack(_exactly(connection, _RESULT.size))
        else:
            result = _receive(connection)
    print(*result)


if __name__ == "__main__":
    word, *rest = sys.argv[1:]
    if word == "serve":
        _serve(int(rest[0]))
    else:
        _run(word == "out", rest[0], int(rest[1]), float(rest[2]), int(rest[3]))
