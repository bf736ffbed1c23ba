"""``udpring-wg`` as watched.py has it. Its workers help each other at any time, not only where that pays."""

from __future__ import annotations

import sys
from pathlib import Path

from udpring.tunnel.tunnel import Tunnel

_here = Path(__file__).resolve()
sys.path += [str(_here.parent), str(_here.parents[2] / "tests")]  # -P leaves them out

import watched  # noqa: E402
from core_internals import lib as internals  # noqa: E402

_start = watched.start_watched


def _start_helped(tunnel: Tunnel) -> None:
    assert internals.udpring_plane_test_spread(tunnel.plane.handle(), 1) == 0
    _start(tunnel)


if __name__ == "__main__":
    setattr(Tunnel, "start", _start_helped)  # noqa: B010 - a patch, said openly
    sys.exit(watched.main())
