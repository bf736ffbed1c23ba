"""A device behind a UAPI socket, for commands that query one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from reference.uapi_answers import format_get

from udpring.tunnel import uapi

KEY = bytes([0x58] * 32)
PEER = bytes(range(32))
OTHER = bytes(range(1, 33))
STATE = uapi.DeviceInfo(
    KEY,
    51820,
    0xCA6C,
    [
        uapi.PeerInfo(OTHER),
        uapi.PeerInfo(
            PEER, KEY, (bytes([1, 2, 3, 4]), 5, ""), 1_700_000_000_000_000_000, 2048, 3, 25, [(bytes(4), 0)]
        ),
    ],
)


class Server(threading.Thread):
    """A device that answers get with STATE and refuses set. It serves one connection after the other."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.operations: list[uapi.Operation] = []
        self.answer: bytes | None = None

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        parser = uapi.RequestParser()
        while data := connection.recv(4096):
            for operation in parser.feed(data):
                self.operations.append(operation)
                if self.answer is not None:
                    connection.sendall(self.answer)
                    return
                if isinstance(operation, uapi.GetRequest):
                    connection.sendall(b"".join(format_get(STATE)))
                elif isinstance(operation, uapi.ReportRequest):
                    return  # wireguard-go ends the connection at a request that it does not know
                elif isinstance(operation, uapi.SetListenPort) and operation.port == 80:
                    parser.fail(98)
                elif isinstance(operation, uapi.EndRequest):
                    connection.sendall(uapi.format_status(operation))

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join(10)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(uapi, "SOCKET_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("WG_HIDE_KEYS", raising=False)
    running = Server(tmp_path / "wg0.sock")
    running.start()
    yield running
    running.stop()
    assert not running.is_alive()
