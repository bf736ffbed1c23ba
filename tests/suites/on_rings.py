"""A plugin of pytest: the suite runs with ``udpring.install()``, unless SUITES_WITHOUT is set.

It writes the number of endpoints that were opened on the rings to the file that SUITES_COUNT names.
"""

from __future__ import annotations

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


def pytest_unconfigure() -> None:
    if name := os.environ.get("SUITES_COUNT"):
        Path(name).write_text(str(opened))
