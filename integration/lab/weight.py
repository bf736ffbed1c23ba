"""The weight of sessions (autogroup, sched(7))."""

from __future__ import annotations

from pathlib import Path

import pytest

from udpring.tunnel.capabilities import SYS_NICE, held

__all__ = ["nice_of_session", "sessions"]

_ENABLED = Path("/proc/sys/kernel/sched_autogroup_enabled")

sessions = pytest.mark.skipif(
    not held() >> SYS_NICE & 1 or not _ENABLED.exists() or _ENABLED.read_text().strip() != "1",
    reason="the kernel does not weigh sessions, or lets no one raise them",
)


def nice_of_session(process: int) -> int | None:
    """None: the process has the session of the boot, which has no autogroup."""
    words = Path(f"/proc/{process}/autogroup").read_text().split()
    return int(words[-1]) if words else None
