"""The terminal of ``udpring monitor``: one screen that is drawn again, and single keys.

The screen is the terminal's alternate one, so the shell's lines are there again at the end, also after an
error, SIGTERM and Ctrl-Z. Sequences: ECMA-48 and xterm's private modes (ctlseqs).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, TextIO

__all__ = ["Terminal", "wants_colours"]

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, no cursor, no wrapping."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
"""Of an update that is shown at once. Terminals that do not know it ignore it."""
_KEYS = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"\x1b[5~": "page up",
    b"\x1b[6~": "page down", b"\x1b[H": "home", b"\x1bOH": "home", b"\x1b[1~": "home", b"\x1b[F": "end",
    b"\x1bOF": "end", b"\x1b[4~": "end",
}  # fmt: skip
_PLAIN = {"k": "up", "j": "down", " ": "page down", "b": "page up", "g": "home", "G": "end"}
"""As in less(1)."""
_SEQUENCE_SECONDS = 0.05
"""Between the bytes of one key."""


def wants_colours(environment: Mapping[str, str]) -> bool:
    """Not where NO_COLOR is set (no-color.org), nor on a terminal without them."""
    return not environment.get("NO_COLOR") and environment.get("TERM", "dumb") not in ("dumb", "vt100")


class Terminal:
    """``with Terminal() as terminal``: draws on standard output, reads keys from standard input."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._input = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._before: list[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._wakeup = (-1, -1)
        self._wakeup_before = -1

    def __enter__(self) -> Terminal:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = read, write
        self._wakeup_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number, handler in (
            (signal.SIGTERM, _interrupt),
            (signal.SIGHUP, _interrupt),
            (signal.SIGTSTP, self._suspend),
            (signal.SIGWINCH, _ignore),
        ):
            self._handlers[number] = signal.signal(number, handler)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        for descriptor in self._wakeup:
            os.close(descriptor)

    def _take(self) -> None:
        if self._input >= 0:
            self._before = termios.tcgetattr(self._input)
            tty.setcbreak(self._input)
        self._write(_ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._write(_LEAVE)
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal, and this process takes it again when it goes on."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        columns, lines = shutil.get_terminal_size()
        return max(columns, 1), max(lines, 1)

    def draw(self, lines: Sequence[str]) -> None:
        """Replaces the contents of the screen.

        Each line is erased before it is written: after a line as wide as the screen the cursor stands on its
        last cell, which would be erased.
        """
        text = "\r\n".join(f"\x1b[K{line}" for line in lines[:-1])
        last = f"\r\n\x1b[J{lines[-1]}" if text else f"\x1b[J{lines[-1]}"
        self._write(f"{_BEGIN}\x1b[H{text}{last}{_END}")

    def key(self, until: float) -> str:
        """The next key by its name or character. ``resize``: the size may have changed. Empty: the time has
        come, of time.monotonic()."""
        watched = [self._wakeup[0], *([self._input] if self._input >= 0 else [])]
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select(watched, [], [], left)
            if self._wakeup[0] in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup[0], 4096)
                return "resize"
            if ready:
                return self._read_key()
        return ""

    def _read_key(self) -> str:
        read = os.read(self._input, 1)
        if not read:
            raise KeyboardInterrupt  # the terminal is gone
        while read[:1] == b"\x1b" and read not in _KEYS and len(read) < 8:
            if not select.select([self._input], [], [], _SEQUENCE_SECONDS)[0]:
                break
            read += os.read(self._input, 1)
        character = read.decode("ascii", "replace")
        return _KEYS.get(read) or _PLAIN.get(character, character)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor tells of the signal."""
