"""Shared by the measuring commands: numbers on the command line, progress, and an orderly end."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from udpring.tunnel.decimal_text import parse_decimal

__all__ = ["Between", "add_plot_option", "add_run_options", "ended_by_signals", "progress", "tier"]


class Between:
    """An argparse type: a whole number from low to high."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def __call__(self, text: str) -> int:
        number = parse_decimal(text, self.high, self.low)
        if number is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {self.low} to {self.high}")
        return number


def tier(text: str) -> str:
    """An argparse type: the name of a tier. It queries the core, which ``--help`` does not load."""
    from udpring.udp.tiers import TIERS  # noqa: PLC0415

    if text not in TIERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(TIERS)}")
    return text


def add_run_options(parser: argparse.ArgumentParser, seconds_of: str, runs: int) -> None:
    """``--seconds``, ``--runs`` and ``--json``. ``seconds_of``: one measurement. ``runs``: the default."""
    parser.add_argument(
        "--seconds",
        type=Between(1, 3600),
        default=5,
        metavar="N",
        help=f"seconds per {seconds_of} (default: 5)",
    )
    parser.add_argument(
        "--runs",
        type=Between(1, 1000),
        default=runs,
        metavar="N",
        help=f"number of runs, of which the median is taken (default: {runs})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def add_plot_option(parser: argparse.ArgumentParser) -> None:
    """``--plot``, for ``plot.require_drawable`` before the measurement and ``plot.draw`` after it."""
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="also draw the result (needs udpring[plot])"
    )


def progress(text: str) -> None:
    """Prints a progress line to standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the body like Ctrl-C, so that it removes everything it made. SIGHUP stays
    ignored if it was (nohup(1))."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    former = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, *hang_up)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
