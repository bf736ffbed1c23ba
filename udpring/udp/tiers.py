"""Names of the tiers: which kernel interface moves the datagrams."""

from __future__ import annotations

from typing import Any

from udpring._native import ffi, lib

__all__ = ["TIERS", "tier_name", "tier_number"]

#: Best first. ``uring-pool`` keeps a pool of recvmsg operations in flight; ``mmsg`` is recvmmsg(2) /
#: sendmmsg(2).
TIERS = ("uring-multishot", "uring-pool", "mmsg")


def tier_number(name: str | None) -> int:
    """The core's number of a tier; None and "auto" let it choose. Raises ValueError for another name."""
    if name is None:
        return int(lib.UDPRING_TIER_AUTO)
    number = int(lib.udpring_tier_parse(str(name).encode()))
    if number < 0:
        raise ValueError(f"tier {name!r}: one of {', '.join(TIERS)}, or None for the best that works here")
    return number


def tier_name(number: int) -> str:
    """The name of the core's number of a tier."""
    text: str = ffi.string(lib.udpring_tier_name(number)).decode()
    return text


def counters(stats: Any) -> dict[str, int]:
    """A struct of counters as a dict."""
    return {name: int(getattr(stats, name)) for name, _ in ffi.typeof(stats).item.fields}
