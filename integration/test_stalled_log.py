"""A stalled reader of the log delays neither handshakes nor `wg`, and learns how many lines it missed."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Rig, until
from lab.processes import parent

pytestmark = pytest.mark.skipif(
    SUBJECT.name == GO.name, reason="wireguard-go waits for the reader of its log"
)

LINES = 6_000
"""More than a pipe, a terminal or a syslog socket holds, plus the lines that may wait."""
NOTICE = re.compile(rb"(\d+) log lines were dropped")
UDPRING = str(Path(sys.executable).with_name("udpring"))


def _make_it_talk(node: Node) -> None:
    """Each bad request logs one line."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(node.uapi))
        answers = 0
        for _ in range(LINES // 100):
            sock.sendall(b"set=1\nbogus=1\n\n" * 100)
            answered = b""
            while answered.count(b"\n\n") < 100:
                answered += sock.recv(65536)
            answers += answered.count(b"errno=-22\n\n")
        assert answers == LINES


def _read_until_notice(descriptor: int) -> None:
    """Reads the log until it says how many lines were dropped."""
    said = b""
    while not NOTICE.search(said):
        said = said[-100:] + os.read(descriptor, 65536)


def _pipe() -> tuple[int, int]:
    return os.pipe()


@pytest.mark.parametrize("make", [_pipe, pty.openpty], ids=["pipe", "terminal"])
def test_stalled_standard_error_holds_up_nothing(rig: Rig, make: Callable[[], tuple[int, int]]) -> None:
    tunnel = rig.tunnel((SUBJECT, GO), start=False)
    a, b = tunnel.a, tunnel.b
    reading, writing = make()
    try:
        # Node.spawn opens its log by path.
        a.log, log = Path(f"/proc/self/fd/{writing}"), a.log
        a.spawn()
        a.log = log
        _make_it_talk(a)
        a.configure()
        a.bring_up()
        b.start()
        tunnel.ping()
        assert a.public_key in b.wg("show", b.interface)
        _read_until_notice(reading)
        _make_it_talk(a)
        a.stop()  # in time, although its last lines are not read
        assert a.process
        assert a.process.returncode == 0
    finally:
        os.close(writing)
        os.close(reading)


def test_up_ends_in_time_with_a_stalled_standard_error(rig: Rig) -> None:
    node = rig.node(rig.topology()["a"], SUBJECT, inner=["10.100.0.1/24"])
    file = rig.directory / f"{node.interface}.conf"
    file.write_text(f"[Interface]\nPrivateKey = {node.private_key}\nAddress = {node.inner[0]}\n")
    file.chmod(0o600)
    reading, writing = os.pipe()
    try:
        node.process = subprocess.Popen(
            node.space.argv(UDPRING, "up", "-f", "-v", str(file)), stdin=subprocess.DEVNULL, stderr=writing
        )
        until(node.answers, "the node is up")
        _make_it_talk(node)
        assert "listening port" in node.wg("show", node.interface)
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(30) == 0
    finally:
        os.close(writing)
        os.close(reading)


BACKGROUND = """
import sys
from udpring.tunnel import process_log
process_log.SYSLOG = sys.argv.pop(1)
from udpring.cli.wg import main
sys.exit(main())
"""


def test_stalled_syslog_holds_up_nothing(rig: Rig, tmp_path: Path) -> None:
    node = rig.node(rig.topology()["a"], SUBJECT, inner=["10.100.0.1/24"])
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        syslog.settimeout(60)
        before = set(node.space.leaders())
        words = (
            "env",
            "LOG_LEVEL=verbose",
            sys.executable,
            "-P",
            "-c",
            BACKGROUND,
            str(path),
            node.interface,
        )
        node.space.run(*words, timeout=60)
        fresh = set(node.space.leaders()) - before
        (pid,) = (each for each in fresh if parent(each) not in fresh)  # the node, not its broker process
        _make_it_talk(node)
        assert "listening port" in node.wg("show", node.interface)
        said = b""
        while not NOTICE.search(said):
            said = syslog.recv(65536)
        _make_it_talk(node)
        os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}").exists(), "the process ends")
