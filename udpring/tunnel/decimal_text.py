"""Decimal numbers in text from outside. ``int`` accepts more than ASCII digits: blanks, signs, underscores,
and digits of other scripts."""

from __future__ import annotations

import re

__all__ = ["parse_decimal"]

_DIGITS = r"[0-9]{1,640}"


def parse_decimal(text: str, most: int, least: int = 0) -> int | None:
    """The number, if the text is ASCII digits and from ``least`` to ``most``. None otherwise."""
    if not re.fullmatch(_DIGITS, text):
        return None
    number = int(text)
    return number if least <= number <= most else None
