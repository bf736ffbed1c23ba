"""The machine that was measured on, so that no figure is ever without it."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path
from typing import Any

from udpring import __version__

__all__ = ["host_facts", "load"]


def host_facts() -> dict[str, Any]:
    """Versions, processor, CPUs that we may use, and the time (UTC)."""
    return {
        "udpring": __version__,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.processor()


def load() -> float:
    """The load average of the last minute: how quiet the machine was, or was not."""
    return round(os.getloadavg()[0], 2)
