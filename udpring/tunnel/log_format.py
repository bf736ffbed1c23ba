"""Formats of log lines: text, JSON, and the fields of the systemd journal.

systemd sets JOURNAL_STREAM where it connects standard error to the journal. A process in the foreground then
sends its lines to the journal's own socket, with a priority and fields (systemd's JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from enum import StrEnum

from udpring.errors import ConfigError
from udpring.tunnel.log_writer import Sink, severity

__all__ = ["JOURNAL", "VARIABLE", "JournalSink", "JsonFormatter", "LogFormat", "MessageSink", "log_format"]

JOURNAL = "/run/systemd/journal/socket"
VARIABLE = "UDPRING_LOG_FORMAT"
LONGEST = 16 << 10
"""Bytes of a message that the journal's socket refused as too long."""
_FIELDS = {
    "message": "MESSAGE",
    "priority": "PRIORITY",
    "program": "SYSLOG_IDENTIFIER",
    "pid": "SYSLOG_PID",
    "interface": "UDPRING_INTERFACE",
    "logger": "UDPRING_LOGGER",
    "file": "CODE_FILE",
    "line": "CODE_LINE",
    "function": "CODE_FUNC",
}
"""Of JsonFormatter, and their names in the journal. It has a time of its own."""


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"
    """One object a line."""
    JOURNALD = "journald"
    """Fields for the journal."""


def log_format(asked: str | None, environment: Mapping[str, str], descriptor: int = 2) -> LogFormat:
    """The format of a process whose standard error is ``descriptor``: ``asked``, or UDPRING_LOG_FORMAT, or
    JOURNALD where the journal reads it, else TEXT. Raises ConfigError for an unknown format."""
    wanted = asked or environment.get(VARIABLE)
    if wanted:
        try:
            return LogFormat(wanted)
        except ValueError:
            raise ConfigError(
                f"{VARIABLE} is not a format of log lines",
                file="<environment>",
                text=wanted,
                cure=f"use {', '.join(LogFormat)}",
            ) from None
    return LogFormat.JOURNALD if _journal_reads(environment, descriptor) else LogFormat.TEXT


def _journal_reads(environment: Mapping[str, str], descriptor: int) -> bool:
    """JOURNAL_STREAM is DEVICE:INODE of the stream. A shell may have redirected it since."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JsonFormatter(logging.Formatter):
    """One JSON object for each record, in ASCII and in one line. ``time`` is UTC (RFC 3339)."""

    def __init__(self, program: str, interface: str) -> None:
        super().__init__()
        self._program = program
        self._interface = interface

    def format(self, record: logging.LogRecord) -> str:
        """The object as a line."""
        seconds, micros = divmod(int(record.created * 1_000_000), 1_000_000)
        return json.dumps(
            {
                "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{micros:06}Z",
                "level": record.levelname.lower(),
                "priority": severity(record.levelno),
                "message": super().format(record),
                "program": self._program,
                "pid": os.getpid(),
                "interface": self._interface,
                "logger": record.name,
                "file": record.filename,
                "line": record.lineno,
                "function": record.funcName or "",
            }
        )


class MessageSink:
    """Writes lines of ``JsonFormatter`` as text. ``priorities``: with the priority before each line of it,
    ``<4>(wg0) ...``, as sd-daemon(3) describes."""

    def __init__(self, sink: Sink, *, priorities: bool) -> None:
        self._sink = sink
        self._priorities = priorities

    def write(self, level: int, line: str) -> None:
        """Writes the message."""
        fields = json.loads(line)
        head = f"<{fields['priority']}>" * self._priorities + f"({fields['interface']})"
        for part in str(fields["message"]).splitlines() or [""]:
            self._sink.write(level, f"{head} {part}")


class JournalSink:
    """The journal's datagram socket, for lines of ``JsonFormatter``. ``otherwise`` gets the lines that it
    does not take."""

    def __init__(self, path: str, otherwise: Sink) -> None:
        self._path = path
        self._otherwise = otherwise
        self._socket: socket.socket | None = None

    def write(self, level: int, line: str) -> None:
        """Sends the line. Connects again to a journal that was restarted."""
        fields = json.loads(line)
        try:
            self._send(fields)
        except OSError:
            self._otherwise.write(level, line)

    def _send(self, fields: dict[str, object]) -> None:
        if self._socket is not None:
            try:
                self._send_short(self._socket, fields)
                return
            except OSError:
                self._socket.close()
                self._socket = None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            connection.connect(self._path)
            self._send_short(connection, fields)
        except OSError:
            connection.close()
            raise
        self._socket = connection

    @staticmethod
    def _send_short(connection: socket.socket, fields: dict[str, object]) -> None:
        data = _datagram(fields)
        try:
            connection.send(data)
        except OSError:
            if len(data) <= LONGEST:
                raise
            connection.send(
                _datagram({**fields, "message": str(fields["message"])[: LONGEST // 4] + " (cut)"})
            )


def _datagram(fields: Mapping[str, object]) -> bytes:
    """A value with a newline has its length before it, in 64 bits, little-endian."""
    parts = []
    for name, field in _FIELDS.items():
        value = str(fields.get(name, "")).encode("utf-8", "backslashreplace")
        if b"\n" in value:
            parts.append(field.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n")
        elif value:
            parts.append(field.encode() + b"=" + value + b"\n")
    return b"".join(parts)
