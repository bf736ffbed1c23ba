"""Decimal numbers in text that others wrote. ``int`` takes more than digits: blanks, signs, underscores, and
the digits of every script."""

from __future__ import annotations

import re

__all__ = ["parse_decimal"]

_DIGITS = re.compile(r"[0-9]{1,640}", re.ASCII)


def parse_decimal(text: str, most: int, least: int = 0) -> int | None:
    """The number of ASCII digits, if it is from ``least`` to ``most``; None: it is no such number."""
    if not _DIGITS.fullmatch(text):
        return None
    number = int(text)
    return number if least <= number <= most else None
