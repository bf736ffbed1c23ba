"""The state of peers and the counters of the plane, from C structs into Python values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from udpring._native import ffi, lib
from udpring.tunnel.plane_addresses import address_of
from udpring.tunnel.plane_values import HISTOGRAMS, TUN_OFFLOADS, Histogram, PeerState, PlaneStats
from udpring.udp.tiers import tier_name

__all__ = ["DROP_NAMES", "peer_state", "plane_stats"]

DROP_NAMES = [ffi.string(lib.udpring_drop_name(number)).decode() for number in range(lib.UDPRING_DROP_COUNT)]
_STATS = [each.name for each in fields(PlaneStats)]
_MADE_STATS = frozenset({"drops", "rx", "tx", "tier", "aead", "tun_offloads", "histograms"})
"""Of PlaneStats: all others are fields of the struct as they are."""


def _counters(raw: Any) -> dict[str, int]:
    return {name: getattr(raw, name) for name, _ in ffi.typeof(raw).fields}


def _histogram(raw: Any) -> Histogram:
    return Histogram(tuple(raw.buckets), raw.sum)


def plane_stats(raw: Any) -> PlaneStats:
    """``raw``: a ``struct udpring_plane_stats``."""
    aead = lib.udpring_aead_name(raw.aead)
    same = {name: getattr(raw, name) for name in _STATS if name not in _MADE_STATS}
    return PlaneStats(
        **same,
        drops={name: raw.drops[number] for number, name in enumerate(DROP_NAMES)},
        rx=_counters(raw.rx),
        tx=_counters(raw.tx),
        histograms={name: _histogram(getattr(raw, name)) for name in HISTOGRAMS},
        tier=tier_name(raw.tier),
        tun_offloads=tuple(name for bit, name in TUN_OFFLOADS.items() if raw.tun_offloads & bit),
        aead="" if aead == ffi.NULL else ffi.string(aead).decode(),
    )


def peer_state(raw: Any) -> PeerState:
    """``raw``: a ``struct udpring_peer_state``."""
    return PeerState(
        peer=raw.peer,
        staged=raw.staged,
        rx_bytes=raw.rx_bytes,
        tx_bytes=raw.tx_bytes,
        unanswered_since=raw.unanswered_since_ns,
        owed_since=raw.owed_since_ns,
        owed_again=bool(raw.owed_again),
        last_traversal=raw.last_traversal_ns,
        last_received=raw.last_received_ns,
        last_sent=raw.last_sent_ns,
        session_birth=raw.session_birth_ns,
        send_counter=raw.send_counter,
        interface_index=raw.interface_index,
        endpoint=address_of(raw.endpoint),
        source=address_of(raw.source),
    )
