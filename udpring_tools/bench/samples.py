"""From the samples of several runs to one number: the median, and of ratios the median of the runs' own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["ratio", "rounded", "spread"]

DIGITS = 6
"""Significant ones in the JSON."""

Samples = Sequence[float | None]


def rounded(value: float) -> float:
    """To the digits that the JSON shows."""
    return float(f"{value:.{DIGITS}g}")


def spread(samples: Samples) -> dict[str, Any] | None:
    """``{"median", "runs"}``; a run without a sample is null in it and does not count. None without any."""
    have = [value for value in samples if value is not None]
    if not have:
        return None
    return {
        "median": rounded(statistics.median(have)),
        "runs": [None if value is None else rounded(value) for value in samples],
    }


def ratio(these: Samples, those: Samples) -> float | None:
    """The median over the runs of this divided by that, where both are and that is not nought."""
    pairs = zip(these, those, strict=True)
    ratios = [this / that for this, that in pairs if this is not None and that]
    return rounded(statistics.median(ratios)) if ratios else None
