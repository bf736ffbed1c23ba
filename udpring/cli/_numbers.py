"""Numbers of options: counts and durations, with the words that argparse prints for a wrong one."""

from __future__ import annotations

import argparse
import contextlib
import sys

from udpring.tunnel.decimal_text import parse_decimal

__all__ = ["LONGEST", "SHORTEST", "count_of", "seconds_of"]

SHORTEST, LONGEST = 0.01, 3600.0


def seconds_of(text: str) -> float:
    """Seconds from SHORTEST to LONGEST."""
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if SHORTEST <= seconds <= LONGEST:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {SHORTEST:g} to {LONGEST:g}")


def count_of(text: str) -> int:
    """A whole number from 1."""
    count = parse_decimal(text, sys.maxsize, 1)
    if count is not None:
        return count
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
