"""A node in the foreground reports its state to its service manager (sd_notify(3))."""

from __future__ import annotations

import queue
import signal
import socket
import threading
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Rig

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go tells no service manager")


def _listen(manager: socket.socket, heard: queue.SimpleQueue[bytes]) -> None:
    """Reads until the node reports its stop, or nothing more comes."""
    manager.settimeout(60)
    said = b""
    while said != b"STOPPING=1":
        said = manager.recv(1000)
        heard.put(said)


def test_ready_alive_and_stopping(rig: Rig, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        # Read continuously, as a manager does: the socket holds ten messages, and more are lost.
        heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(manager, heard)).start()
        program = SUBJECT.with_env(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000")
        node = rig.node(rig.topology()["a"], program, inner=["10.100.0.1/24"])
        node.start()
        assert heard.get(timeout=30) == b"READY=1"
        assert node.answers()
        for _ in range(3):
            assert heard.get(timeout=30) == b"WATCHDOG=1"
        assert node.process
        node.process.send_signal(signal.SIGTERM)
        said = b"WATCHDOG=1"
        while said == b"WATCHDOG=1":
            said = heard.get(timeout=30)
        assert said == b"STOPPING=1"
        assert node.process.wait(30) == 0
