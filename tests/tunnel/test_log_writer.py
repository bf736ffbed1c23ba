"""A log whose reader stalls: nothing waits for it. Lines without room are dropped and counted in the log."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring.tunnel.log_writer import DescriptorSink, LineQueue, LogHandler, SyslogSink, write_within

NOTICE = re.compile(r"(\d+) log lines were dropped")


class Gate:
    """A sink that stalls until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.stalled = threading.Event()
        self.lines: list[str] = []

    def write(self, level: int, line: str) -> None:
        self.stalled.set()
        assert self.open.wait(60)
        self.lines.append(line)


def until(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come about"
        time.sleep(0.005)


def test_dropped_lines_are_counted_where_they_are_missing() -> None:
    gate = Gate()
    lines = LineQueue(gate, room=100)
    lines.put(logging.INFO, "first")
    assert gate.stalled.wait(30)
    for number in range(30):
        lines.put(logging.INFO, f"line {number:05}")
    gate.open.set()
    lines.close(30)
    assert gate.lines[:11] == ["first", *(f"line {number:05}" for number in range(10))]
    assert [NOTICE.match(line)[1] for line in gate.lines[11:] if NOTICE.match(line)] == ["20"]  # type: ignore[index]
    lines.put(logging.INFO, "again")
    lines.close(30)
    assert gate.lines[-1] == "again"


def test_close_is_bounded_while_the_reader_stalls() -> None:
    gate = Gate()
    lines = LineQueue(gate)
    lines.put(logging.INFO, "one")
    lines.close(0.05)
    assert not gate.lines
    gate.open.set()
    lines.close(30)
    assert gate.lines == ["one"]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


@pytest.mark.parametrize("blocking", [True, False])
def test_pipe_that_nobody_reads_loses_counted_lines_only(pipe: tuple[int, int], blocking: bool) -> None:
    reading, writing = pipe
    os.set_blocking(writing, blocking)
    handler = LogHandler(DescriptorSink(writing), room=50_000)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for number in range(20_000):
        logger.info("line %d", number)
    received = bytearray()

    def read() -> None:
        while data := os.read(reading, 65536):
            received.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    handler._queue.close(30)
    os.close(writing)
    thread.join(30)
    said = received.decode().splitlines()
    dropped = sum(int(found[1]) for line in said if (found := NOTICE.match(line)))
    numbers = [int(line.split()[1]) for line in said if line.startswith("line ")]
    assert dropped
    assert numbers == sorted(numbers)
    assert len(numbers) + dropped == 20_000


def test_reader_that_went_away_is_no_harm(pipe: tuple[int, int]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    handler = LogHandler(DescriptorSink(writing))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for number in range(100):
        logger.info("line %d", number)
    handler._queue.close(30)
    assert not handler._queue._lines
    os.close(writing)


def test_line_that_cannot_be_formatted_is_named() -> None:
    gate = Gate()
    gate.open.set()
    handler = LogHandler(gate)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info("%d", "no number")
    handler._queue.close(30)
    assert "could not be formatted" in gate.lines[0]


def test_syslog_that_stalls_and_one_that_is_restarted(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        daemon.settimeout(30)
        handler = LogHandler(SyslogSink(path, "udpring-wg[7]"), room=1000)
        logger = logging.Logger("test")
        logger.addHandler(handler)
        for number in range(1000):
            logger.error("line %d", number)
        assert daemon.recv(1000) == b"<27>udpring-wg[7]: line 0"
        said = b""
        while b"were dropped" not in said:
            said = daemon.recv(1000)
    Path(path).unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        daemon.settimeout(30)
        logger.info("after")
        while (said := daemon.recv(1000)) != b"<30>udpring-wg[7]: after":
            assert b": line " in said or b"were dropped" in said  # queued before the first drop


def test_write_within_goes_on_without_a_stalled_write() -> None:
    gate = Gate()
    write_within(0.05, lambda: gate.write(0, "late"))
    assert not gate.lines
    gate.open.set()


STALLED = """
import logging, os, sys
from udpring.tunnel import process_log
reading, writing = os.pipe()
os.dup2(writing, 2)
process_log.setup_log("wg0", logging.DEBUG, foreground=True)
log = logging.getLogger("udpring.node")
for number in range(10_000):
    log.info("line %d", number)
logging.getLogger("asyncio").error("x" * 100)
print("logged", flush=True)
sys.exit(process_log.report(5, "the last word", bounded=True))
"""


def test_process_ends_while_its_standard_error_stalls() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", STALLED], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (5, "logged\n")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_process_made_by_fork_logs_too() -> None:
    """It has neither the thread of its parent nor the parent's lines."""
    read_end, write_end = os.pipe()
    lines = LineQueue(DescriptorSink(write_end))
    lines.put(logging.INFO, "parent")
    lines.close(30)
    child = os.fork()
    if child == 0:
        lines.put(logging.INFO, "child")
        lines.close(5)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    with os.fdopen(read_end) as written:
        assert written.read() == "parent\nchild\n"
