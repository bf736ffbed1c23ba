"""The format of log lines: text, JSON, or the fields of the systemd journal (``journal_log``).

systemd sets JOURNAL_STREAM where it connects standard error to the journal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum

from udpring.errors import ConfigError

__all__ = ["VARIABLE", "LogFormat", "log_format"]

VARIABLE = "UDPRING_LOG_FORMAT"


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
