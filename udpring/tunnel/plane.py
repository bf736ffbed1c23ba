"""The data plane in C, as a Python class: a method for each command, dataclasses for the answers.

The plane owns the TUN device, the UDP sockets, keys, routes and byte counters (ARCHITECTURE.md, R3). This
module turns its C structs into Python values and its codes into exceptions. It decides nothing. No other
module calls ``udpring_plane_*``, except for ``plane_packets``, ``handshake_threads`` and tests.

Times are ``int`` nanoseconds of CLOCK_BOOTTIME, 0 = never. Any method may raise ClosedError after
``close()``.
"""

from __future__ import annotations

import atexit
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from udpring._native import check, ffi, lib, reason, reason_text
from udpring.errors import ClosedError, HostError
from udpring.tunnel.command_batch import CommandBatch
from udpring.tunnel.peer_blocks import BLOCKS_MAX, PeerBlocks
from udpring.tunnel.plane_addresses import new_address
from udpring.tunnel.plane_options import offload_flags, plane_tier, workers_asked
from udpring.tunnel.plane_reading import event_of, peer_state, plane_stats
from udpring.tunnel.plane_values import Event, EventKind, PeerState, PlaneStats, Prefix, SocketAddress
from udpring.tunnel.refusals import cure_of
from udpring.udp.train_kernels import train_fault

__all__ = [
    "PREFIX_BATCH",
    "Event",
    "EventKind",
    "PeerState",
    "Plane",
    "PlaneStats",
    "Prefix",
    "SocketAddress",
]

PREFIX_BATCH = 4096
"""Allowed IPs in one command: each command stops the worker for less than a millisecond at this size."""

_STATES_BATCH = 256
_INDICES_IN_RESERVE = 64
_TEXT_PIECE = 1 << 16
# struct udpring_prefix: one pack is several times quicker than four assignments through cffi, and a set may
# have 130 000 of them. Checked against the compiler's layout below.
_PREFIX = struct.Struct("=16sHBBI")
assert _PREFIX.size == ffi.sizeof("struct udpring_prefix")
_PEER_NONE: int = lib.UDPRING_PEER_NONE


def _host_error(code: int, what: str, why: str) -> HostError:
    """An error from the plane's text. The cure is the parenthesis at its end, or follows from the errno."""
    number = -code
    text, _, cure = why[:-1].partition(" (") if why.endswith(")") else (why, "", "")
    text = text or os.strerror(number)
    return HostError(text if what in text else f"{what}: {text}", errno=number, cure=cure or cure_of(number))


class Plane:
    """One TUN device, its sockets and the worker threads that move packets between them.

    It opens in the caller's network namespace and stays in it. Use it in the thread of the event loop that
    reads ``fileno()``. A command returns when the worker has run it.

    asks: post PEER_WANTED for a packet whose destination is no peer's, and keep it until the answer.
    descriptors: of an interface that was opened elsewhere, one a worker: of a TUN device, or packet sockets
        at the far end of the interface ``name``. The plane duplicates them. Empty: it makes a TUN device.
    query: with descriptors, a socket in the interface's network namespace, duplicated too. -1: the interface
        is in this one.
    offloads: one of ``plane_options.OFFLOADS``. None: ``UDPRING_OFFLOADS``, or ``all``.
    workers: threads, each with its own queue and rings, 1 to 16. None: ``UDPRING_WORKERS``, or by the number
        of CPUs: one up to four CPUs, then one more for every four.
    queues: bytes of each worker's queues out and in, in place of a TUN device (plane_packets).
    confined: works on where a seccomp filter denies new io_urings later. Its own are restricted.

    Raises HostError when the host refuses: no right, no TUN device, the name is taken, the tier does not
    work. Raises ConfigError when one of the variables has a wrong value.
    """

    has_threads = True
    """Whether handshakes are computed in C, by threads of the plane (``handshake_threads``)."""

    def __init__(
        self,
        name: str,
        *,
        descriptors: Sequence[int] = (),
        query: int = -1,
        mtu: int = 0,
        tier: str = "auto",
        slots: int = 0,
        mailbox: int = 0,
        listen_port: int = 0,
        fwmark: int = 0,
        offloads: str | None = None,
        workers: int | None = None,
        asks: bool = False,
        queues: tuple[int, int] | None = None,
        confined: bool = False,
    ) -> None:
        self._plane: Any = None
        self._indices: list[int] = []
        options = ffi.new("struct udpring_plane_options *")
        encoded = name.encode()
        if not encoded or len(encoded) > 15:
            raise HostError(f"interface name {name!r} does not have 1 to 15 bytes", cure="choose another")
        options.name = encoded
        options.fd_count = len(descriptors)
        for number, descriptor in enumerate(descriptors):
            options.fds[number] = descriptor
        options.query_fd = query
        options.mtu = mtu
        options.tier = plane_tier(tier)
        options.slots = slots
        options.mailbox = mailbox
        options.listen_port = listen_port
        options.fwmark = fwmark
        options.flags = offload_flags(offloads) | asks * lib.UDPRING_PLANE_ASKS
        fault = train_fault() if options.flags & lib.UDPRING_PLANE_NO_TRAINS else None
        self.trains_reason = fault.words if fault else ""
        """Why no trains are sent: a known fault of this kernel. Empty: they are, or the user chose so."""
        self.receives_trains = not options.flags & lib.UDPRING_PLANE_NO_UDP_OFFLOAD
        self.sends_trains = self.receives_trains and not options.flags & lib.UDPRING_PLANE_NO_TRAINS
        """To peers without a setting of their own, unless a route loses them."""
        options.flags |= confined * lib.UDPRING_PLANE_CONFINED
        options.flags |= bool(queues) * lib.UDPRING_PLANE_PACKETS
        options.workers = workers_asked(workers)
        options.packets_out_bytes, options.packets_in_bytes = queues or (0, 0)
        code = ffi.new("int32_t *")
        why = reason()
        plane = lib.udpring_plane_open(options, code, why)
        if plane == ffi.NULL:
            raise _host_error(code[0], f"interface {name}", reason_text(why))
        self._plane = plane
        self._process = os.getpid()
        _open.add(self)
        self._events: Any = None

    @property
    def closed(self) -> bool:
        return self._plane is None

    def close(self) -> None:
        """Stops the workers, closes sockets and TUN device, zeroises the keys. May be called again."""
        plane, self._plane = self._plane, None
        _open.discard(self)
        if plane is not None:
            lib.udpring_plane_close(plane)

    def handle(self) -> Any:
        """The plane's C object, for ``handshake_threads``. Raises ClosedError."""
        return self._handle()

    def _handle(self) -> Any:
        if self._plane is None:
            raise ClosedError("the plane is closed. Open a new one")
        return self._plane

    # ---- properties ----

    @property
    def name(self) -> str:
        """The interface name as the kernel gave it."""
        text: str = ffi.string(lib.udpring_plane_name(self._handle())).decode()
        return text

    @property
    def port(self) -> int:
        """The UDP port that the sockets are bound to."""
        return int(lib.udpring_plane_port(self._handle()))

    @property
    def tier_reason(self) -> str:
        """Why no better tier was taken; empty for the best."""
        text: str = ffi.string(lib.udpring_plane_tier_reason(self._handle())).decode()
        return text

    @property
    def sharing_reason(self) -> str:
        """Why handshakes and data share sockets, so that a flood costs data; empty: they do not."""
        return str(ffi.string(lib.udpring_plane_sharing_reason(self._handle())).decode())

    @property
    def routes_reason(self) -> str:
        """Why routes are not looked up, so that packets may leave from a wrong address; empty: they are."""
        return str(ffi.string(lib.udpring_plane_routes_reason(self._handle())).decode())

    def fileno(self) -> int:
        """An eventfd, readable while events wait."""
        fd: int = lib.udpring_plane_eventfd(self._handle())
        return fd

    def tun_fileno(self) -> int:
        """The TUN device's descriptor. Only poll it: it is writable while the interface is up."""
        fd: int = lib.udpring_plane_tun_fd(self._handle())
        return fd

    def events(self, maximum: int = 64) -> list[Event]:
        """Takes up to ``maximum`` events. Never blocks. Fewer: there are no more for now."""
        handle = self._handle()
        if self._events is None or len(self._events) < maximum:
            self._events = ffi.new("struct udpring_event[]", maximum)
        buffer = self._events
        count = lib.udpring_plane_events(handle, buffer, maximum)
        return [event_of(buffer + position) for position in range(count)]

    # ---- sockets and identity ----

    def bind(self, port: int, fwmark: int = 0) -> int:
        """Opens new sockets on ``port`` (0: the kernel chooses) with ``fwmark``. Returns the port.

        Sessions are kept. On failure the old sockets stay. Raises HostError (EADDRINUSE: the port is taken,
        also when it is taken by this plane).
        """
        chosen = ffi.new("uint16_t *", port)
        why = reason()
        code = lib.udpring_plane_bind(self._handle(), chosen, fwmark, why)
        if code < 0:
            raise _host_error(code, f"UDP port {port}", reason_text(why))
        return int(chosen[0])

    def mark(self, fwmark: int) -> None:
        """Sets SO_MARK on all sockets; 0 is off."""
        check(lib.udpring_plane_mark(self._handle(), fwmark), f"fwmark {fwmark:#x}")

    def identity(self, mac1_key: bytes | None, cookie_key: bytes | None) -> None:
        """Sets the key that checks mac1 of arriving handshakes and the key that seals cookie replies. None
        and None: all handshakes are refused."""
        code = lib.udpring_plane_identity(self._handle(), _bytes(mac1_key, 32), _bytes(cookie_key, 32))
        check(code, "set identity")

    # ---- peers ----

    def peer_add(self) -> int:
        """Adds a peer and returns its id. Raises RingError (ENOSPC, ENOMEM: no room)."""
        peer = ffi.new("uint32_t *")
        check(lib.udpring_plane_peer_add(self._handle(), peer), "add a peer")
        return int(peer[0])

    def peer_remove(self, peer: int) -> None:
        """Removes the peer, its keys (zeroised), staged packets, allowed IPs and indices."""
        check(lib.udpring_plane_peer_remove(self._handle(), peer), f"remove peer {peer}")

    def peers_add(self, count: int) -> list[int]:
        """Adds peers, in few commands, and returns their ids: fewer where there is no room for all."""
        added: list[int] = []
        peers = ffi.new("uint32_t[]", BLOCKS_MAX)
        while len(added) < count:
            asked = min(count - len(added), BLOCKS_MAX)
            made = lib.udpring_plane_peers_add(self._handle(), peers, asked)
            added += ffi.unpack(peers, max(made, 0))
            if made < asked:
                break
        return added

    def peers_remove(self, peers: Sequence[int]) -> None:
        """Removes peers as ``peer_remove`` does, in few commands."""
        for start in range(0, len(peers), BLOCKS_MAX):
            some = peers[start : start + BLOCKS_MAX]
            check(lib.udpring_plane_peers_remove(self._handle(), some, len(some)), "remove peers")

    def apply_blocks(self, read: PeerBlocks, peers: Sequence[int]) -> bytes:
        """Sets the endpoints and allowed IPs of the first blocks, one for each of these peers, all different.
        Returns ``UDPRING_BLOCK_CHANGED`` and ``UDPRING_BLOCK_STAGED`` for each. Fewer than peers: the next
        block failed, and a part of it may have been applied."""
        outcomes = bytearray(len(peers))
        done = ffi.new("uint32_t *")
        raw = ffi.from_buffer("uint8_t[]", outcomes)
        lib.udpring_plane_blocks(self._handle(), read.raw, peers, len(peers), raw, done)
        return bytes(outcomes[: done[0]])

    def trains(self, peer: int, on: bool) -> None:
        """Whether the peer may get trains. At first by the plane's ``offloads``, which can forbid them."""
        check(lib.udpring_plane_peer_trains(self._handle(), peer, int(on)), f"offload of peer {peer}")

    def probe(self, peer: int) -> None:
        """Sends two probes to the peer, one as a train and one singly. A udpring node answers each, which
        posts PROBE_ANSWERED. Raises RingError where they cannot be sent now."""
        check(lib.udpring_plane_peer_probe(self._handle(), peer), f"probe peer {peer}")

    def trains_lost(self, peer: int, lost: bool) -> None:
        """Whether the route loses trains, so that the peer gets none."""
        check(lib.udpring_plane_peer_trains_lost(self._handle(), peer, int(lost)), f"trains to peer {peer}")

    def endpoint(self, peer: int, address: SocketAddress) -> None:
        """Sets the peer's endpoint and forgets its sticky source."""
        check(
            lib.udpring_plane_endpoint(self._handle(), peer, new_address(address)),
            f"endpoint of peer {peer}",
        )

    def nested(self, peer: int, returns: SocketAddress | None) -> bool:
        """Answers a NESTED event: packets to the peer come back to the interface with that destination (None:
        they do not). Whether they loop, and are dropped from now on."""
        back = ffi.NULL if returns is None else new_address(returns)
        code = lib.udpring_plane_nested(self._handle(), peer, back)
        check(code, f"the path of packets to peer {peer}")
        return bool(code)

    def watch_roaming(self, on: bool) -> None:
        """Whether ROAMED events are posted. Not at first."""
        check(lib.udpring_plane_watch_roaming(self._handle(), int(on)), "watch roaming")

    def weigh(self, nice: int, *, group: int = -1, usual: int = 0) -> None:
        """Gives the workers the nice value ``nice``, from -20 to -1, but their usual one while many datagrams
        come, and under bulk transfers without a sparse flow (RFC 8290). 0: always their usual one. If the
        host refuses, nothing changes (``stats().nice``).

        With ``group`` the session changes between ``nice`` and ``usual`` instead. ``group`` is a descriptor
        of its ``/proc/PID/autogroup``, or a socket to a process that writes to that file. Raises RingError.
        """
        check(lib.udpring_plane_weight(self._handle(), nice, group, usual), "nice value of the workers")

    def load_until(self) -> int:
        """Boot time until which the plane is under load; in the past: it is not. No command: it is cheap."""
        return int(lib.udpring_plane_load_until(self._handle()))

    def prefixes(self, prefixes: Sequence[Prefix]) -> None:
        """Applies allowed IPs in order, ``PREFIX_BATCH`` per command. Where it raises RingError (EEXIST: a
        claimed one is another peer's), earlier ones stay applied. Packets that waited for a peer with one of
        them go to it."""
        for start in range(0, len(prefixes), PREFIX_BATCH):
            self._prefixes(prefixes[start : start + PREFIX_BATCH])

    def _prefixes(self, batch: Sequence[Prefix]) -> None:
        pack = _PREFIX.pack
        add, remove, claim = lib.UDPRING_PREFIX_ADD, lib.UDPRING_PREFIX_REMOVE, lib.UDPRING_PREFIX_CLAIM
        packed = b"".join(
            pack(
                prefix.network,
                socket.AF_INET if len(prefix.network) == 4 else socket.AF_INET6,
                prefix.cidr,
                claim if prefix.claim else remove if prefix.remove else add,
                prefix.peer,
            )
            for prefix in batch
        )
        raw = ffi.from_buffer("struct udpring_prefix[]", packed)
        done = ffi.new("uint32_t *")
        code = lib.udpring_plane_prefixes(self._handle(), raw, len(batch), done)
        if code < 0:
            number = min(int(done[0]), len(batch) - 1)
            check(code, f"allowed IP {batch[number]}")

    def refuse(self, ip: bytes, nanoseconds: int) -> None:
        """Answers PEER_WANTED: there is no peer for this address (4 or 16 bytes). Its packets are dropped,
        and for so long, two minutes at most, more of them without a question."""
        address = new_address(SocketAddress(ip, 0))
        check(lib.udpring_plane_refuse(self._handle(), address, nanoseconds), "refuse a destination")

    def under_load(self) -> None:
        """For a second the plane takes itself to be under load: handshakes need a valid mac2."""
        check(lib.udpring_plane_under_load(self._handle()), "ask for cookies")

    def forget_refusals(self) -> None:
        """Every refused destination may be asked for again."""
        check(lib.udpring_plane_forget_refusals(self._handle()), "forget refused destinations")

    def prefixes_clear(self, peer: int) -> None:
        """Removes all allowed IPs of the peer."""
        check(lib.udpring_plane_prefixes_clear(self._handle(), peer), f"clear the allowed IPs of peer {peer}")

    def prefixes_list(self, peer: int) -> list[tuple[bytes, int]]:
        """The peer's allowed IPs as (network, cidr): IPv4 first, each family ascending."""
        handle = self._handle()
        room = 16
        while True:
            raw = ffi.new("struct udpring_prefix[]", room)
            count = lib.udpring_plane_prefixes_list(handle, peer, raw, room)
            if count <= room:
                break
            room = count
        sizes = {socket.AF_INET: 4, socket.AF_INET6: 16}
        return [(bytes(ffi.buffer(raw[i].ip, sizes[raw[i].family])), int(raw[i].cidr)) for i in range(count)]

    # ---- keys and handshakes ----

    def index_new(self, peer: int) -> int:
        """A random receiver index that no handshake or keypair has. It is the peer's once its initiation is
        sent or its keypair installed. One command takes some in reserve, as each waits for the worker. Raises
        RingError."""
        if not self._indices:
            reserve = ffi.new("uint32_t[]", _INDICES_IN_RESERVE)
            code = lib.udpring_plane_indices(self._handle(), _PEER_NONE, reserve, _INDICES_IN_RESERVE)
            check(code, f"receiver index for peer {peer}")
            self._indices = list(reserve)
        return self._indices.pop()

    def batch(self) -> CommandBatch:
        """An empty batch of commands: keypairs, messages, and what else follows from handshakes."""
        return CommandBatch(self._handle)

    # ---- reading ----

    def peer_state(self, peer: int, *, post_activity: bool = False) -> PeerState:
        """The peer's stamps and counters. ``post_activity``: the next change of a stamp posts one event."""
        raw = ffi.new("struct udpring_peer_state *")
        check(
            lib.udpring_plane_peer_state(self._handle(), peer, int(post_activity), raw),
            f"state of peer {peer}",
        )
        return peer_state(raw)

    def states_of(self, peers: Sequence[int], *, post_activity: bool = False) -> list[PeerState]:
        """The same for several peers, in one command. Those that are gone are left out."""
        if not peers:
            return []
        raw = ffi.new("struct udpring_peer_state[]", len(peers))
        count = lib.udpring_plane_states_of(self._handle(), peers, len(peers), post_activity, raw)
        return [peer_state(raw + position) for position in range(count)]

    def peer_states(self) -> list[PeerState]:
        """The states of all peers, in few commands."""
        handle = self._handle()
        raw = ffi.new("struct udpring_peer_state[]", _STATES_BATCH)
        following = ffi.new("uint32_t *")
        states: list[PeerState] = []
        first = 0
        while True:
            count = lib.udpring_plane_peer_states(handle, first, raw, _STATES_BATCH, following)
            states.extend(peer_state(raw + position) for position in range(count))
            first = following[0]
            if not first:
                return states

    def peers_text(self, settings: Sequence[bytes]) -> Iterator[bytes]:
        """The lines of these peers for the answer to ``get``. ``settings``: of ``uapi_text.pack_settings``.
        Each piece is one command. A peer that is gone has no lines."""
        packed = b"".join(settings)
        raw = ffi.from_buffer("struct udpring_peer_settings[]", packed)
        taken, needed = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        room, first = _TEXT_PIECE, 0
        while first < len(settings):
            text = ffi.new("uint8_t[]", room)
            written = lib.udpring_plane_peers_text(
                self._handle(), raw + first, len(settings) - first, text, room, taken, needed
            )
            check(written, "the lines of peers")
            first += taken[0]
            room = _TEXT_PIECE if taken[0] else needed[0]
            if written:
                yield bytes(ffi.buffer(text, written))

    def stats(self) -> PlaneStats:
        """The counters of the plane and of its sockets."""
        raw = ffi.new("struct udpring_plane_stats *")
        check(lib.udpring_plane_stats(self._handle(), raw), "plane statistics")
        return plane_stats(raw)


def _bytes(value: bytes | None, length: int) -> Any:
    if value is None:
        return ffi.NULL
    if len(value) != length:
        raise ValueError(f"{length} bytes are needed, not {len(value)}")
    return ffi.from_buffer("uint8_t[]", value)


_open: set[Plane] = set()


@atexit.register
def _close_all() -> None:
    """At exit OpenSSL frees what the threads use. A forked child has no threads of its parent's planes."""
    for plane in list(_open):
        if plane._process == os.getpid():
            plane.close()
