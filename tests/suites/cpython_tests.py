"""The thin patch for CPython's own tests, as a plugin of pytest.

1. Debian has the tests in a package of their own. ``test`` is made to find them in the folder SUITES_TESTS.
2. Some tests put a stand-in in the place of ``socket`` in ``asyncio.base_events``. Endpoints on the rings are
   made with that one too.
"""

from __future__ import annotations

import asyncio.base_events
import os
from typing import Any

import test

import udpring.udp.endpoint_socket

if folder := os.environ.get("SUITES_TESTS"):
    test.__path__.insert(0, folder)


class _AsyncioSocket:
    """``socket`` as asyncio sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.base_events.socket, name)  # type: ignore[attr-defined]


udpring.udp.endpoint_socket.socket = _AsyncioSocket()  # type: ignore[assignment]
