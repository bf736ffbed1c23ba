"""Plain values of the plane's interface: addresses, prefixes, events, states, counters.

Times are ``int`` nanoseconds of CLOCK_BOOTTIME, 0 = never or none.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import field
from enum import IntEnum
from typing import Any

from udpring._native import lib
from udpring.records import record
from udpring.tunnel.decimal_text import parse_decimal
from udpring.wireguard.events import PeerStamps

__all__ = [
    "HISTOGRAMS",
    "TUN_OFFLOADS",
    "Event",
    "EventKind",
    "Histogram",
    "PeerState",
    "PlaneStats",
    "Prefix",
    "SocketAddress",
]

HISTOGRAMS = ("receive_batches", "send_batches", "receive_trains", "send_trains")
"""Fields of ``struct udpring_plane_stats``. All sizes are datagrams."""
TUN_OFFLOADS = {1: "csum", 2: "tso4", 4: "tso6", 8: "tso-ecn", 0x20: "uso4", 0x40: "uso6"}
"""Names of the bits TUN_F_* (linux/if_tun.h)."""


class EventKind(IntEnum):
    """``enum udpring_event_kind``: the subject of an event."""

    HANDSHAKE = lib.UDPRING_EVENT_HANDSHAKE
    HANDSHAKE_WANTED = lib.UDPRING_EVENT_HANDSHAKE_WANTED
    KEY_CONFIRMED = lib.UDPRING_EVENT_KEY_CONFIRMED
    ACTIVITY = lib.UDPRING_EVENT_ACTIVITY
    TUN_GONE = lib.UDPRING_EVENT_TUN_GONE
    FATAL = lib.UDPRING_EVENT_FATAL
    COALESCING_REFUSED = lib.UDPRING_EVENT_COALESCING_REFUSED
    PATH = lib.UDPRING_EVENT_PATH
    PEER_WANTED = lib.UDPRING_EVENT_PEER_WANTED
    NESTED = lib.UDPRING_EVENT_NESTED
    ROAMED = lib.UDPRING_EVENT_ROAMED
    OVERLOAD = lib.UDPRING_EVENT_OVERLOAD
    TRAINS = lib.UDPRING_EVENT_TRAINS
    PROBE_ANSWERED = lib.UDPRING_EVENT_PROBE_ANSWERED


def _scope_id(scope: str) -> int:
    """The number of an interface, given by number or name."""
    number = parse_decimal(scope, 0xFFFFFFFF)
    if number is not None:
        return number
    if scope.isdecimal():
        raise ValueError(f"no interface has the index {scope}")
    return socket.if_nametoindex(scope)


@record
class SocketAddress:
    """The address of a UDP endpoint: 4 or 16 address bytes, a port, and scope_id for link-local IPv6."""

    ip: bytes
    port: int
    scope_id: int = 0

    @classmethod
    def parse(cls, host: str, port: int) -> SocketAddress:
        """From a numeric address, perhaps with a ``%scope``. A v4-mapped address becomes IPv4, as the plane
        has it.

        Raises ValueError for a name.
        """
        ip = ipaddress.ip_address(host)
        scope = 0
        if isinstance(ip, ipaddress.IPv6Address):
            if ip.ipv4_mapped is not None:
                ip = ip.ipv4_mapped
            elif ip.scope_id:
                scope = _scope_id(ip.scope_id)
        return cls(ip.packed, port, scope)

    @property
    def host(self) -> str:
        """The address without the port, with the scope by number."""
        text = str(ipaddress.ip_address(self.ip))
        return f"{text}%{self.scope_id}" if self.scope_id else text

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if len(self.ip) == 16 else f"{self.host}:{self.port}"


@record
class Prefix:
    """One prefix of allowed IPs. ``network`` is 4 or 16 bytes. ``remove``: take it from this peer. ``claim``:
    add it only if no other peer has it."""

    network: bytes
    cidr: int
    peer: int
    remove: bool = False
    claim: bool = False

    def __str__(self) -> str:
        return f"{ipaddress.ip_address(self.network)}/{self.cidr}"


@record
class Event:
    """An event of the plane. ``peer`` is None where it is unknown. Only HANDSHAKE has a ``message``."""

    kind: int
    peer: int | None = None
    message: bytes = b""
    source: SocketAddress | None = None
    local: SocketAddress | None = None
    interface_index: int = 0
    under_load: bool = False
    loops: bool = False
    result: int = 0
    now: int = 0
    handshake: Any = field(default=None, repr=False, compare=False)
    """``struct udpring_handshake`` of an initiation that was opened already."""
    key_number: int = 0
    """Of the key that it was opened with."""


@record
class PeerState(PeerStamps):
    """The plane's state of a peer (``struct udpring_peer_state``)."""

    peer: int = field(kw_only=True)
    staged: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    interface_index: int = 0
    endpoint: SocketAddress | None = None
    source: SocketAddress | None = None


@record
class Histogram:
    """How often something had which size: ``struct udpring_histogram``. ``buckets[i]`` counts sizes up to
    2**i that are above those of the bucket before. The last one also counts all larger sizes."""

    buckets: tuple[int, ...]
    sum: int
    """Of the sizes."""

    @property
    def count(self) -> int:
        """Of all sizes."""
        return sum(self.buckets)


@record
class PlaneStats:
    """Counters of the plane. They only grow, except the last group (``struct udpring_plane_stats``)."""

    tun_packets_in: int
    tun_bytes_in: int
    tun_packets_out: int
    tun_bytes_out: int
    passes: int
    commands: int
    events: int
    events_lost: int
    trains_split: int
    super_packets_split: int
    shortages: int
    pauses: int
    yields: int
    congestion_marks: int
    trains_helped: int
    help_trials: int
    route_notices: int
    route_sweeps: int
    route_lookups: int
    route_failures: int
    drops: dict[str, int]
    rx: dict[str, int]
    tx: dict[str, int]
    tier: str
    aead: str
    peers: int
    prefixes: int
    keypairs: int
    mailbox_depth: int
    workers: int
    nice: int
    """The nice value that the workers or their session were given. 0: the usual one is in force."""
    handshake_sockets: int
    mailbox_capacity: int
    send_slots: int
    sends_pending: int
    staged_bytes: int
    flow_packets: int
    flow_bytes: int
    tun_offloads: tuple[str, ...]
    """Super-packets that the kernel hands over: ``tso4``, ... Empty: single packets only."""
    wanted_bytes: int
    receive_queue_bytes: int
    receive_queue_limit: int
    program_out_bytes: int
    program_in_bytes: int
    histograms: dict[str, Histogram]
    """Sizes of batches and trains: those of ``HISTOGRAMS``."""
