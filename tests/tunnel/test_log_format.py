"""Formats of the log: JSON lines, the journal's own protocol, priorities, the automatic choice."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring.errors import ConfigError
from udpring.tunnel import process_log
from udpring.tunnel.journal_log import JournalSink, JsonFormatter, MessageSink
from udpring.tunnel.log_format import LogFormat, log_format
from udpring.tunnel.log_writer import LogHandler


class Lines:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def write(self, level: int, line: str) -> None:
        self.lines.append((level, line))


def fields_of(data: bytes) -> dict[str, str]:
    """A datagram of systemd's native protocol."""
    found = {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        found[name.decode()] = value.decode()
        data = rest
    return found


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.Logger("udpring.node")
    yield made
    for handler in made.handlers:
        handler.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(tmp_path / "journal"))
        daemon.settimeout(30)
        yield daemon


def handler_of(logger: logging.Logger, sink: Lines | JournalSink | MessageSink) -> LogHandler:
    handler = LogHandler(sink)
    handler.setFormatter(JsonFormatter("udpring", "wg0"))
    logger.addHandler(handler)
    return handler


def test_json_is_one_object_a_line(logger: logging.Logger) -> None:
    sink = Lines()
    handler = handler_of(logger, sink)
    try:
        raise ValueError("a reason")
    except ValueError:
        logger.exception("first\nsecond %s", "\u00e9")
    handler.close()
    [(level, line)] = sink.lines
    assert level == logging.ERROR
    assert "\n" not in line
    assert line.isascii()
    said = json.loads(line)
    assert said["message"].startswith("first\nsecond \u00e9\nTraceback")
    assert said["message"].endswith("ValueError: a reason")
    assert (said["level"], said["priority"], said["interface"]) == ("error", 3, "wg0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", said["time"])
    assert (said["pid"], said["logger"], said["file"]) == (os.getpid(), "udpring.node", Path(__file__).name)


def test_notice_of_dropped_lines_is_json_too(logger: logging.Logger) -> None:
    sink = Lines()
    handler = LogHandler(sink, room=0)
    handler.setFormatter(JsonFormatter("udpring", "wg0"))
    logger.addHandler(handler)
    logger.info("no room for it")
    handler._queue._room = 1 << 20
    logger.info("after")
    handler.close()
    assert [json.loads(line)["message"] for _, line in sink.lines] == [
        "1 log lines were dropped because the reader was too slow",
        "after",
    ]


def test_journal_gets_fields(logger: logging.Logger, journal: socket.socket) -> None:
    handler = handler_of(logger, JournalSink(journal.getsockname(), Lines()))
    logger.warning("one line")
    said = fields_of(journal.recv(65536))
    assert said["MESSAGE"] == "one line"
    assert (said["PRIORITY"], said["SYSLOG_IDENTIFIER"]) == ("4", "udpring")
    assert (said["UDPRING_INTERFACE"], said["UDPRING_LOGGER"]) == ("wg0", "udpring.node")
    assert (said["CODE_FILE"], said["CODE_FUNC"]) == (Path(__file__).name, "test_journal_gets_fields")
    assert int(said["CODE_LINE"]) > 1
    logger.critical("first=1\nPRIORITY=7\n")
    said = fields_of(journal.recv(65536))
    assert (said["MESSAGE"], said["PRIORITY"]) == ("first=1\nPRIORITY=7\n", "2")
    handler.close()


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_priorities_are_those_of_syslog(logger: logging.Logger, level: int, priority: int) -> None:
    sink = Lines()
    handler = handler_of(logger, MessageSink(sink, priorities=True))
    logger.log(level, "one\ntwo")
    handler.close()
    assert [line for _, line in sink.lines] == [f"<{priority}>(wg0) one", f"<{priority}>(wg0) two"]


def test_long_message_is_cut_for_the_journal(logger: logging.Logger, journal: socket.socket) -> None:
    size = journal.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    handler = LogHandler(JournalSink(journal.getsockname(), Lines()), room=1 << 30)
    handler.setFormatter(JsonFormatter("udpring", "wg0"))
    logger.addHandler(handler)
    logger.info("x" * 2 * size)
    message = fields_of(journal.recv(1 << 20))["MESSAGE"]
    assert message.endswith(" (cut)")
    assert len(message) > 1000
    handler.close()


def test_journal_that_restarts_and_one_that_is_gone(logger: logging.Logger, tmp_path: Path) -> None:
    path, otherwise = tmp_path / "journal", Lines()
    handler = handler_of(logger, JournalSink(str(path), MessageSink(otherwise, priorities=True)))
    for round_ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
            daemon.bind(str(path))
            daemon.settimeout(30)
            logger.info("round %d", round_)
            assert fields_of(daemon.recv(65536))["MESSAGE"] == f"round {round_}"
        path.unlink()
    logger.info("nobody reads")
    handler.close()
    assert otherwise.lines == [(logging.INFO, "<6>(wg0) nobody reads")]


def test_format_is_chosen_by_the_stream() -> None:
    reading, writing = os.pipe()
    found = os.fstat(writing)
    stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    other = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"}
    assert log_format(None, stream, writing) is LogFormat.JOURNALD
    assert log_format(None, other, writing) is LogFormat.TEXT, "a shell has redirected it"
    assert log_format(None, {}, writing) is LogFormat.TEXT
    assert log_format("text", stream, writing) is LogFormat.TEXT
    assert log_format(None, {**stream, "UDPRING_LOG_FORMAT": "json"}, writing) is LogFormat.JSON
    assert log_format("json", {"UDPRING_LOG_FORMAT": "text"}, writing) is LogFormat.JSON
    with pytest.raises(ConfigError, match="text, json, journald"):
        log_format(None, {"UDPRING_LOG_FORMAT": "xml"}, writing)
    os.close(writing)
    os.close(reading)
    assert log_format(None, stream, writing) is LogFormat.TEXT


PROCESS = """
import logging, sys
from udpring.tunnel import process_log
from udpring.tunnel.log_format import LogFormat
process_log.JOURNAL = sys.argv[2]
process_log.setup_log("wg0", logging.INFO, foreground=True, style=LogFormat(sys.argv[1]))
logging.getLogger("udpring.node").info("up")
sys.exit(process_log.report(5, "the last\\nword", bounded=True))
"""


def _process(style: str, journal: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-P", "-c", PROCESS, style, journal]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_journal_needs_no_syslog(journal: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process in the background."""
    monkeypatch.setattr(process_log, "SYSLOG", "/nonexistent")
    monkeypatch.setattr(process_log, "JOURNAL", journal.getsockname())
    assert process_log._sink(False, LogFormat.TEXT) is None
    assert isinstance(process_log._sink(False, LogFormat.JOURNALD), JournalSink)
    monkeypatch.setattr(process_log, "JOURNAL", "/nonexistent")
    assert process_log._sink(False, LogFormat.JOURNALD) is None


def test_last_line_of_a_process_has_the_format(journal: socket.socket) -> None:
    done = _process("json", "/nonexistent")
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 5
    assert [(line["level"], line["message"]) for line in said] == [
        ("info", "up"),
        ("error", "the last\nword"),
    ]
    done = _process("journald", journal.getsockname())
    assert (done.returncode, done.stderr) == (5, "")
    assert [fields_of(journal.recv(65536))["MESSAGE"] for _ in range(2)] == ["up", "the last\nword"]
    done = _process("journald", "/nonexistent")
    assert done.stderr == "<6>(wg0) up\n<3>(wg0) the last\n<3>(wg0) word\n"
