"""A plugin of pytest: the suite runs with ``udpring.install()``, unless SUITES_WITHOUT is set.

It writes to the file that SUITES_REPORT names: the number of endpoints that were opened on the rings, and the
tests that passed, were skipped and failed, as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import udpring
from udpring.udp.transport import RingTransport

opened = 0


def _count(made: Any) -> Any:
    def counted(self: RingTransport, *arguments: Any, **keywords: Any) -> None:
        global opened
        opened += 1
        made(self, *arguments, **keywords)

    return counted


if not os.environ.get("SUITES_WITHOUT"):
    udpring.install()
    RingTransport.__init__ = _count(RingTransport.__init__)  # type: ignore[method-assign]


outcomes: dict[str, dict[str, str]] = {"passed": {}, "skipped": {}, "failed": {}}


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or report.outcome != "passed":
        lines = str(report.longrepr or "").splitlines()
        said = next((line for line in reversed(lines) if line.startswith("E ")), lines[-1] if lines else "")
        outcomes[report.outcome][report.nodeid] = said


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        outcomes["failed"][report.nodeid] = "collecting failed"


def pytest_unconfigure() -> None:
    if name := os.environ.get("SUITES_REPORT"):
        Path(name).write_text(json.dumps({"endpoints": opened, **outcomes}))
