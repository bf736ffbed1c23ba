"""A server that pauses and shuts down while wrk uses it."""

from __future__ import annotations

import subprocess
import time

import pytest

from udpring.uring import Connection
from udpring.uring.server import Server

from .outside import require, run
from .reactors import EACH_BACKEND, PATIENCE, SANITIZED

pytestmark = pytest.mark.skipif(SANITIZED, reason="other tests show the core's faults, and faster")


async def answer_any(connection: Connection) -> None:
    """HTTP for clients that send one small request at a time."""
    connection.on_drain = connection.close_soon
    while await connection.recv():
        await connection.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
@pytest.mark.parametrize("backend", EACH_BACKEND)
def test_pause_under_load_breaks_no_connection(backend: str, processes: bool) -> None:
    require("wrk")
    with Server(answer_any, workers=2, processes=processes, receive_armed=True) as server:
        assert server.backend == backend
        address = f"http://127.0.0.1:{server.port}/"
        words = ["wrk", "-t1", "-c32", "-d1", "--timeout", "30s", address]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as client:
            while client.poll() is None and server.metrics.active < 32:
                time.sleep(0.01)
            for _ in range(5):
                server.pause_accept()
                refused = subprocess.run(["curl", "-sS", address], capture_output=True, check=False)
                assert refused.returncode == 7
                server.resume_accept()
                assert run("curl", "-sS", address) == "ok"
            assert server.metrics.active >= 32 or client.poll() is not None
            said, _ = client.communicate(timeout=PATIENCE)
        assert "Socket errors" not in said
        assert "requests in" in said
        assert server.shutdown(PATIENCE) == 0
        assert (server.metrics.active, server.metrics.failed) == (0, 0)
