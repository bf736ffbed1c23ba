"""The tiers, which are kernel interfaces for datagrams: their names, and the choice by the environment.

The core has the list (UDPRING_TIERS in native/udp/abi.h). ``uring-pool`` keeps a pool of recvmsg operations
in flight. ``mmsg`` is recvmmsg(2) and sendmmsg(2).
"""

from __future__ import annotations

import errno
import os
from typing import Any

from udpring._native import ffi, lib
from udpring.errors import RingError

__all__ = ["AUTO", "TIERS", "forced_tier", "tier_name", "tier_number"]


def tier_name(number: int) -> str:
    """The name of a tier, by the core's number."""
    text: str = ffi.string(lib.udpring_tier_name(number)).decode()
    return text


AUTO = tier_name(lib.UDPRING_TIER_AUTO)
"""The name for the best tier that works here."""
TIERS = tuple(tier_name(number) for number in range(lib.UDPRING_TIER_AUTO + 1, lib.UDPRING_TIER_COUNT))
"""Best first."""


def forced_tier() -> str | None:
    """The value of ``UDPRING_TIER``, unchecked. None if it is not set or empty. Only this module reads it."""
    return os.environ.get("UDPRING_TIER") or None


def tier_number(name: str | None) -> int:
    """The core's number of a tier. None and ``AUTO``: that of ``UDPRING_TIER``, otherwise the core chooses.

    Raises ValueError for an unknown name, RingError if ``UDPRING_TIER`` has one.
    """
    asked = AUTO if name is None else str(name)
    forced = forced_tier() or AUTO
    number = int(lib.udpring_tier_parse((forced if asked == AUTO else asked).encode()))
    if number >= 0:
        return number
    names = ", ".join(TIERS)
    if asked == AUTO:
        raise RingError(
            f"UDPRING_TIER={forced} is not a tier. Use one of {names}, or {AUTO}", errno=errno.EINVAL
        )
    raise ValueError(f"{name!r} is not a tier. Use one of {names}, or None for the best that works")


def counters(stats: Any) -> dict[str, int]:
    """A struct of counters as a dict."""
    return {name: int(getattr(stats, name)) for name, _ in ffi.typeof(stats).item.fields}
