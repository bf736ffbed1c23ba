"""A log whose lines never block the caller.

A write to a pipe, a terminal or a syslog socket blocks for ever when the reader stalls. So the event loop
does not write:
1. ``LogHandler`` formats a line in the caller's thread and puts it into a bounded queue.
2. A thread of its own, started with the first line, writes the queue to the sink. Only that thread can block.
3. A line that finds no room is dropped and counted. The count is written as a line of its own as soon as
   there is room, in the place of the dropped lines.
4. At the end of the process ``close`` waits a bounded time for the queue to empty.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

__all__ = [
    "LAST_SECONDS",
    "ROOM",
    "DescriptorSink",
    "LineQueue",
    "LogHandler",
    "Sink",
    "SyslogSink",
    "severity",
    "write_within",
]

ROOM = 256 << 10
"""Bytes of lines that may wait in the queue."""
LAST_SECONDS = 1.0
"""Time for the queue to empty at the end of the process."""
DAEMON_FACILITY = 3 << 3
_SEVERITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def severity(level: int) -> int:
    """The priority of syslog(3) for a level of ``logging``."""
    return next((number for least, number in _SEVERITIES if level >= least), 7)


class Sink(Protocol):
    """Writes lines. ``write`` may block and may raise OSError. One thread calls it."""

    def write(self, level: int, line: str) -> None: ...


class DescriptorSink:
    """A file descriptor: standard error."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, level: int, line: str) -> None:
        """Writes the line with its newline, also to a non-blocking descriptor."""
        rest = memoryview((line + "\n").encode("utf-8", "backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()


class SyslogSink:
    """The datagram socket of a syslog daemon or of journald (RFC 3164, syslog(3))."""

    def __init__(self, path: str, identity: str) -> None:
        self._path = path
        self._identity = identity
        self._socket: socket.socket | None = None

    def write(self, level: int, line: str) -> None:
        """Sends the line. Connects again to a daemon that was restarted."""
        text = f"<{DAEMON_FACILITY | severity(level)}>{self._identity}: {line}"
        data = text.encode("utf-8", "backslashreplace")
        if self._socket is not None:
            try:
                self._socket.send(data)
                return
            except OSError:
                self._socket.close()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.connect(self._path)
        self._socket.send(data)


class LineQueue:
    """Takes lines from any thread without waiting. A thread of its own passes them to the sink. ``notice``
    makes a line of the text about dropped lines."""

    def __init__(self, sink: Sink, room: int = ROOM, notice: Callable[[str], str] = str) -> None:
        self._sink = sink
        self._line_of_notice = notice
        self._room = room
        self.begin()
        _queues.add(self)

    def begin(self) -> None:
        """An empty queue without a thread, as after a fork: the parent writes its lines, and another thread
        may have held the lock."""
        self._changed = threading.Condition()
        self._lines: deque[tuple[int, str]] = deque()
        self._size = 0
        self._dropped = 0
        self._writing = False
        self._thread: threading.Thread | None = None

    def put(self, level: int, line: str) -> None:
        """Queues a line. Never blocks: no thread holds the lock while it writes."""
        with self._changed:
            if self._size + len(line) > self._room:
                self._dropped += 1
                return
            if self._dropped:
                self._append(*self._notice())
            self._append(level, line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="udpring-log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Waits until all lines are written, at most this long. More lines may follow."""
        end = time.monotonic() + seconds
        with self._changed:
            while (self._lines or self._dropped or self._writing) and self._thread is not None:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return

    def _append(self, level: int, line: str) -> None:
        self._lines.append((level, line))
        self._size += len(line)

    def _notice(self) -> tuple[int, str]:
        dropped, self._dropped = self._dropped, 0
        text = f"{dropped} log lines were dropped because the reader was too slow"
        return logging.WARNING, self._line_of_notice(text)

    def _take(self) -> tuple[int, str]:
        """The next line. Waits for one."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            while not self._lines and not self._dropped:
                self._changed.wait()
            self._writing = True
            if not self._lines:
                return self._notice()
            level, line = self._lines.popleft()
            self._size -= len(line)
            return level, line

    def _run(self) -> None:
        while True:
            level, line = self._take()
            with contextlib.suppress(OSError):  # there is no place left to report it
                self._sink.write(level, line)


_queues: weakref.WeakSet[LineQueue] = weakref.WeakSet()


def _forked() -> None:
    for queue in _queues:
        queue.begin()


os.register_at_fork(after_in_child=_forked)


class LogHandler(logging.Handler):
    """A handler whose ``emit`` never blocks."""

    def __init__(self, sink: Sink, room: int = ROOM) -> None:
        super().__init__()
        self._queue = LineQueue(sink, room, self._notice)

    def emit(self, record: logging.LogRecord) -> None:
        """Formats the record here and queues the line."""
        try:
            line = self.format(record)
        except Exception as broken:
            text = f"a log line of {record.name}:{record.lineno} could not be formatted: {broken!r}"
            line = self._line(record.levelno, text)
        self._queue.put(record.levelno, line)

    def _line(self, level: int, text: str) -> str:
        """A line of this text, without the handler's caller."""
        return self.format(logging.LogRecord("udpring.log", level, __file__, 0, text, (), None))

    def _notice(self, text: str) -> str:
        return self._line(logging.WARNING, text)

    def close(self) -> None:
        """Waits a bounded time for the queued lines. The logging module calls it at exit."""
        self._queue.close()
        super().close()


def write_within(seconds: float, work: Callable[[], object]) -> None:
    """Runs a write that may block for ever. Returns without it when the time is up."""
    thread = threading.Thread(target=work, name="udpring-last-line", daemon=True)
    thread.start()
    thread.join(seconds)
