"""``udpring-wg`` as watched.py has it. Its workers help each other at any time, not only where that pays."""

from __future__ import annotations

import sys
from pathlib import Path

import watched

from udpring.tunnel.tunnel import Tunnel

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from core_internals import lib as internals

_start = watched.start_watched


def _start_helped(tunnel: Tunnel) -> None:
    assert internals.udpring_plane_test_spread(tunnel.plane.handle(), 1) == 0
    _start(tunnel)


if __name__ == "__main__":
    setattr(Tunnel, "start", _start_helped)  # noqa: B010 - a patch, said openly
    sys.exit(watched.main())
