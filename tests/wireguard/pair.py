"""Two devices on a virtual clock and network, each with a substitute for the data plane.

    a.send() -> FakePlane stages or seals -> Network delays, loses, reorders -> FakePlane opens, stamps,
             posts events -> the control loop calls Device/Peer -> outcomes are executed in order

``FakePlane`` keeps the state of the C plane: keypairs, staged packets, stamps, endpoint, receiver indices.
Nothing sleeps: ``Pair.run`` jumps from one deadline or arrival to the next.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from reference.cookies import COOKIE_REQUIRED, CookieIssuer
from reference.session import Session, TransportDrop

from udpring.wireguard import constants, events
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import SECOND
from udpring.wireguard.cookie import MacSigner
from udpring.wireguard.device import Device
from udpring.wireguard.events import DropReason, Outcome, PeerStamps, Source
from udpring.wireguard.handshake import Identity
from udpring.wireguard.messages import TYPE_TRANSPORT, pack_initiation
from udpring.wireguard.noise import Initiator, StaticKey
from udpring.wireguard.peer import Peer

MILLISECOND = constants.MILLISECOND
WALL = 1_800_000_000 * SECOND
LATENCY = 10 * MILLISECOND


def ip_packet(number: int = 0, length: int = 60) -> bytes:
    """An IPv4 packet that contains its number."""
    header = bytes((0x45, 0)) + length.to_bytes(2, "big") + bytes(16)
    return header + number.to_bytes(8, "big").ljust(length - 20, b"\0")


def forge_initiation(
    private: bytes,
    to: bytes,
    *,
    timestamp: bytes,
    sender: int = 0x01020304,
    ephemeral: bytes = bytes(range(32)),
    cipher: Cipher = Cipher.CHACHA20_POLY1305,
) -> bytes:
    """An initiation from the owner of ``private`` to the owner of public key ``to``, with any timestamp and
    no mac2."""
    initiator = Initiator(StaticKey(private), to, prologue=cipher.prologue, cipher=cipher)
    body = initiator.write_initiation(ephemeral, timestamp)
    return MacSigner(to).sign(pack_initiation(sender, body, cipher), 0)


def with_mac1(to: bytes, message: bytes) -> bytes:
    """The message with a new valid mac1 and zero mac2. Anybody who knows the public key can do this."""
    return MacSigner(to).sign(message[:-32], 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000 * SECOND
        self.wall_offset = WALL

    @property
    def wall(self) -> int:
        return self.now + self.wall_offset


@dataclass(order=True)
class Datagram:
    at: int
    number: int
    data: bytes = field(compare=False)
    source: Source = field(compare=False)
    to: Source = field(compare=False)


class Network:
    """Carries datagrams between nodes by address. ``drop`` decides which are lost, ``delay`` how long they
    take."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.nodes: dict[tuple[bytes, int], Node] = {}
        self.queue: list[Datagram] = []
        self.numbers = itertools.count()
        self.drop: Callable[[Datagram], bool] = lambda datagram: False
        self.delay: Callable[[Datagram], int] = lambda datagram: LATENCY
        self.alter: Callable[[bytes], bytes] = lambda data: data
        """Rewrites a message on the path."""
        self.log: list[Datagram] = []
        """Every datagram sent, lost or not."""

    def send(self, data: bytes, source: Source, to: Source) -> None:
        datagram = Datagram(self.clock.now, next(self.numbers), data, source, to)
        self.log.append(datagram)
        if not self.drop(datagram):
            arrives = self.clock.now + self.delay(datagram)
            heapq.heappush(self.queue, replace(datagram, at=arrives, data=self.alter(data)))

    def deliver_due(self) -> None:
        while self.queue and self.queue[0].at <= self.clock.now:
            datagram = heapq.heappop(self.queue)
            node = self.nodes.get((datagram.to.ip, datagram.to.port))
            if node is not None:
                node.datagram(datagram.data, datagram.source)

    def sent(self, kind: int | None = None, *, since: int = 0, by: Node | None = None) -> list[Datagram]:
        return [
            datagram
            for datagram in self.log
            if datagram.at >= since
            and (kind is None or datagram.data[0] == kind)
            and (by is None or datagram.source == by.address)
        ]


class FakePlane:
    """The plane's state of one peer."""

    def __init__(self) -> None:
        self.session = Session()
        self.state = PeerStamps()
        self.staged: list[bytes] = []
        self.endpoint: Source | None = None
        self.sources_cleared = 0

    def stamp(self, **changes: int | bool) -> None:
        self.state = replace(self.state, **changes)

    def view(self) -> PeerStamps:
        current = self.session.current
        return replace(
            self.state,
            session_birth=current.birth if current else 0,
            send_counter=current.counter if current else 0,
            endpoint=self.endpoint,
        )


class Node:
    """One end: a Device, its planes and the control loop between them."""

    def __init__(
        self,
        network: Network,
        name: str,
        address: Source,
        *,
        seed: int = 1,
        identity: Callable[[bytes], Identity] = StaticKey,
    ) -> None:
        self.network = network
        self.clock = network.clock
        self.name = name
        self.address = address
        self.rng = random.Random(f"{name} {seed}")
        self.indices: dict[int, int] = {}
        self.device = Device(random=self.rng.randbytes, indices=self, identity=identity)
        self.planes: dict[int, FakePlane] = {}
        self.received: list[bytes] = []
        self.outcomes: list[Outcome] = []
        self.counts: Counter[str] = Counter()
        self.drops: Counter[str] = Counter()
        self.issuer = CookieIssuer(self.rng.randbytes)
        self.under_load = False
        network.nodes[address.ip, address.port] = self

    # ---- IndexTable ----

    def new(self, peer: int) -> int:
        while (index := self.rng.getrandbits(32)) in self.indices:
            pass
        self.indices[index] = peer
        return index

    # ---- set-up ----

    def identity(self, private_key: bytes) -> None:
        self.carry_out(self.device.set_private_key(private_key, self.clock.now))

    def add(self, number: int, public_key: bytes, endpoint: Source | None = None) -> Peer:
        self.planes[number] = FakePlane()
        self.planes[number].endpoint = endpoint
        return self.device.add_peer(number, public_key, self.clock.now)

    def set_cipher(self, number: int, cipher: Cipher) -> None:
        self.carry_out(self.device.set_cipher(number, cipher, self.clock.now))

    @property
    def peer(self) -> Peer:
        return next(iter(self.device.by_id.values()))

    @property
    def plane(self) -> FakePlane:
        return self.planes[self.peer.id]

    def move(self, address: Source) -> None:
        """This end gets another address. The other end has to discover it."""
        del self.network.nodes[self.address.ip, self.address.port]
        self.address = address
        self.network.nodes[address.ip, address.port] = self

    # ---- sending ----

    def send(self, packet: bytes, number: int | None = None) -> None:
        """A packet from the TUN device."""
        number = self.peer.id if number is None else number
        plane = self.planes[number]
        plane.staged.append(packet)
        del plane.staged[:-128]
        self._flush(number)

    def _flush(self, number: int) -> bool:
        """Sends the staged packets. Returns whether anything was sent."""
        plane = self.planes[number]
        now = self.clock.now
        if plane.session.rekey_due(now):
            self._event_wanted(number)
        sent = False
        while plane.staged:
            message = plane.session.seal(plane.staged[0], now)
            if message is None:
                break
            packet = plane.staged.pop(0)
            self._to_peer(number, message)
            plane.stamp(last_sent=now, last_traversal=now, owed_since=0, owed_again=False)
            if packet and not plane.state.unanswered_since:
                plane.stamp(unanswered_since=now)
            sent = True
        return sent

    def _to_peer(self, number: int, data: bytes) -> None:
        endpoint = self.planes[number].endpoint
        if endpoint is not None:
            self.network.send(data, self.address, endpoint)

    def _event_wanted(self, number: int) -> None:
        peer = self.device.by_id.get(number)
        if peer is not None:
            self.carry_out(peer.handshake_wanted(self.clock.now, self.clock.wall))

    # ---- receiving ----

    def datagram(self, data: bytes, source: Source) -> None:
        if data and data[0] == TYPE_TRANSPORT:
            self._transport(data, source)
        else:
            self.handshake(data, source)

    def handshake(self, data: bytes, source: Source) -> list[Outcome]:
        offset = {2: 8, 3: 4}.get(data[0] if data else 0, -1)
        owner = self.indices.get(int.from_bytes(data[offset : offset + 4], "little")) if offset >= 0 else None
        now = self.clock.now
        if self.under_load and (reply := self._cookie_reply(data, source)):
            self.network.send(reply, self.address, source)
            self.drops[COOKIE_REQUIRED] += 1
            return []
        outcomes = self.device.receive(
            data,
            source,
            owner,
            under_load=self.under_load,
            now=now,
            wall=self.clock.wall,
        )
        self.carry_out(outcomes)
        return outcomes

    def _cookie_reply(self, data: bytes, source: Source) -> bytes | None:
        """The plane's answer under load, before the device gets the message. None: the message passes."""
        mac1, cookie = self.device.mac1_key, self.device.cookie_key
        if mac1 is None or cookie is None:
            return None
        return self.issuer.demand(data, source, self.clock.now, mac1_key=mac1, cookie_key=cookie)

    def _transport(self, data: bytes, source: Source) -> None:
        number = self.indices.get(int.from_bytes(data[4:8], "little"))
        if number is None:
            self.drops[DropReason.UNKNOWN_INDEX] += 1
            return
        plane = self.planes[number]
        before = plane.session
        old = {k.local_index for k in (before.previous, before.current, before.next) if k}
        opened = plane.session.open(data, self.clock.now)
        if isinstance(opened, DropReason | TransportDrop):
            self.drops[opened] += 1
            return
        left = {k.local_index for k in (before.previous, before.current, before.next) if k}
        for index in old - left:
            del self.indices[index]
        self._received(number, source)
        if opened.packet:
            self.received.append(opened.packet)
            if plane.state.owed_since:
                plane.stamp(owed_again=True)
            else:
                plane.stamp(owed_since=self.clock.now)
        if opened.confirmed:
            self._flush(number)
            peer = self.device.by_id[number]
            self.carry_out(peer.key_confirmed(self.clock.now, self.clock.wall))
        if opened.rekey:
            self._event_wanted(number)

    def _received(self, number: int, source: Source) -> None:
        plane = self.planes[number]
        plane.endpoint = source
        plane.stamp(last_received=self.clock.now, last_traversal=self.clock.now, unanswered_since=0)

    # ---- the control loop ----

    def run_timers(self) -> None:
        for number, peer in list(self.device.by_id.items()):
            plane = self.planes[number]
            for _ in range(8):  # a timer that does not disarm itself would spin: the test fails instead
                at = peer.deadline(plane.view())
                if at is None or at > self.clock.now:
                    break
                self.carry_out(peer.on_timer(self.clock.now, self.clock.wall, plane.view()))
            else:
                raise AssertionError(f"{self.name}: a timer fires without end")

    def deadline(self) -> int | None:
        deadlines = [peer.deadline(self.planes[number].view()) for number, peer in self.device.by_id.items()]
        return min((at for at in deadlines if at is not None), default=None)

    def carry_out(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.outcomes.append(outcome)
            self.counts[type(outcome).__name__] += 1
            self._carry_out(outcome)

    def _carry_out(self, outcome: Outcome) -> None:
        now = self.clock.now
        match outcome:
            case events.SendMessage(peer=number, data=data, to=to):
                endpoint = to or self.planes[number].endpoint
                if endpoint is not None:
                    self.network.send(data, self.address, endpoint)
                self.planes[number].stamp(last_sent=now, last_traversal=now, owed_since=0, owed_again=False)
            case events.InstallKeypair(peer=number, local_index=index):
                assert self.indices[index] == number, "a keypair's index comes from the table"
                for free in self.planes[number].session.install(outcome):
                    del self.indices[free]
            case events.Authenticated(peer=number, source=source):
                self._received(number, source)
            case events.SendKeepalive(peer=number):
                if not self._flush(number):
                    self.send(b"", number)
            case events.DropStaged(peer=number):
                self.planes[number].staged.clear()
            case events.EraseKeys(peer=number):
                for free in self.planes[number].session.erase():
                    del self.indices[free]
            case events.ExpireKeys(peer=number):
                self.planes[number].session.expire()
            case events.ClearSource(peer=number):
                self.planes[number].sources_cleared += 1
            case events.ReleaseIndex(index=index):
                del self.indices[index]
            case events.RemovedPeer(peer=number):
                for free in self.planes.pop(number).session.erase():
                    del self.indices[free]
            case events.Dropped(reason=reason):
                self.drops[reason] += 1
            case events.HandshakeCompleted() | events.HandshakeUnanswered() | events.HandshakeGivenUp():
                pass


class Pair:
    """Nodes ``a`` and ``b``, each with the other as its only peer (number 7 at a, 9 at b). Only a knows the
    other's endpoint, unless ``both`` is set. ``ciphers``: the configuration of a and b. ``identity``:
    computes the handshakes of both."""

    def __init__(
        self,
        *,
        seed: int = 1,
        psk: bytes | None = None,
        both: bool = False,
        ipv6: bool = False,
        ciphers: tuple[Cipher, Cipher] = (Cipher.CHACHA20_POLY1305, Cipher.CHACHA20_POLY1305),
        identity: Callable[[bytes], Identity] = StaticKey,
    ) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.seed = seed
        self.psk = psk
        self.ciphers = ciphers
        length = 16 if ipv6 else 4
        self.address_a = Source(bytes(length - 1) + b"\x01", 1111, "a")
        self.address_b = Source(bytes(length - 1) + b"\x02", 2222, "b")
        keys = random.Random(f"keys {seed}")
        self.private_a, self.private_b = keys.randbytes(32), keys.randbytes(32)
        self.a = Node(self.network, "a", self.address_a, seed=seed, identity=identity)
        self.b = Node(self.network, "b", self.address_b, seed=seed, identity=identity)
        self.a.identity(self.private_a)
        self.b.identity(self.private_b)
        self._introduce(self.a, 7, self.b, self.address_b)
        self._introduce(self.b, 9, self.a, self.address_a if both else None)

    def _introduce(self, node: Node, number: int, other: Node, endpoint: Source | None) -> None:
        assert other.device.public_key is not None
        node.add(number, other.device.public_key, endpoint).set_preshared_key(self.psk)
        node.set_cipher(number, self.ciphers[0 if node.name == "a" else 1])

    def restart_b(self, *, knows_a: bool = True) -> None:
        """b loses everything but its configuration."""
        address = self.b.address
        self.b = Node(self.network, "b", address, seed=self.seed + 1000)
        self.b.identity(self.private_b)
        self._introduce(self.b, 9, self.a, self.a.address if knows_a else None)

    def step(self, until: int) -> bool:
        """Advances to the next arrival or deadline, at most ``until``. Returns whether there was one."""
        times = [
            self.a.deadline(),
            self.b.deadline(),
            self.network.queue[0].at if self.network.queue else None,
        ]
        following = min((at for at in times if at is not None), default=until)
        self.clock.now = max(self.clock.now, min(following, until))
        self.network.deliver_due()
        self.a.run_timers()
        self.b.run_timers()
        return following < until

    def run(self, seconds: float) -> None:
        """Lets this much time pass."""
        until = self.clock.now + int(seconds * SECOND)
        while self.step(until):
            pass

    def establish(self) -> None:
        """A session begun by a, confirmed on both sides."""
        self.a.send(ip_packet(0))
        self.run(0.2)
        assert self.b.received, "the session did not come up"
        self.b.send(ip_packet(1))
        self.run(0.2)
        assert self.a.received
        self.a.received.clear()
        self.b.received.clear()
