"""Events of a node for the program that runs it: ``async for event in node.events()``.

``NodeEvent`` is the union of all events. A new event is a record here, a member of the union, and a
name in ``udpring/__init__.py``. Who notices something calls ``NodeEvents.post``.

Each reader has a queue of its own with a limit. An event that finds it full is dropped and counted for that
reader, which gets one ``EventsLost`` in the place of the dropped ones. So a program that does not read costs
a bounded amount of memory and delays nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

from udpring.records import record
from udpring.wireguard.events import SilenceReason

if TYPE_CHECKING:
    from udpring.tunnel.config import Endpoint

__all__ = [
    "EVENTS_LIMIT",
    "REFUSALS",
    "EndpointFailedOver",
    "EventReader",
    "EventsLost",
    "HandshakeCompleted",
    "InterfaceGone",
    "NodeEvent",
    "NodeEvents",
    "OverloadBegan",
    "OverloadEnded",
    "PeerRefused",
    "PeerRoamed",
    "PeerSilent",
    "PeerUp",
    "SilenceReason",
]

EVENTS_LIMIT = 1024
"""Events that wait for one reader, by default."""
REFUSALS = 32
"""PeerRefused events in one second. A flood of initiations must not displace other events."""


@record
class HandshakeCompleted:
    """A session with the peer is confirmed, the first one or a renewed one.

    public_key: of the peer, in base64, as in ``NodePeer``. The same in all events.
    initiator: whether this node sent the initiation.
    """

    public_key: str
    initiator: bool


@record
class PeerUp:
    """The peer answers: its first completed handshake since the start, or since it was silent.

    endpoint: (host, port) where it is.
    """

    public_key: str
    endpoint: tuple[str, int] | None


@record
class PeerSilent:
    """The peer was up and is not any longer, or its first handshakes had no answer. ``PeerUp`` comes when it
    answers.

    reason: ``unanswered`` (nothing authentic came for 15 seconds after data was sent, or no handshake was
        answered in 90), ``expired`` (no new session for 540 seconds) or ``interface down`` (this node's
        own).
    """

    public_key: str
    reason: SilenceReason


@record
class PeerRoamed:
    """Authentic packets of the peer come from another address or port than before.

    If a peer moves more than once in a second, one event a second is posted, with the latest address.

    endpoint, former: (host, port). former is None where it is not known.
    """

    public_key: str
    endpoint: tuple[str, int]
    former: tuple[str, int] | None = None


@record
class EndpointFailedOver:
    """The node tries the peer at another address, because it did not answer at ``former``.

    endpoint: as configured. Equal to former where a name has another address now, or several.
    former: None where the peer had roamed.
    """

    public_key: str
    endpoint: Endpoint
    former: Endpoint | None = None


@record
class PeerRefused:
    """A handshake of this key was refused, or a peer of a directory. At most ``REFUSALS`` (32) a second are
    posted. More count as lost.

    The sender claims the key. A stranger may name the key of a peer. It is empty where a directory
    was asked for an address and named nobody.

    reason: a name of ``DropReason`` (``unknown_peer``, ``cipher_mismatch``, ``paused``), or the text of a
        directory of peers.
    """

    public_key: str
    reason: str


@record
class InterfaceGone:
    """The node cannot go on. The last event of a reader: ``Node.wait`` returns the same reason.

    failed: because of an error, and not because the interface or its socket file was removed.
    """

    reason: str
    failed: bool = False


@record
class OverloadBegan:
    """More handshake messages come than the node can check. It answers strangers with cookies until it is
    over."""


@record
class OverloadEnded:
    """The overload is over.

    seconds: how long it lasted.
    """

    seconds: float


@record
class EventsLost:
    """The reader was slow: so many events between the last one and the next one were dropped. Read
    ``node.peers`` to know how things are."""

    count: int


NodeEvent: TypeAlias = (
    HandshakeCompleted
    | PeerUp
    | PeerSilent
    | PeerRoamed
    | EndpointFailedOver
    | PeerRefused
    | InterfaceGone
    | OverloadBegan
    | OverloadEnded
    | EventsLost
)
"""Any event of a node."""


class EventReader:
    """Iterates over the events of a node since ``Node.events`` made it. It ends when the node does.

    ``lost`` counts the events that this reader lost in all. ``close`` ends it early, as does dropping it.
    """

    def __init__(self, limit: int) -> None:
        self.lost = 0
        self._limit = limit
        self._queue: deque[NodeEvent] = deque()
        self._gap = 0
        self._ended = False
        self._ready = asyncio.Event()

    def __aiter__(self) -> EventReader:
        return self

    async def __anext__(self) -> NodeEvent:
        """The next event. Raises StopAsyncIteration after the last one."""
        while True:
            if self._queue:
                return self._queue.popleft()
            if self._gap:
                gap, self._gap = self._gap, 0
                return EventsLost(gap)
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()

    def close(self) -> None:
        """Ends the reader. Events that wait are dropped. May be called again."""
        self._queue.clear()
        self._gap = 0
        self._end()

    def _put(self, event: NodeEvent) -> None:
        if len(self._queue) >= self._limit:
            self._lose(1)
            return
        self._close_gap()
        self._queue.append(event)
        self._ready.set()

    def _lose(self, count: int) -> None:
        self.lost += count
        self._gap += count
        self._ready.set()

    def _close_gap(self) -> None:
        if self._gap:
            self._queue.append(EventsLost(self._gap))
            self._gap = 0

    def _end(self, last: NodeEvent | None = None) -> None:
        if last is not None and not self._ended:
            self._close_gap()
            self._queue.append(last)  # beyond the limit: a program that waits for it must get it
        self._ended = True
        self._ready.set()


class NodeEvents:
    """The readers of one node. Owner: the Node. Use it in the thread of the event loop."""

    def __init__(self) -> None:
        self.lost = 0
        """Events that readers lost, in all."""
        self._readers: WeakSet[EventReader] = WeakSet()
        self._refusals, self._refused_in = 0, -1
        self._on_wanted: Callable[[], None] | None = None

    def on_wanted(self, call: Callable[[], None] | None) -> None:
        """Calls ``call`` when somebody begins to read, now or later. None: no call any more."""
        self._on_wanted = call
        if call is not None and self._readers:
            call()

    @property
    def wanted(self) -> bool:
        """Whether anybody reads."""
        return bool(self._readers)

    def reader(self, limit: int = EVENTS_LIMIT) -> EventReader:
        """A reader of the events from now on. Raises ValueError for a limit below 1."""
        if limit < 1:
            raise ValueError(f"a limit of {limit} events: it is at least 1")
        made = EventReader(limit)
        if not self._readers and self._on_wanted is not None:
            self._on_wanted()
        self._readers.add(made)
        return made

    def post(self, event: NodeEvent) -> None:
        """Gives the event to each reader, or counts it as lost."""
        for reader in self._live():
            before = reader.lost
            reader._put(event)
            self.lost += reader.lost - before

    def refuse(self, event: PeerRefused, second: int) -> None:
        """Posts the event, unless there were ``REFUSALS`` in this second: then it counts as lost."""
        if second != self._refused_in:
            self._refusals, self._refused_in = 0, second
        self._refusals += 1
        if self._refusals > REFUSALS:
            self.lose()
        else:
            self.post(event)

    def lose(self, count: int = 1) -> None:
        """Events that are not posted, to keep a flood of them out of the queues, count as lost."""
        for reader in self._live():
            reader._lose(count)
            self.lost += count

    def end(self, last: NodeEvent | None = None) -> None:
        """Ends all readers, after this event."""
        for reader in self._live():
            reader._end(last)
        self._readers.clear()

    def _live(self) -> list[EventReader]:
        if not self._readers:
            return []
        readers = list(self._readers)
        for reader in readers:
            if reader._ended:
                self._readers.discard(reader)
        return [reader for reader in readers if not reader._ended]
