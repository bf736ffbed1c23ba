"""Events, the state of peers and the counters of the plane, from C structs into Python values."""

from __future__ import annotations

import struct
from dataclasses import fields
from typing import Any

from udpring._native import ffi, lib
from udpring.tunnel.plane_addresses import address_of
from udpring.tunnel.plane_values import HISTOGRAMS, TUN_OFFLOADS, Event, Histogram, PeerState, PlaneStats
from udpring.udp.tiers import tier_name

__all__ = ["DROP_NAMES", "event_of", "peer_state", "plane_stats"]

DROP_NAMES = [ffi.string(lib.udpring_drop_name(number)).decode() for number in range(lib.UDPRING_DROP_COUNT)]
_STATS = [each.name for each in fields(PlaneStats)]
_MADE_STATS = frozenset({"drops", "rx", "tx", "tier", "aead", "tun_offloads", "histograms"})
"""Of PlaneStats: all others are fields of the struct as they are."""

_PEER_NONE: int = lib.UDPRING_PEER_NONE
_UNDER_LOAD: int = lib.UDPRING_EVENT_UNDER_LOAD
_LOOPS: int = lib.UDPRING_EVENT_LOOPS

# struct udpring_peer_state and struct udpring_event. One unpack is quicker than a look at each field through
# cffi. Checked against the compiler's layout below.
_ADDRESSES = "HHI16sHHI16s"
_STATE = struct.Struct(f"=IIQQQQQQQQQII{_ADDRESSES}")
_EVENT = struct.Struct(f"=IIIiII{_ADDRESSES}QQI{lib.UDPRING_MESSAGE_MAX}s")
assert _STATE.size == ffi.sizeof("struct udpring_peer_state")
assert ffi.offsetof("struct udpring_peer_state", "endpoint") == struct.calcsize("=IIQQQQQQQQQII")
assert ffi.offsetof("struct udpring_event", "message") == _EVENT.size - lib.UDPRING_MESSAGE_MAX


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
    """``raw``: points at a ``struct udpring_peer_state``."""
    (
        peer,
        staged,
        rx_bytes,
        tx_bytes,
        unanswered_since,
        owed_since,
        last_traversal,
        last_received,
        last_sent,
        session_birth,
        send_counter,
        owed_again,
        interface_index,
        *addresses,
    ) = _STATE.unpack_from(ffi.buffer(raw))
    return PeerState(
        peer=peer,
        staged=staged,
        rx_bytes=rx_bytes,
        tx_bytes=tx_bytes,
        unanswered_since=unanswered_since,
        owed_since=owed_since,
        owed_again=bool(owed_again),
        last_traversal=last_traversal,
        last_received=last_received,
        last_sent=last_sent,
        session_birth=session_birth,
        send_counter=send_counter,
        interface_index=interface_index,
        endpoint=address_of(*addresses[:4]),
        source=address_of(*addresses[4:]),
    )


def event_of(raw: Any) -> Event:
    """``raw``: points at a ``struct udpring_event``."""
    kind, peer, flags, result, length, interface_index, *addresses, now, handshake, key_number, message = (
        _EVENT.unpack_from(ffi.buffer(raw))
    )
    return Event(
        kind,
        None if peer == _PEER_NONE else peer,
        message[:length],
        address_of(*addresses[:4]),
        address_of(*addresses[4:]),
        interface_index,
        bool(flags & _UNDER_LOAD),
        bool(flags & _LOOPS),
        result,
        now,
        ffi.gc(raw.handshake, lib.udpring_handshake_free) if handshake else None,
        key_number,
    )
