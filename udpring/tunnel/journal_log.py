"""Log lines as JSON objects, and the fields of the systemd journal made of them.

A process in the foreground sends its lines to the journal's own socket, with a priority and fields (systemd's
JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping

from udpring.tunnel.log_writer import Sink, severity

__all__ = ["JOURNAL", "JournalSink", "JsonFormatter", "MessageSink"]

JOURNAL = "/run/systemd/journal/socket"
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
