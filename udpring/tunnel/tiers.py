"""The tiers of a plane, by the names people use: ``UDPRING_TIER``, ``tier=``."""

from __future__ import annotations

import os

from udpring._native import lib
from udpring.errors import ConfigError

__all__ = ["TIERS", "tier_number"]

TIERS: dict[str, int] = {
    "auto": lib.UDPRING_TIER_AUTO,
    "uring-multishot": lib.UDPRING_TIER_URING_MULTISHOT,
    "uring-pool": lib.UDPRING_TIER_URING_POOL,
    "mmsg": lib.UDPRING_TIER_MMSG,
}


def tier_number(name: str) -> int:
    """The plane's number of the tier called ``name``; with ``auto`` it does as ``UDPRING_TIER`` says.

    Raises ValueError with the names there are; ConfigError when ``UDPRING_TIER`` has another and counts.
    """
    names = ", ".join(TIERS)
    if name not in TIERS:
        raise ValueError(f"no tier is called {name!r}: one of {names}")
    forced = os.environ.get("UDPRING_TIER")
    if name == "auto" and forced and forced not in TIERS:
        raise ConfigError(
            "UDPRING_TIER names no tier", file="<environment>", text=forced, cure=f"one of {names}"
        )
    return TIERS[name]
