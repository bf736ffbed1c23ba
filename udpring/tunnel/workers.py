"""How many worker threads a plane has: ``UDPRING_WORKERS``, ``workers=``."""

from __future__ import annotations

import os

from udpring.errors import ConfigError, HostError
from udpring.tunnel.decimal_text import parse_decimal

__all__ = ["WORKERS_MAX", "workers_asked"]

WORKERS_MAX = 16
"""``limits.h``."""


def workers_asked(number: int | None) -> int:
    """The plane's option for ``number`` workers; None: as ``UDPRING_WORKERS`` says, else 0: by the cores.

    Raises HostError when it is not a whole number from 1 to ``WORKERS_MAX``, ConfigError when the variable
    is not.
    """
    text = os.environ.get("UDPRING_WORKERS", "") if number is None else str(number)
    if not text:
        return 0
    asked = parse_decimal(text, WORKERS_MAX, 1)
    if asked is None:
        cure = f"a whole number from 1 to {WORKERS_MAX}"
        if number is None:
            raise ConfigError(
                "UDPRING_WORKERS is no number of workers", file="<environment>", text=text, cure=cure
            )
        raise HostError(f"{text!r} workers cannot be had", cure=cure)
    return asked
