"""Invariants for any network and any restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from udpring.wireguard.constants import REJECT_AFTER_TIME, REKEY_TIMEOUT

from .model_plane import STAGED_MAX
from .world import SECOND, Datagram, Violation, World

if TYPE_CHECKING:
    from .nodes import Life

#: Indices of one peer: three keypairs and a pending initiation.
INDICES_A_PEER = 4


class Oracles:
    """The invariants of all nodes of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violation = ""
        self.packets: list[tuple[int, int]] = []
        """Sender and receiver of each packet, by its number."""
        self.arrived: set[int] = set()
        self.handshakes = 0
        self._counters: dict[bytes, int] = {}
        self._keys: set[bytes] = set()

    def fail(self, text: str) -> None:
        """Records and raises a violation, because the control loop catches exceptions of its events."""
        self.violation = self.violation or text
        raise Violation(text)

    def check(self) -> None:
        if self.violation:
            raise Violation(self.violation)

    # ---- as things happen ----

    def key_installed(self, life: Life, send_key: bytes, receive_key: bytes) -> None:
        self.handshakes += 1
        if send_key in self._keys or send_key == receive_key:
            self.fail(f"node {life.number} has a sending key for the second time")
        self._keys.add(send_key)

    def sealed(self, life: Life, key: bytes, counter: int, age: int) -> None:
        if counter <= self._counters.get(key, -1):
            self.fail(f"node {life.number} uses nonce {counter} again")
        self._counters[key] = counter
        if age >= REJECT_AFTER_TIME:
            self.fail(f"node {life.number} sends on a key {age / SECOND:.1f} s old")

    def handshake_sent(self, life: Life, peer: int | None, message: bytes) -> None:
        if peer is None:
            return
        if self._world.trace is not None:
            self._world.say(f"node {life.number} sends {('', 'an initiation', 'a response')[message[0]]}")
        now = self._world.now
        if not life.link.up:
            self.fail(f"node {life.number} shakes hands while its interface is down")
        last = life.handshakes_sent.get(peer)
        if message[0] == 1 and last is not None and now - last < REKEY_TIMEOUT:
            self.fail(f"node {life.number} initiates {(now - last) / SECOND:.3f} s after a handshake message")
        life.handshakes_sent[peer] = now
        if message[0] == 1:
            life.initiations += 1
            life.stamped = max(life.stamped, life.clock.wall())

    def authenticated(self, life: Life, peer: int, datagram: Datagram) -> None:
        """An authentic message moves the endpoint at most once, and only of its author's peer."""
        message = (peer, datagram.origin)
        if message in life.accepted:
            self.fail(f"node {life.number} accepts a message twice")
        life.accepted.add(message)
        life.traversed()
        if life.who.get(peer) != datagram.sender.number:
            self.fail(f"node {life.number} takes a message of node {datagram.sender.number} for another's")

    opened = authenticated

    def delivered(self, life: Life, peer: int, packet: int) -> None:
        if packet in self.arrived:
            self.fail(f"packet {packet} is delivered twice")
        self.arrived.add(packet)
        sender, receiver = self.packets[packet]
        if receiver != life.number or life.who.get(peer) != sender:
            self.fail(f"packet {packet} of {sender} for {receiver} is delivered at {life.number}")
        if self._world.trace is not None:
            self._world.say(f"node {life.number} receives packet {packet}")

    # ---- after each action ----

    def bounded(self, lives: list[Life]) -> None:
        self.check()
        for life in lives:
            if life.dead:
                continue
            control: Any = life.tunnel.control
            peers = len(life.plane.peers)
            if control.stats.failures:
                self.fail(f"node {life.number}: an event or a timer failed: {life.node.reported}")
            if len(life.plane.indices) > INDICES_A_PEER * peers:
                self.fail(f"node {life.number} holds {len(life.plane.indices)} indices for {peers} peers")
            if len(control._deadlines) > peers or len(control._deadlines._heap) > 64 + 4 * peers + 1:
                self.fail(f"node {life.number} holds {len(control._deadlines._heap)} deadlines")
            if max((len(control._looks), len(control._seen), len(control._requested))) > peers:
                self.fail(f"node {life.number} remembers more peers than there are")
            if any(len(peer.staged) > STAGED_MAX for peer in life.plane.peers.values()):
                self.fail(f"node {life.number} stages more than {STAGED_MAX}")
            if life.loop.armed() > 1:
                self.fail(f"node {life.number} has {life.loop.armed()} timers armed")
