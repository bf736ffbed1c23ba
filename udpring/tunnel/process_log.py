"""The log of a process that runs a node, and its last line: where they go, and in which form.

The module is apart from ``daemon`` because it needs ``logging``, which a broker process does not load.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from udpring.tunnel.journal_log import JOURNAL, JournalSink, JsonFormatter, MessageSink
from udpring.tunnel.log_format import LogFormat
from udpring.tunnel.log_writer import LAST_SECONDS, DescriptorSink, LogHandler, Sink, SyslogSink, write_within

__all__ = ["close_log", "report", "setup_log"]

SYSLOG = "/dev/log"

log = logging.getLogger("udpring.node")


def report(code: int, line: str, *, bounded: bool = False) -> int:
    """Prints an error as one line and returns the exit code. ``bounded``: a stalled standard error delays the
    end of the process by one second at most."""
    if code and line:
        text = f"udpring: {' '.join(line.split())}"
        if bounded and _structured is not None:
            _structured.handle(logging.LogRecord(log.name, logging.ERROR, __file__, 0, line, (), None))
            _structured.close()
        elif bounded:
            sink = DescriptorSink(sys.stderr.fileno())
            write_within(LAST_SECONDS, lambda: sink.write(logging.ERROR, text))
        else:
            print(text, file=sys.stderr)
    return code


_structured: logging.Handler | None = None
"""Where the last line of a process in the foreground goes, unless the log is text."""


def setup_log(
    interface: str,
    level: int,
    *,
    foreground: bool,
    attached: bool = False,
    style: LogFormat = LogFormat.TEXT,
) -> None:
    """The log: to standard error in the foreground, otherwise to syslog if there is one. JOURNALD goes to
    the journal's socket, or without one to standard error with priorities, or to syslog. Call it after the
    last fork. No line blocks its writer (``log_writer``).

    With ``attached`` warnings go to standard error too, which belongs to the caller until the node is ready.
    """
    global _structured
    handlers: list[logging.Handler] = []
    sink = _sink(foreground, style) if foreground or level <= logging.CRITICAL else None
    if sink is not None:
        head = f"%(levelname)s: ({interface}) %(asctime)s" if foreground else f"({interface}) %(levelname)s"
        handlers.append(_handler(sink, head))
        if style is not LogFormat.TEXT:
            handlers[-1].setFormatter(JsonFormatter("udpring", interface))
            _structured = handlers[-1] if foreground else None
    if attached:
        handlers.append(_handler(DescriptorSink(sys.stderr.fileno()), "udpring: %(levelname)s:"))
        handlers[-1].setLevel(logging.WARNING)
    # Python's own loggers too: their output would go to a standard error that may block.
    logging.captureWarnings(True)
    for name in ("udpring", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.setLevel(level if name == "udpring" else max(level, logging.WARNING))
        logger.propagate = False
        for old in logger.handlers:
            old.close()
        logger.handlers[:] = handlers or [logging.NullHandler()]
    sys.unraisablehook = _log_unraisable


def _sink(foreground: bool, style: LogFormat) -> Sink | None:
    """None: the host has no log. ``style``: of the lines that the sink gets."""
    if foreground:
        plain: Sink = DescriptorSink(sys.stderr.fileno())
    elif os.path.exists(SYSLOG):
        plain = SyslogSink(SYSLOG, f"udpring-wg[{os.getpid()}]")
    elif style is LogFormat.JOURNALD and os.path.exists(JOURNAL):
        plain = DescriptorSink(sys.stderr.fileno())  # what the journal refuses is lost
    else:
        return None
    if style is not LogFormat.JOURNALD:
        return plain
    return JournalSink(JOURNAL, MessageSink(plain, priorities=foreground))


def _handler(sink: Sink, head: str) -> logging.Handler:
    handler = LogHandler(sink)
    handler.setFormatter(logging.Formatter(f"{head} %(message)s"))
    return handler


def _log_unraisable(what: sys.UnraisableHookArgs) -> None:
    if what.exc_value is not None:
        info = (what.exc_type, what.exc_value, what.exc_traceback)
        with contextlib.suppress(MemoryError):  # it may be the reason of this call, too
            log.error("%s", what.err_msg or "an exception was ignored", exc_info=info)


def close_log() -> None:
    """Waits a bounded time for the last lines."""
    for handler in logging.getLogger("udpring").handlers:
        handler.close()
