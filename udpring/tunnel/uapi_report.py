"""Reports of a node over its UAPI socket: the answers to ``stats=1`` and ``reload=1``.

``wg`` never sends these requests, so it sees no difference. Other programs close the connection.

An answer has a line ``NAME=VALUE`` for each value, then ``errno=N`` and a blank line. A value is JSON in
ASCII. The name of a nested value has the names of its tables before it, joined by dots. A request that
failed is answered with the names of ``failure``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from udpring.errors import ConfigError, HostError
from udpring.tunnel.uapi_lines import MAX_LINE, Lines, UapiProtocolError
from udpring.tunnel.uapi_values import BadValueError, parse_number

__all__ = ["Report", "ReportParser", "failure", "format_report"]

Scalar: TypeAlias = str | int | float | bool | None
Report: TypeAlias = Mapping[str, "Scalar | Report"]

MAX_LINES = 4096
"""Lines of a report. A node has some 150 counters."""


def format_report(report: Report, table: str = "") -> Iterator[bytes]:
    """The lines of an answer, each with its newline, without the status. A long text is cut."""
    for name, value in report.items():
        if isinstance(value, Mapping):
            yield from format_report(value, f"{table}{name}.")
            continue
        line = _line(table + name, value)
        while len(line) > MAX_LINE and isinstance(value, str):
            value = value[: len(value) // 2]
            line = _line(table + name, value)
        yield line


def _line(name: str, value: Scalar) -> bytes:
    return f"{name}={json.dumps(value)}\n".encode("ascii")


def failure(wrong: Exception) -> dict[str, Scalar]:
    """The report of a request that failed. ``misused``: a configuration is wrong.
    ``refused``: by the host."""
    return {
        "message": str(wrong),
        "misused": isinstance(wrong, ConfigError),
        "refused": isinstance(wrong, HostError),
    }


class ReportParser:
    """The answer to one request. ``feed`` until ``done``. Then ``errno`` and ``report`` hold it.

    Raises UapiProtocolError if it cannot be an answer.
    """

    def __init__(self) -> None:
        self._lines = Lines()
        self._count = 0
        self.report: dict[str, object] = {}
        self.done = False
        self.errno: int | None = None
        """Positive. 0 for success. None until it was read."""

    def feed(self, data: bytes) -> bool:
        """Returns ``done``. Bytes after the blank line are an error."""
        self._lines.feed(data)
        for line in self._lines:
            self._count += 1
            if self.done or line is None or self._count > MAX_LINES:
                raise UapiProtocolError("the report is too long")
            if line == b"":
                if self.errno is None:
                    raise UapiProtocolError("the report ends without errno")
                self.done = True
                continue
            self._take(line.decode("ascii", "replace"))
        return self.done

    def _take(self, line: str) -> None:
        name, equals, text = line.partition("=")
        if not equals:
            raise UapiProtocolError("a line of the report is not NAME=VALUE")
        try:
            if name == "errno":
                self.errno = parse_number(text, 0x7FFFFFFF)
                return
            value = json.loads(text)
        except (BadValueError, ValueError, RecursionError):
            raise UapiProtocolError(f"the report's {name[:32]} has no value") from None
        *tables, last = name.split(".")
        within = self.report
        for table in tables:
            inner = within.setdefault(table, {})
            if not isinstance(inner, dict):
                raise UapiProtocolError(f"the report's {name[:32]} is within a value")
            within = inner
        within[last] = value
