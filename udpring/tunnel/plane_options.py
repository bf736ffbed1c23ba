"""Options of the plane that a program gives by name or number, or that the environment sets instead.

    tier       UDPRING_TIER        which kernel interface moves the datagrams
    offloads   UDPRING_OFFLOADS    which of the kernel's offloads are used
    workers    UDPRING_WORKERS     how many threads move packets

An impossible argument is a ValueError or HostError, an impossible variable a ConfigError.
"""

from __future__ import annotations

import os

from udpring._native import lib
from udpring.errors import ConfigError, HostError
from udpring.tunnel.decimal_text import parse_decimal
from udpring.udp.tiers import AUTO, TIERS, forced_tier, tier_number
from udpring.udp.train_kernels import train_fault

__all__ = ["OFFLOADS", "WORKERS_MAX", "offload_flags", "plane_tier", "workers_asked"]

WORKERS_MAX: int = lib.UDPRING_WORKERS_MAX

OFFLOADS: dict[str, int] = {
    "all": 0,
    "tun": lib.UDPRING_PLANE_NO_UDP_OFFLOAD,
    "udp": lib.UDPRING_PLANE_NO_TUN_OFFLOAD,
    "none": lib.UDPRING_PLANE_NO_TUN_OFFLOAD | lib.UDPRING_PLANE_NO_UDP_OFFLOAD,
}
"""``tun``: only super-packets from and to the interface (TSO, USO). ``udp``: only trains on the wire
(UDP_SEGMENT, UDP_GRO). The values are the plane's flags (``UDPRING_PLANE_*``)."""


def plane_tier(name: str) -> int:
    """The plane's number of the tier called ``name``. ``auto``: that of ``UDPRING_TIER``, or the best that
    works here.

    Raises ValueError with the known names. Raises ConfigError if ``UDPRING_TIER`` is used and has another
    one.
    """
    known = (AUTO, *TIERS)
    names = ", ".join(known)
    if name not in known:
        raise ValueError(f"{name!r} is not a tier. Use one of {names}")
    forced = forced_tier()
    if name == AUTO and forced is not None and forced not in known:
        raise ConfigError(
            "UDPRING_TIER is not a tier", file="<environment>", text=forced, cure=f"use one of {names}"
        )
    return tier_number(name)


def offload_flags(name: str | None) -> int:
    """The plane's flags for the offloads called ``name``. None: ``UDPRING_OFFLOADS``, or
    all that are safe: no trains are sent on a kernel that is known to damage them.

    Raises HostError with the known names, ConfigError if the variable has another one.
    """
    asked = name or os.environ.get("UDPRING_OFFLOADS")
    if not asked:
        return lib.UDPRING_PLANE_NO_TRAINS if train_fault() else 0
    try:
        return OFFLOADS[asked]
    except KeyError:
        cure = f"use one of {', '.join(OFFLOADS)}"
        if not name:
            raise ConfigError(
                "UDPRING_OFFLOADS is not a set of offloads", file="<environment>", text=asked, cure=cure
            ) from None
        raise HostError(f"{asked!r} is not a set of offloads", cure=cure) from None


def workers_asked(number: int | None) -> int:
    """The plane's option for ``number`` workers. None: ``UDPRING_WORKERS``, or 0: by the number of CPUs.

    Raises HostError if it is not a whole number from 1 to ``WORKERS_MAX``, ConfigError if the variable is
    not.
    """
    text = os.environ.get("UDPRING_WORKERS", "") if number is None else str(number)
    if not text:
        return 0
    asked = parse_decimal(text, WORKERS_MAX, 1)
    if asked is None:
        cure = f"use a whole number from 1 to {WORKERS_MAX}"
        if number is None:
            raise ConfigError(
                "UDPRING_WORKERS is not a number of workers", file="<environment>", text=text, cure=cure
            )
        raise HostError(f"{text!r} is not a number of workers", cure=cure)
    return asked
