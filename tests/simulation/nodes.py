"""Nodes in a world, and what each action of a schedule does to them.

A ``Node`` is an identity: keys, address, configuration. A ``Life`` is one run of its program: plane,
protocol, control loop. A restart ends one life and begins another, which has only the configuration.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from udpring.tunnel.plane_values import SocketAddress
from udpring.tunnel.tunnel import Tunnel

from .model_plane import Came, ModelPlane
from .oracles import Oracles
from .schedule import Schedule
from .world import KIND_PATH, SECOND, START, WALL, Datagram, Loop, Path, World

#: How far wall clocks are set beyond the last timestamp of an earlier life, when they are right again.
CLOCK_MARGIN = 60 * SECOND


#: The longest time that a datagram is in flight.
SLOWEST = 5 * SECOND


class Clock:
    """The two clocks of one node."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.offset = WALL - START

    def boot(self) -> int:
        return self._world.now

    def wall(self) -> int:
        return self._world.now + self.offset


class Life:
    """One run of a node's program. The world knows it as the owner of scheduled work."""

    def __init__(self, node: Node) -> None:
        self.node, self.number = node, node.number
        self.world, self.oracles, self.rng, self.clock = node.world, node.oracles, node.rng, node.clock
        self.dead, self.deaf = False, False
        self.frozen_until = self.stalled_until = 0
        self.last_said = self.last_traversal = self.said = self.longest_silence = self.initiations = (
            self.stamped
        ) = 0
        self.who: dict[int, int] = {}
        """The node of each peer id."""
        self.handshakes_sent: dict[int, int] = {}
        self.accepted: set[tuple[int, int]] = set()
        """Messages accepted from a peer, by its id and the message's origin."""
        self.link: Any = None
        self.loop = Loop(self.world)
        self.loop.owner = self
        self.plane = ModelPlane(self, real_crypto=node.real_crypto)
        self.tunnel = Tunnel(
            self.plane,  # type: ignore[arg-type]
            loop=self.loop,  # type: ignore[arg-type]
            clock=self.clock,  # type: ignore[arg-type]
            random=self.rng.randbytes,
        )
        self.tunnel.set_private_key(node.private)
        self.tunnel.control.start()
        for other in node.peers:
            self.add(other)

    def traversed(self) -> None:
        """An authentic message, in or out."""
        now = self.world.now
        self.longest_silence = max(self.longest_silence, now - self.last_traversal)
        self.last_traversal = now

    @property
    def address(self) -> SocketAddress:
        return self.node.address

    def add(self, other: int) -> None:
        """The peer as in the node's configuration, in the order of a UAPI request."""
        known, tunnel = self.node.peers[other], self.tunnel
        if tunnel.is_own(known.key) or tunnel.find(known.key) is not None:
            return
        peer = tunnel.add_peer(known.key)
        self.who[peer] = other
        tunnel.set_preshared_key(peer, known.psk)
        if known.endpoint is not None:
            tunnel.set_endpoint(peer, known.endpoint)
        tunnel.set_keepalive(peer, known.keepalive)
        tunnel.start_peer(peer)

    def peer(self, other: int) -> int | None:
        return self.tunnel.find(self.node.peers[other].key) if other in self.node.peers else None

    def remove(self, other: int) -> None:
        self.remove_key(self.node.peers[other].key)

    def remove_key(self, key: bytes) -> None:
        peer = self.tunnel.find(key)
        if peer is not None:
            # Removing the peer forgets the timestamps sent to it.
            self.node.stamped = max(self.node.stamped, self.stamped)
            self.tunnel.remove_peer(peer)
            self.handshakes_sent.pop(peer, None)

    def end(self) -> None:
        self.dead = True
        self.node.stamped = max(self.node.stamped, self.stamped)
        self.loop.reader = None


class Known:
    """A peer in a node's configuration."""

    def __init__(self, key: bytes, endpoint: SocketAddress | None, keepalive: int) -> None:
        self.key, self.endpoint, self.keepalive = key, endpoint, keepalive
        self.psk: bytes | None = None


class Node:
    """A node's identity over all its lives."""

    def __init__(self, world: World, oracles: Oracles, number: int, noise: Any, *, real_crypto: bool) -> None:
        self.world, self.oracles, self.number = world, oracles, number
        self.real_crypto = real_crypto
        self.rng = random.Random(world.rng.getrandbits(64))
        self.clock = Clock(world)
        self.noise = noise
        self.peers: dict[int, Known] = {}
        self.moves = 0
        self.address = self._address()
        self.interface_up = True
        self.stamped = 0
        """The latest wall time in an initiation of an earlier life, which a peer may remember."""
        self.reported = ""
        self.private = self.public = b""
        self.choose_key()

    def choose_key(self) -> None:
        """A new one, which no other node knows yet."""
        self.private = self.rng.randbytes(32)
        self.public = self.noise.StaticKey(self.private).public

    def _address(self) -> SocketAddress:
        return SocketAddress(bytes((10, self.number, self.moves >> 8, self.moves & 255)), 51820)

    def begin(self) -> None:
        self.life = Life(self)
        self.world.at[self.address] = self.life

    def move(self) -> None:
        del self.world.at[self.address]
        self.moves += 1
        self.address = self._address()
        self.world.at[self.address] = self.life


class Simulation:
    """One run of a schedule. Methods without underscore are actions."""

    def __init__(self, schedule: Schedule, noise: Any, trace: list[str] | None = None) -> None:
        self.schedule = schedule
        self.world = World(schedule.seed, trace)
        self.oracles = Oracles(self.world)
        self.nodes = [
            Node(self.world, self.oracles, number, noise, real_crypto=schedule.real_crypto)
            for number in range(schedule.nodes)
        ]
        for (i, j), known, alive in zip(schedule.pairs, schedule.known, schedule.keepalives, strict=True):
            one, other = self.nodes[i], self.nodes[j]
            one.peers[j] = Known(other.public, other.address, alive[0])
            other.peers[i] = Known(one.public, one.address if known else None, alive[1])
        for node in self.nodes:
            node.begin()

    def lives(self) -> list[Life]:
        return [node.life for node in self.nodes]

    # ---- actions ----

    def send(self, here: int, there: int, count: int) -> None:
        life = self.nodes[here].life
        peer = life.peer(there)
        if not self._up(life) or peer is None or not life.node.interface_up:
            return
        for _ in range(count):
            self.oracles.packets.append((here, there))
            life.plane.outbound(peer, len(self.oracles.packets) - 1)

    def path(self, loss: float, twice: float, least: int, most: int) -> None:
        self.world.path = Path(loss, twice, least, most)

    def part(self, here: int, there: int, apart: bool) -> None:
        pair = frozenset((here, there))
        (self.world.parted.add if apart else self.world.parted.discard)(pair)

    def restart(self, here: int, down: int) -> None:
        node = self.nodes[here]
        if node.life.dead:
            return
        node.life.end()
        self.world.push(self.world.now + down, None, self._begin, node)

    def _begin(self, node: Node) -> None:
        if node.life.dead:
            node.begin()

    def suspend(self, here: int, duration: int, deaf: bool, asleep: bool) -> None:
        """``deaf``: incoming datagrams are lost. ``asleep``: the machine sleeps, and CLOCK_MONOTONIC stands
        still."""
        life = self.nodes[here].life
        if life.frozen_until > self.world.now:
            return
        life.frozen_until = self.world.now + duration
        life.deaf = deaf
        if asleep:
            life.loop.machine_sleeps(duration)

    def interface(self, here: int, duration: int) -> None:
        """`ip link set down`, and up again."""
        self._set_interface((here, False))
        self.world.push(self.world.now + duration, None, self._set_interface, (here, True))

    def _set_interface(self, what: tuple[int, bool]) -> None:
        node = self.nodes[what[0]]
        node.interface_up = what[1]
        life = node.life
        # work in progress is forgotten, and the next handshake may begin at once
        life.handshakes_sent.clear()
        self.world.push(max(self.world.now, life.stalled_until), life, lambda _: life.link.look(), None)

    def stall(self, here: int, duration: int) -> None:
        """The event loop gets no turn. Packets move anyway."""
        life = self.nodes[here].life
        life.stalled_until = max(life.stalled_until, self.world.now + duration)

    def clock(self, here: int, step: int) -> None:
        self.nodes[here].clock.offset += step

    def move(self, here: int) -> None:
        self.nodes[here].move()

    def readd(self, here: int, there: int, later: int) -> None:
        life = self.nodes[here].life
        if not self._up(life):
            return
        life.remove(there)
        self.world.push(self.world.now + later, life, self._add_again, (life, there))

    def _add_again(self, what: tuple[Life, int]) -> None:
        what[0].add(what[1])

    def new_key(self, here: int, reported: bool) -> None:
        node = self.nodes[here]
        if not self._up(node.life):
            return
        node.choose_key()
        node.life.handshakes_sent.clear()
        node.life.tunnel.set_private_key(node.private)
        if reported:
            for other in node.peers:
                self._learn(other, here)

    def no_key(self, here: int, duration: int) -> None:
        """Removes the private key for a while."""
        life = self.nodes[here].life
        if self._up(life):
            life.handshakes_sent.clear()
            life.tunnel.set_private_key(None)
            self.world.push(self.world.now + duration, life, self._key_again, life)

    def _key_again(self, life: Life) -> None:
        life.tunnel.set_private_key(life.node.private)

    def _learn(self, here: int, there: int) -> None:
        """``here`` gets the current public key of ``there``."""
        node, known = self.nodes[here], self.nodes[here].peers[there]
        old, known.key = known.key, self.nodes[there].public
        if old == known.key:
            return
        life = node.life

        def change(_: None) -> None:
            life.remove_key(old)
            life.add(there)

        self.world.push(self.world.now, life, change, None)

    def new_psk(self, here: int, there: int, both: bool) -> None:
        psk = self.world.rng.randbytes(32)
        for one, other in ((here, there), (there, here)) if both else ((here, there),):
            self._set_psk(one, other, psk)

    def _set_psk(self, here: int, there: int, psk: bytes | None) -> None:
        life = self.nodes[here].life
        self.nodes[here].peers[there].psk = psk
        self._tell(life, there, lambda peer: life.tunnel.set_preshared_key(peer, psk))

    def keepalive(self, here: int, there: int, seconds: int) -> None:
        life = self.nodes[here].life
        self.nodes[here].peers[there].keepalive = seconds
        self._tell(life, there, lambda peer: life.tunnel.set_keepalive(peer, seconds))

    def _tell(self, life: Life, there: int, setting: Callable[[int], None]) -> None:
        """Changes a peer as soon as its node runs. A stopped node reads its configuration later."""

        def change(_: None) -> None:
            peer = life.peer(there)
            if peer is not None:
                setting(peer)

        self.world.push(self.world.now, life, change, None)

    def load(self, here: int, duration: int) -> None:
        self.nodes[here].life.plane.under_load_until = self.world.now + duration

    def replay(self, which: int, to: int, elsewhere: bool) -> None:
        """An attacker on the path replays an old message, perhaps from an address of its own."""
        if which >= len(self.world.log):
            return
        old = self.world.log[which]
        source = SocketAddress(bytes((192, 0, 2, 1)), 7) if elsewhere else old.source
        again = Datagram(old.message, source, self.nodes[to].address, old.origin, old.sender)
        self.world.push(self.world.now, None, self.world.arrive, again)

    # ---- the run ----

    def _up(self, life: Life) -> bool:
        return not life.dead and life.frozen_until <= self.world.now

    def act(self) -> None:
        """All actions, each at its time."""
        world, lives = self.world, self.lives
        for gap, name, *arguments in self.schedule.actions:
            world.run_until(world.now + gap)
            self.oracles.bounded(lives())
            if world.trace is not None:
                world.say(f"{name} {arguments}")
            getattr(self, name)(*arguments)
        self.oracles.bounded(lives())

    def make_kind(self) -> None:
        """The network heals, all nodes run, clocks are right, and configurations match."""
        world = self.world
        world.say("all is well from now on")
        world.path = KIND_PATH
        world.parted.clear()
        for node in self.nodes:
            self._begin(node)
            self._set_interface((node.number, True))
        world.run_until(max(max(each.frozen_until, each.stalled_until, world.now) for each in self.lives()))
        world.run_until(
            world.now + SLOWEST
        )  # a datagram in flight may still move an endpoint to an address without a node
        for life in self.lives():
            self._key_again(life)
        for i, j in self.schedule.pairs:
            for here, there in ((i, j), (j, i)):
                self._learn(here, there)
                self._set_psk(here, there, self.nodes[i].peers[j].psk)
                self.keepalive(here, there, self.nodes[here].peers[there].keepalive)
        world.run_until(world.now)
        for node in self.nodes:
            if node.stamped > node.clock.wall():
                node.clock.offset = node.stamped + CLOCK_MARGIN - world.now
            node.life.plane.under_load_until = 0
        for i, j in self.schedule.pairs:
            for here, there in ((i, j), (j, i)):
                life = self.nodes[here].life
                if life.peer(there) is None:
                    life.add(there)
            self._meet(i, j)

    def finds(self, here: int, there: int) -> bool:
        """Whether ``here`` knows the endpoint of ``there``."""
        life = self.nodes[here].life
        peer = life.peer(there)
        assert peer is not None
        return life.plane.peers[peer].endpoint == self.nodes[there].address

    def waiting(self, here: int, there: int) -> int:
        """The number of packets of ``here`` staged for ``there``."""
        life = self.nodes[here].life
        peer = life.peer(there)
        return 0 if peer is None else len(life.plane.peers[peer].staged)

    def _meet(self, i: int, j: int) -> None:
        """At least one of the two must know the other's endpoint."""
        if self.finds(i, j) or self.finds(j, i):
            return
        life = self.nodes[i].life
        peer = life.peer(j)
        assert peer is not None
        self.nodes[i].peers[j].endpoint = self.nodes[j].address
        life.tunnel.set_endpoint(peer, self.nodes[j].address)


__all__ = ["Came", "Life", "Node", "Simulation"]
