"""The commands: one module each, found by ``main``.

A module has the name of its command. ``register(subparsers)`` adds the parser. ``run(args) -> int`` does the
work and returns the exit code: 0 done, 1 failed, 2 bad usage or configuration, 3 the host cannot. It raises
ConfigError (2), HostError (3) or another UdpringError (1), which ``main`` prints. Slow imports are inside
``run``, because ``--help`` imports every module.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO, TypeAlias

if TYPE_CHECKING:
    import argparse

__all__ = ["Subparsers", "open_standard_streams"]

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The argument of ``register``, which calls its ``add_parser``."""


def open_standard_streams() -> None:
    """Replaces standard streams that the caller closed, so that no later file or socket gets their numbers.

    Reading and writing still fail (EBADF), as on a closed stream. Only standard error goes to /dev/null.

    Standard output and error get a buffer if PYTHONUNBUFFERED took it away. Without one Python drops the rest
    of a short write, which a signal or the work of a ring can cause on a pipe.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_WRONLY), "r")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stdout = _buffered(sys.stdout, line_buffering=sys.stdout.isatty())
    sys.stderr = _buffered(sys.stderr, line_buffering=True)


def _buffered(stream: TextIO, *, line_buffering: bool) -> TextIO:
    if not isinstance(getattr(stream, "buffer", None), io.RawIOBase):
        return stream
    raw = os.fdopen(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=line_buffering)
