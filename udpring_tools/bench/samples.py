"""From the samples of several runs to one number: the median, or for ratios the median of the ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["ratio", "rounded", "spread"]

DIGITS = 6
"""Significant digits in the JSON."""

Samples = Sequence[float | None]


def rounded(value: float) -> float:
    """Rounded to the digits of the JSON."""
    return float(f"{value:.{DIGITS}g}")


def spread(samples: Samples) -> dict[str, Any] | None:
    """``{"median", "runs"}``. A run without a sample is null there and does not count. None if there is
    none."""
    have = [value for value in samples if value is not None]
    if not have:
        return None
    return {
        "median": rounded(statistics.median(have)),
        "runs": [None if value is None else rounded(value) for value in samples],
    }


def ratio(these: Samples, those: Samples) -> float | None:
    """The median over the runs of one value divided by the other, if both exist and the divisor is not
    zero."""
    pairs = zip(these, those, strict=True)
    ratios = [this / that for this, that in pairs if this is not None and that]
    return rounded(statistics.median(ratios)) if ratios else None
