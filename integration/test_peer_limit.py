"""A plane holds as many peers as abi.h says. The error for one more names the limit."""

from __future__ import annotations

import errno

from test_plane import TIERS, WIREGUARD, Bench, pytestmark

from udpring._native import ffi, lib

__all__ = ["pytestmark"]


def test_one_peer_more_than_the_limit_is_refused() -> None:
    """The core owns the limit. Python has no number of its own."""
    bench = Bench(TIERS["mmsg"], 1, WIREGUARD)
    try:
        peer = ffi.new("uint32_t *")
        for _ in range(lib.UDPRING_PEERS_MAX - 1):  # the bench has one
            assert lib.udpring_plane_peer_add(bench.plane, peer) == 0
        assert lib.udpring_plane_peer_add(bench.plane, peer) == -errno.ENOSPC
        assert lib.udpring_plane_peer_remove(bench.plane, bench.peer) == 0
        assert lib.udpring_plane_peer_add(bench.plane, peer) == 0
        assert lib.udpring_plane_peer_add(bench.plane, peer) == -errno.ENOSPC
    finally:
        bench.close()
