"""A plane in memory with the interface of ``plane.Plane``, and an event loop in virtual time.

Two FakePlanes joined by ``other`` exchange what they send. So two control loops run whole handshakes without
a socket, a TUN device or privileges. Stamps follow the rules of the real plane
(native/tunnel/worker/stamps.c).
"""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from reference.command_batch import CommandBatch
from reference.uapi_answers import SETTINGS, peer_lines

from udpring._native import lib
from udpring.errors import RingError
from udpring.tunnel.peer_blocks import PeerBlocks
from udpring.tunnel.plane_values import Event, EventKind, PeerState, PlaneStats, Prefix, SocketAddress
from udpring.tunnel.uapi_values import PeerInfo, parse_offload
from udpring.wireguard.cipher import Cipher

SECOND = 1_000_000_000
WANTED_INTERVAL = SECOND // 2
NO_STATS = PlaneStats(
    *[0] * 20, {}, {}, {}, "mmsg", "openssl", *[0] * 4, 1, 0, 2, 4096, 256, 0, 0, 0, 0, (), 0, 0, 0, 0, 0, {}
)


class Clock(Protocol):
    """Boot time, ns."""

    def boot(self) -> int: ...


class VirtualClock:
    """Boot and wall time that only the VirtualLoop moves."""

    def __init__(self) -> None:
        self.nanoseconds = 1_000 * SECOND

    def boot(self) -> int:
        return self.nanoseconds

    def wall(self) -> int:
        return 1_700_000_000 * SECOND + self.nanoseconds


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Instead of waiting, advances the clock to the end of the wait."""

    clock: VirtualClock

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout:
            self.clock.nanoseconds += int(timeout * SECOND) + 1
        elif not ready and timeout is None:
            raise AssertionError("the loop would wait for ever: no timer and no event is left")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = VirtualClock()
        selector = _JumpingSelector()
        selector.clock = self.clock
        super().__init__(selector)

    def time(self) -> float:
        return self.clock.nanoseconds / SECOND


@contextmanager
def virtual_loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    try:
        yield loop
    finally:
        loop.close()


@dataclass
class FakePeer:
    state: PeerState
    post_activity: bool = False
    keypair: dict[str, Any] | None = None
    prefixes: dict[tuple[bytes, int], None] = field(default_factory=dict)
    next_keypair: dict[str, Any] | None = None
    wanted: int | None = None


class FakePlane:
    has_threads = False

    def __init__(self, clock: Clock, *, address: SocketAddress | None = None, name: str = "fake0") -> None:
        self.clock = clock
        self.address = address or SocketAddress(bytes([10, 0, 0, 1]), 1000)
        self.name = name
        self.tier_reason = "fake"
        self.sharing_reason = ""
        self.routes_reason = ""
        self.trains_reason = ""
        self.counted = NO_STATS
        self.tier_reason = ""
        self.sends_trains = self.receives_trains = True
        self.closed = False
        self.loaded_until = 0
        self.other: FakePlane | None = None
        self.lossy: Callable[[bytes], bool] = lambda message: False
        self.calls: list[tuple[Any, ...]] = []
        self.sent: list[dict[str, Any]] = []
        self.fail: dict[str, Exception] = {}
        self.peers: dict[int, FakePeer] = {}
        self.indices: dict[int, int] = {}
        self.mac1_key: bytes | None = None
        self.cookie_key: bytes | None = None
        self.batches: list[CommandBatch] = []
        self.taken_ports = {53}
        self.port = address.port if address else 1000
        self._queue: deque[Event] = deque()
        # Polls like a TUN descriptor: writable while the interface is up.
        self._tun = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._next_peer = 7
        self._next_index = 100

    # ---- for tests ----

    def post(self, event: Event) -> None:
        self._queue.append(event)
        os.eventfd_write(self._eventfd, 1)

    def stamp(self, peer: int, **changes: Any) -> None:
        """Changes stamps as packets would. A peer with suspended timers posts ACTIVITY."""
        known = self.peers[peer]
        known.state = replace(known.state, **changes)
        relevant = changes.get("unanswered_since") or changes.get("owed_since")
        if known.post_activity and relevant:
            known.post_activity = False
            self.post(Event(EventKind.ACTIVITY, peer))

    def set_link(self, up: bool) -> None:
        """Like ``ip link set up`` and ``down`` without a netlink message."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._tun)
        if not up:
            os.eventfd_write(self._tun, 2**64 - 2)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == name]

    # ---- the interface of plane.Plane ----

    def _call(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name in self.fail:
            raise self.fail[name]

    def _peer(self, peer: int) -> FakePeer:
        try:
            return self.peers[peer]
        except KeyError:
            raise RingError(f"no peer {peer}", errno=errno.ENOENT) from None

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._eventfd)
            os.close(self._tun)

    def fileno(self) -> int:
        return self._eventfd

    def tun_fileno(self) -> int:
        return self._tun

    def events(self, maximum: int = 64) -> list[Event]:
        with suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        return [self._queue.popleft() for _ in range(min(maximum, len(self._queue)))]

    def bind(self, port: int, fwmark: int = 0) -> int:
        self._call("bind", port, fwmark)
        if port in self.taken_ports or (port and port == self.port):
            raise RingError(f"UDP port {port} is taken", errno=errno.EADDRINUSE)
        self.port = port or 40000
        return self.port

    def mark(self, fwmark: int) -> None:
        self._call("mark", fwmark)

    def identity(self, mac1_key: bytes | None, cookie_key: bytes | None) -> None:
        self._call("identity", mac1_key, cookie_key)
        self.mac1_key = mac1_key
        self.cookie_key = cookie_key

    def peer_add(self) -> int:
        self._call("peer_add")
        peer = self._next_peer
        self._next_peer += 1
        self.peers[peer] = FakePeer(PeerState(peer=peer))
        return peer

    def peer_remove(self, peer: int) -> None:
        self._call("peer_remove", peer)
        self._peer(peer)
        del self.peers[peer]

    def peers_add(self, count: int) -> list[int]:
        return [self.peer_add() for _ in range(count)]

    def peers_remove(self, peers: Sequence[int]) -> None:
        for peer in peers:
            self.peer_remove(peer)

    def apply_blocks(self, read: PeerBlocks, peers: Sequence[int]) -> bytes:
        self._call("apply_blocks", tuple(peers))
        outcomes = bytearray()
        for block, peer in zip(read.blocks(), peers, strict=False):
            known = self._peer(peer)
            before = known.state.endpoint, list(known.prefixes)
            if block.family:
                ip = block.ip[:4] if block.family == socket.AF_INET else block.ip
                self.endpoint(peer, SocketAddress(ip, block.port, block.scope_id))
            if block.flags & lib.UDPRING_BLOCK_REPLACE:
                self.prefixes_clear(peer)
            if allowed := read.allowed_ips(block):
                self.prefixes([Prefix(ip, bits, peer) for ip, bits in allowed])
            changed = before != (known.state.endpoint, list(known.prefixes))
            staged = bool(known.state.staged)
            outcomes.append(changed * lib.UDPRING_BLOCK_CHANGED | staged * lib.UDPRING_BLOCK_STAGED)
        return bytes(outcomes)

    def peers_text(self, settings: Sequence[bytes]) -> Iterator[bytes]:
        for packed in settings:
            yield from peer_lines(self._described(*SETTINGS.unpack(packed)))

    def _described(
        self, key: bytes, psk: bytes, seconds: int, nanoseconds: int, keepalive: int, peer: int, extra: bytes
    ) -> PeerInfo:
        state = self._peer(peer).state
        own = dict(line.split("=") for line in extra.rstrip(b"\0").decode().splitlines())
        end = state.endpoint
        return PeerInfo(
            key,
            psk,
            (end.ip, end.port, str(end.scope_id or "")) if end else None,
            seconds * SECOND + nanoseconds,
            state.tx_bytes,
            state.rx_bytes,
            keepalive,
            self.prefixes_list(peer),
            Cipher(own.get("cipher", Cipher.CHACHA20_POLY1305)),
            parse_offload(own.get("offload", "auto")),
        )

    def trains(self, peer: int, on: bool) -> None:
        self._call("trains", peer, on)
        self._peer(peer)

    def probe(self, peer: int) -> None:
        self._call("probe", peer)

    def trains_lost(self, peer: int, lost: bool) -> None:
        self._call("trains_lost", peer, lost)

    def endpoint(self, peer: int, address: SocketAddress) -> None:
        self._call("endpoint", peer, address)
        if address.scope_id >> 32:
            raise OverflowError("as cffi")
        known = self._peer(peer)
        known.state = replace(known.state, endpoint=address, source=None)

    def watch_roaming(self, on: bool) -> None:
        self._call("watch_roaming", on)

    def load_until(self) -> int:
        return self.loaded_until

    def source_clear(self, peer: int) -> None:
        self._call("source_clear", peer)

    def prefixes(self, prefixes: list[Prefix]) -> None:
        self._call("prefixes", len(prefixes))
        for prefix in prefixes:
            key = (prefix.network, prefix.cidr)
            owner = self._peer(prefix.peer)
            if prefix.remove:
                owner.prefixes.pop(key, None)
                continue
            if prefix.claim and any(
                key in peer.prefixes for peer in self.peers.values() if peer is not owner
            ):
                raise RingError(f"allowed IP {prefix}", errno=errno.EEXIST)
            for peer in self.peers.values():
                peer.prefixes.pop(key, None)
            owner.prefixes[key] = None

    def refuse(self, ip: bytes, nanoseconds: int) -> None:
        self._call("refuse", ip, nanoseconds)

    def under_load(self) -> None:
        self._call("under_load")

    def forget_refusals(self) -> None:
        self._call("forget_refusals")

    def prefixes_clear(self, peer: int) -> None:
        self._call("prefixes_clear", peer)
        self._peer(peer).prefixes.clear()

    def prefixes_list(self, peer: int) -> list[tuple[bytes, int]]:
        if "prefixes_list" in self.fail:
            raise self.fail["prefixes_list"]
        return sorted(self._peer(peer).prefixes, key=lambda prefix: (len(prefix[0]), prefix))

    def index_new(self, peer: int) -> int:
        self._next_index += 1
        self.indices[self._next_index] = peer
        return self._next_index

    def index_release(self, index: int) -> None:
        self._call("index_release", index)
        del self.indices[index]

    def keypair(self, peer: int, send_key: bytes, receive_key: bytes, **rest: Any) -> bool:
        self._call("keypair", peer, rest["initiator"])
        known = self._peer(peer)
        pair = {"send_key": send_key, "receive_key": receive_key, **rest}
        left = bool(rest["initiator"] and known.state.staged)
        if rest["initiator"]:
            self._use(known, pair)
        else:
            known.next_keypair = pair
        return left

    def _use(self, known: FakePeer, pair: dict[str, Any]) -> None:
        known.keypair = pair
        known.state = replace(known.state, session_birth=pair["birth"], send_counter=0, staged=0)

    def keys_erase(self, peer: int) -> None:
        self._call("keys_erase", peer)
        known = self._peer(peer)
        known.keypair = known.next_keypair = None
        known.state = replace(known.state, session_birth=0, send_counter=0)

    def keys_expire(self, peer: int) -> None:
        self._call("keys_expire", peer)

    def send(
        self, peer: int | None, message: bytes, *, tos: int = 0, to: SocketAddress | None = None, **way: Any
    ) -> None:
        self._call("send", peer, len(message))
        self.sent.append(
            {"peer": peer, "message": message, "tos": tos, "to": to, "at": self.clock.boot(), **way}
        )
        target = to
        if peer is not None:
            known = self._peer(peer)
            target = to or known.state.endpoint
            if target is None:
                raise RingError("no endpoint", errno=errno.EDESTADDRREQ)
            now = self.clock.boot()
            known.state = replace(
                known.state,
                last_sent=now,
                last_traversal=now,
                owed_since=0,
                tx_bytes=known.state.tx_bytes + len(message),
            )
        if self.other is not None and target == self.other.address and not self.lossy(message):
            self.other.arrive(message, self.address)

    def arrive(self, message: bytes, source: SocketAddress) -> None:
        owner = None
        if message[0] in (2, 3):
            offset = 8 if message[0] == 2 else 4
            owner = self.indices.get(int.from_bytes(message[offset : offset + 4], "little"))
            if owner is None:
                return
        self.post(Event(EventKind.HANDSHAKE, owner, message, source, self.address, 3, now=self.clock.boot()))

    def authenticated(
        self,
        peer: int,
        length: int,
        source: SocketAddress,
        local: SocketAddress | None,
        interface_index: int = 0,
    ) -> None:
        self._call("authenticated", peer, length, source, local, interface_index)
        known = self._peer(peer)
        now = self.clock.boot()
        known.state = replace(
            known.state,
            endpoint=source,
            source=local,
            last_received=now,
            last_traversal=now,
            unanswered_since=0,
            rx_bytes=known.state.rx_bytes + length,
        )

    def keepalive(self, peer: int) -> None:
        self._call("keepalive", peer)
        known = self._peer(peer)
        if known.keypair is None:
            now = self.clock.boot()
            if known.wanted is None or now - known.wanted >= WANTED_INTERVAL:
                known.wanted = now
                self.post(Event(EventKind.HANDSHAKE_WANTED, peer))
            raise RingError("no session", errno=errno.ENOKEY)
        now = self.clock.boot()
        known.state = replace(
            known.state,
            last_sent=now,
            last_traversal=now,
            owed_since=0,
            owed_again=False,
            send_counter=known.state.send_counter + 1,
        )
        if self.other is not None:
            self.other.hear_data(known.keypair["send_key"])

    def hear_data(self, key: bytes) -> None:
        """The other side's first packet with a key, which confirms a responder's session."""
        for number, known in self.peers.items():
            pair = known.next_keypair
            if pair is not None and pair["receive_key"] == key:
                known.next_keypair = None
                self._use(known, pair)
                self.post(Event(EventKind.KEY_CONFIRMED, number))
            now = self.clock.boot()
            known.state = replace(known.state, last_received=now, last_traversal=now, unanswered_since=0)

    def staged_drop(self, peer: int) -> None:
        self._call("staged_drop", peer)
        known = self._peer(peer)
        known.state = replace(known.state, staged=0)

    def peer_state(self, peer: int, *, post_activity: bool = False) -> PeerState:
        self._call("peer_state", peer, post_activity)
        known = self._peer(peer)
        if post_activity:
            known.post_activity = True
        return known.state

    def states_of(self, peers: Sequence[int], *, post_activity: bool = False) -> list[PeerState]:
        if not peers:
            return []
        self._call("states_of", tuple(peers), post_activity)
        present = [self.peers[peer] for peer in peers if peer in self.peers]
        for known in present:
            known.post_activity |= post_activity
        return [known.state for known in present]

    def batch(self) -> CommandBatch:
        self.batches.append(CommandBatch(self))
        return self.batches[-1]

    def peer_states(self) -> list[PeerState]:
        self._call("peer_states")
        return [known.state for known in self.peers.values()]

    def stats(self) -> PlaneStats:
        return self.counted
