"""The memory of an idle peer. A node may have 65536."""

from __future__ import annotations

import gc
import os
import tracemalloc

from udpring.wireguard.device import Device

PEERS = 2000
BYTES_A_PEER = 600
"""Its objects, its entries in two tables, and the shared secret of both static keys."""


class _Indices:
    def new(self, peer: int) -> int:
        return peer


def test_idle_peer_is_small() -> None:
    device = Device(random=os.urandom, indices=_Indices())
    device.set_private_key(os.urandom(32), 0)
    keys = [os.urandom(32) for _ in range(PEERS)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number, key in enumerate(keys):
            device.add_peer(number, key, 0)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / PEERS < BYTES_A_PEER
