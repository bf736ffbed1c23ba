"""Facts about the machine, which accompany every figure."""

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
    """Versions, processor, usable CPUs, and the time (UTC)."""
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
    """The load average of the last minute, which shows how busy the machine was."""
    return round(os.getloadavg()[0], 2)
