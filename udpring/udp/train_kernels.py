"""Versions of Linux that are known to damage trains (UDP_SEGMENT, udp(7)). They get none by default.

A trial on loopback cannot find such a fault: the damage occurs between kernel and network card. So this is
the one decision that goes by the kernel's version.
"""

from __future__ import annotations

import os
import re

from udpring.records import record

__all__ = ["KERNEL_FAULTS", "KernelFault", "train_fault"]

Version = tuple[int, int, int]


@record
class KernelFault:
    """``first``, ``last``: the versions with the fault. ``mended``: the one after them."""

    first: Version
    last: Version
    mended: Version
    effect: str

    @property
    def words(self) -> str:
        """The fault in one line, for the log."""
        return f"Linux {_text(self.first)} to {_text(self.last)} {self.effect}"

    @property
    def cure(self) -> str:
        """What the user can do."""
        newer = f"Linux {_text(self.mended)} or newer"
        return f"{newer}. If this kernel has the correction, UDPRING_OFFLOADS=all uses trains"


KERNEL_FAULTS = (
    # From commit b10b446 (7.0-rc1) to 78effd8 and 5f17ae0: wrong UDP lengths and checksums on some devices.
    KernelFault((7, 0, 0), (7, 1, 4), (7, 1, 5), "mangle UDP_SEGMENT sends whose segments are all equal"),
)
"""All known faults. Only this table decides."""


def train_fault(release: str | None = None) -> KernelFault | None:
    """The fault of a kernel, by its release (uname(2)). None as release: of the running one.

    A release without a version number has no known fault. A release candidate counts as its release.
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", os.uname().release if release is None else release)
    if found is None:
        return None
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    return next((fault for fault in KERNEL_FAULTS if fault.first <= version <= fault.last), None)


def _text(version: Version) -> str:
    return ".".join(map(str, version)).removesuffix(".0")
