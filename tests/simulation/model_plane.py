"""The data plane as the control loop sees it: native/tunnel again in Python, without sockets.

    out:  TUN -> staged or sealed (outbound.c, staged.c)      in:  index -> time -> window -> tag (inbound.c)
    succession of keypairs (peer.c)      stamps and events (stamps.c, events.c)      commands (commands.c)

A data message is a tuple: ("data", receiver index, counter, key, packet). ``key`` stands for the tag: only an
owner of the key can open it. With ``real_crypto`` a real AEAD seals the packet as well.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence
from typing import Any

from reference.command_batch import CommandBatch
from reference.cookies import CookieIssuer
from reference.session import (
    REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME_RECEIVING,
    ReplayWindow,
)

from udpring.errors import RingError
from udpring.tunnel.plane_values import Event, EventKind, PeerState, Prefix, SocketAddress
from udpring.wireguard.constants import REJECT_AFTER_TIME, REKEY_AFTER_TIME
from udpring.wireguard.events import Source
from udpring.wireguard.noise import aead_of

from .world import SECOND, Datagram

STAGED_MAX = 128
WANTED_INTERVAL = SECOND // 2
KEEPALIVE = -1
"""The packet of a keepalive. Other packets are numbers from 0."""


class Came(SocketAddress):
    """A source address that records which message came from there."""

    __slots__ = ("datagram",)

    def __init__(self, datagram: Datagram) -> None:
        super().__init__(datagram.source.ip, datagram.source.port)
        object.__setattr__(self, "datagram", datagram)


class Keypair:
    __slots__ = (
        "aead_receive", "aead_send", "asked", "birth", "cipher", "counter", "initiator", "local", "may_send",
        "receive_key", "remote", "send_key", "window",
    )  # fmt: skip

    def __init__(self, send_key: bytes, receive_key: bytes, spec: dict[str, Any], real: bool) -> None:
        self.send_key, self.receive_key = send_key, receive_key
        self.local, self.remote = spec["local_index"], spec["remote_index"]
        self.initiator, self.birth, self.cipher = spec["initiator"], spec["birth"], spec["cipher"]
        self.counter = 0
        self.may_send, self.asked = True, False
        self.window = ReplayWindow()
        self.aead_send = aead_of(self.cipher, send_key) if real else None
        self.aead_receive = aead_of(self.cipher, receive_key) if real else None

    def can_send(self, now: int) -> bool:
        return self.may_send and now - self.birth < REJECT_AFTER_TIME and self.counter < REJECT_AFTER_MESSAGES


class Peer:
    __slots__ = (
        "current", "endpoint", "last_received", "last_sent", "last_traversal", "next", "number", "owed_again",
        "owed_since", "post_activity", "previous", "staged", "unanswered_since", "wanted",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.endpoint: SocketAddress | None = None
        self.previous: Keypair | None = None
        self.current: Keypair | None = None
        self.next: Keypair | None = None
        self.staged: deque[int] = deque()
        self.unanswered_since = self.owed_since = 0
        self.last_traversal = self.last_received = self.last_sent = 0
        self.wanted = 0
        self.owed_again = self.post_activity = False

    def keypairs(self) -> list[Keypair]:
        return [each for each in (self.previous, self.current, self.next) if each]


class ModelPlane:
    """The interface of ``plane.Plane`` that Tunnel and Control use, and the two paths of packets."""

    has_threads = False

    def __init__(self, node: Any, *, real_crypto: bool) -> None:
        self.node = node
        self.world = node.world
        self.real = real_crypto
        self.name, self.port = f"node{node.number}", 51820
        self.peers: dict[int, Peer] = {}
        self.indices: dict[int, tuple[int, Keypair | None]] = {}
        self.has_identity = False
        self._macs: dict[str, bytes] = {}
        self._issuer = CookieIssuer(node.rng.randbytes)
        self.under_load_until = 0
        self.dropped = 0
        self._queue: deque[Event] = deque()
        self._woken = False
        self._next_peer = 1

    # ---- events ----

    def fileno(self) -> int:
        return 0

    def tun_fileno(self) -> Any:
        return self.node

    def events(self, maximum: int = 64) -> list[Event]:
        queue = self._queue
        return [queue.popleft() for _ in range(min(maximum, len(queue)))]

    def _post(self, event: Event) -> None:
        self._queue.append(event)
        if not self._woken:
            self._woken = True
            node = self.node
            self.world.push(max(self.world.now, node.stalled_until), node, self._wake, None)

    def _wake(self, _: None) -> None:
        if self.world.now < self.node.stalled_until:
            self.world.push(self.node.stalled_until, self.node, self._wake, None)
            return
        self._woken = False
        if self.node.loop.reader is not None:
            self.node.loop.reader()

    # ---- commands ----

    def _peer(self, number: int) -> Peer:
        try:
            return self.peers[number]
        except KeyError:
            raise RingError(f"no peer {number}", errno=errno.ENOENT) from None

    def close(self) -> None:
        self.peers.clear()

    def watch_roaming(self, on: bool) -> None:
        pass

    def load_until(self) -> int:
        return self.under_load_until

    def identity(self, mac1_key: bytes | None, cookie_key: bytes | None) -> None:
        self.has_identity = mac1_key is not None
        self._macs = {"mac1_key": mac1_key or b"", "cookie_key": cookie_key or b""}

    def peer_add(self) -> int:
        number = self._next_peer
        self._next_peer += 1
        self.peers[number] = Peer(number)
        return number

    def peer_remove(self, number: int) -> None:
        peer = self._peer(number)
        self.keys_erase(number)
        for index in [index for index, (owner, _) in self.indices.items() if owner == number]:
            del self.indices[index]
        del self.peers[peer.number]

    def endpoint(self, number: int, address: SocketAddress) -> None:
        self._peer(number).endpoint = address

    def prefixes(self, prefixes: list[Prefix]) -> None:
        pass

    def index_new(self, number: int) -> int:
        while (index := self.node.rng.getrandbits(32)) in self.indices:
            pass
        self.indices[index] = (number, None)
        return index

    def index_release(self, index: int) -> None:
        if index not in self.indices or self.indices[index][1] is not None:
            self.node.oracles.fail(f"index {index:#x} is released, which is free or a keypair's")
        del self.indices[index]

    def keypair(self, number: int, send_key: bytes, receive_key: bytes, **spec: Any) -> bool:
        peer = self._peer(number)
        index = spec["local_index"]
        if self.indices.get(index) != (number, None):
            self.node.oracles.fail(f"a keypair with index {index:#x}, which is not this peer's or has one")
        self.node.oracles.key_installed(self.node, send_key, receive_key)
        fresh = Keypair(send_key, receive_key, spec, self.real)
        self.indices[index] = (number, fresh)
        if fresh.initiator:
            self._free(peer.previous)
            if peer.next:
                self._free(peer.current)
                peer.previous, peer.next = peer.next, None
            else:
                peer.previous = peer.current
            peer.current = fresh
        else:
            self._free(peer.next)
            self._free(peer.previous)
            peer.previous, peer.next = None, fresh
        peer.wanted = 0
        return fresh.initiator and self._release_staged(peer)

    def _free(self, keypair: Keypair | None) -> None:
        if keypair is not None:
            del self.indices[keypair.local]

    def keys_erase(self, number: int) -> None:
        peer = self._peer(number)
        for each in peer.keypairs():
            self._free(each)
        peer.previous = peer.current = peer.next = None
        peer.wanted = 0

    def keys_expire(self, number: int) -> None:
        peer = self._peer(number)
        self._free(peer.next)
        peer.next = None
        if peer.current:
            peer.current.may_send = False
        peer.wanted = 0

    def source_clear(self, number: int) -> None:
        self._peer(number)

    def staged_drop(self, number: int) -> None:
        self._drop_staged(self._peer(number))
        self._peer(number).wanted = 0

    def send(
        self, number: int | None, message: bytes, *, tos: int = 0, to: SocketAddress | None = None, **way: Any
    ) -> None:
        peer = None if number is None else self._peer(number)
        if to is None:
            assert peer is not None
            if peer.endpoint is None:
                raise RingError("no endpoint", errno=errno.EDESTADDRREQ)
            to = peer.endpoint
        elif isinstance(to, Came):
            to = to.datagram.source
        self.node.oracles.handshake_sent(self.node, number, message)
        self.world.send(self.node, message, to)
        if peer is not None:
            self._stamp_sent(peer, data=False)

    def authenticated(
        self,
        number: int,
        length: int,
        source: SocketAddress,
        local: SocketAddress | None,
        interface_index: int = 0,
    ) -> None:
        peer = self._peer(number)
        assert isinstance(source, Came)
        self.node.oracles.authenticated(self.node, number, source.datagram)
        peer.endpoint = source.datagram.source
        self._stamp_received(peer)

    def keepalive(self, number: int) -> None:
        peer = self._peer(number)
        if peer.endpoint is None:
            raise RingError("no endpoint", errno=errno.EDESTADDRREQ)
        now = self.world.now
        again = peer.owed_since and peer.owed_again
        if not peer.staged:
            self._stage(peer, KEEPALIVE)
        elif peer.current and peer.current.can_send(now):
            self._release_staged(peer)
        else:
            self._want_handshake(peer)
        if peer.staged and not (peer.current and peer.current.can_send(now)):
            raise RingError("no session", errno=errno.ENOKEY)
        if again:
            peer.owed_since = now
            self._post_activity(peer)

    def peer_state(self, number: int, *, post_activity: bool = False) -> PeerState:
        peer = self._peer(number)
        peer.post_activity = post_activity
        return self._state(peer)

    def states_of(self, numbers: Sequence[int], *, post_activity: bool = False) -> list[PeerState]:
        return [
            self.peer_state(number, post_activity=post_activity) for number in numbers if number in self.peers
        ]

    def batch(self) -> CommandBatch:
        return CommandBatch(self)

    def peer_states(self) -> list[PeerState]:
        return [self._state(peer) for peer in self.peers.values()]

    def _state(self, peer: Peer) -> PeerState:
        current = peer.current
        return PeerState(
            peer=peer.number,
            staged=len(peer.staged),
            unanswered_since=peer.unanswered_since,
            owed_since=peer.owed_since,
            owed_again=peer.owed_again,
            last_traversal=peer.last_traversal,
            last_received=peer.last_received,
            last_sent=peer.last_sent,
            session_birth=current.birth if current else 0,
            send_counter=current.counter if current else 0,
            endpoint=peer.endpoint,
        )

    # ---- out ----

    def outbound(self, number: int, packet: int) -> None:
        """A packet from the TUN device for this peer."""
        peer = self.peers.get(number)
        if peer is None or peer.endpoint is None:
            self.dropped += 1
        elif peer.current and not peer.staged and peer.current.can_send(self.world.now):
            self._seal(peer, packet)
        else:
            self._stage(peer, packet)

    def _stage(self, peer: Peer, packet: int) -> None:
        if len(peer.staged) == STAGED_MAX:
            peer.staged.popleft()
            self.dropped += 1
        peer.staged.append(packet)
        self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        if not peer.staged:
            return
        if peer.endpoint is None:
            self._drop_staged(peer)
            return
        while peer.staged and peer.current and peer.current.can_send(self.world.now):
            self._seal(peer, peer.staged.popleft())
        if peer.staged:
            self._want_handshake(peer)

    def _release_staged(self, peer: Peer) -> bool:
        before = len(peer.staged)
        self._flush(peer)
        return len(peer.staged) < before

    def _drop_staged(self, peer: Peer) -> None:
        self.dropped += len(peer.staged)
        peer.staged.clear()

    def _seal(self, peer: Peer, packet: int) -> None:
        keypair = peer.current
        assert keypair is not None
        assert peer.endpoint is not None
        now = self.world.now
        counter = keypair.counter
        keypair.counter += 1
        self.node.oracles.sealed(self.node, keypair.send_key, counter, now - keypair.birth)
        if keypair.aead_send is not None:
            body: Any = keypair.aead_send.encrypt(
                keypair.cipher.nonce(counter), packet.to_bytes(8, "big", signed=True), None
            )
        else:
            body = packet
        self.world.send(self.node, ("data", keypair.remote, counter, keypair.send_key, body), peer.endpoint)
        self._stamp_sent(peer, data=packet != KEEPALIVE)
        if counter >= REKEY_AFTER_MESSAGES or (keypair.initiator and now - keypair.birth >= REKEY_AFTER_TIME):
            self._want_handshake(peer)

    def _want_handshake(self, peer: Peer) -> None:
        now = self.world.now
        if peer.wanted and now - peer.wanted < WANTED_INTERVAL:
            return
        peer.wanted = now
        self._post(Event(EventKind.HANDSHAKE_WANTED, peer.number))

    # ---- in ----

    def receive(self, datagram: Datagram) -> None:
        message = datagram.message
        if isinstance(message, tuple):
            self._data(datagram, *message[1:])
        elif message[0] in (1, 2, 3):
            self._handshake(datagram, message)

    def _handshake(self, datagram: Datagram, message: bytes) -> None:
        if not self.has_identity:
            return
        owner = None
        if message[0] != 1:
            offset = 8 if message[0] == 2 else 4
            entry = self.indices.get(int.from_bytes(message[offset : offset + 4], "little"))
            if entry is None:
                return
            owner = entry[0]
        source = Came(datagram)
        under_load = message[0] != 3 and self.world.now < self.under_load_until
        if under_load:
            sender = Source(source.ip, source.port)
            reply = self._issuer.demand(message, sender, self.world.now, **self._macs)
            if reply is not None:
                self.send(None, reply, to=source)
                return
        self._post(Event(EventKind.HANDSHAKE, owner, message, source, self.node.address, 1, under_load))

    def _data(self, datagram: Datagram, index: int, counter: int, key: bytes, body: Any) -> None:
        entry = self.indices.get(index)
        keypair = entry[1] if entry else None
        if entry is None or keypair is None:
            self.dropped += 1
            return
        peer, now = self.peers[entry[0]], self.world.now
        if now - keypair.birth >= REJECT_AFTER_TIME or not keypair.window.check(counter):
            self.dropped += 1
            return
        if key != keypair.receive_key:
            self.dropped += 1
            return
        packet = body
        if keypair.aead_receive is not None:
            opened = keypair.aead_receive.decrypt(keypair.cipher.nonce(counter), body, None)
            packet = int.from_bytes(opened, "big", signed=True)
        keypair.window.update(counter)
        self.node.oracles.opened(self.node, entry[0], datagram)
        if peer.endpoint != datagram.source:
            peer.endpoint = datagram.source
        asks = (
            keypair is peer.current
            and keypair.initiator
            and now - keypair.birth >= REKEY_AFTER_TIME_RECEIVING
        )
        if asks and not keypair.asked:
            keypair.asked = True
            self._want_handshake(peer)
        self._stamp_received(peer)
        if keypair is peer.next:
            self._free(peer.previous)
            peer.previous, peer.current, peer.next = peer.current, peer.next, None
            self._post(Event(EventKind.KEY_CONFIRMED, peer.number))
            self._release_staged(peer)
        if packet == KEEPALIVE:
            return
        if peer.owed_since:
            peer.owed_again = True
        else:
            peer.owed_since = now
            self._post_activity(peer)
        if self.node.node.interface_up:
            self.node.oracles.delivered(self.node, peer.number, packet)

    # ---- stamps ----

    def _stamp_sent(self, peer: Peer, *, data: bool) -> None:
        now = self.world.now
        peer.last_sent = peer.last_traversal = now
        peer.owed_since = 0
        peer.owed_again = False
        if data and not peer.unanswered_since:
            peer.unanswered_since = now
            self._post_activity(peer)

    def _stamp_received(self, peer: Peer) -> None:
        peer.last_received = peer.last_traversal = self.world.now
        peer.unanswered_since = 0

    def _post_activity(self, peer: Peer) -> None:
        if peer.post_activity:
            peer.post_activity = False
            self._post(Event(EventKind.ACTIVITY, peer.number))
