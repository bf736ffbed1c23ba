"""The control loop: events of the plane go to the protocol, outcomes of the protocol go to the plane.

The flow of one turn:
1. The plane's eventfd becomes readable. Up to ``EVENTS_A_TURN`` events are taken, then the event loop gets
   its turn. Computations that handshake threads have finished are taken as well.
2. Each event goes to ``wireguard.Device`` or its peer, with the time. A list of outcomes comes back.
3. Outcomes become plane commands. Those of the whole turn are executed in order, in one crossing
   (``outcomes.py``).
4. Soon after the turn, the stamps of the peers concerned are read (``looks.py``), and their next deadlines
   put into one heap with one ``call_at`` timer.
5. When the timer fires, peers whose deadline has come get ``on_timer``. Outcomes are executed again.

The plane stamps times instead of re-arming timers. A peer with traffic is checked every ``POLL`` (ten
seconds: no protocol timer that traffic starts is shorter). A peer without traffic costs nothing, because its
next stamp posts one ACTIVITY event. While the interface is down nothing is sent and no timer runs (``link``).

Everything runs in the thread of the event loop. An exception in one event or timer is logged and counted. It
never ends the loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from udpring._native import lib
from udpring.tunnel.control_events import ControlEvents
from udpring.tunnel.control_handshakes import ControlHandshakes
from udpring.tunnel.control_reports import HandshakeReports, RoutingLoops, report_refused_coalescing
from udpring.tunnel.control_values import BootClock, ControlStats, End, Following, PlaneIndices, Route
from udpring.tunnel.crossed_tunnels import ViewOf, view_of
from udpring.tunnel.deadlines import Deadlines
from udpring.tunnel.flood_gate import FloodGate
from udpring.tunnel.handshake_threads import HandshakeThreads
from udpring.tunnel.link import Link, LinkFactory
from udpring.tunnel.looks import Looks
from udpring.tunnel.nesting import Nesting
from udpring.tunnel.node_events import NodeEvents
from udpring.tunnel.outcomes import Outcomes
from udpring.tunnel.plane import Event, EventKind, PeerState, Plane
from udpring.tunnel.train_probes import TrainProbes
from udpring.wireguard import events as protocol
from udpring.wireguard.constants import KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME
from udpring.wireguard.device import Device
from udpring.wireguard.unknown import UnknownInitiation

__all__ = ["BootClock", "Control", "ControlStats", "End", "PlaneIndices", "Route"]

SECOND = 1_000_000_000
EVENTS_A_TURN = 256
EVENTS_A_BATCH = 64
TIMERS_A_TURN = 64
TURN_BUDGET = SECOND // 1000
"""A turn holds the event loop for at most this time plus one event, which costs some 50 us."""
PACKET_EVENTS = (EventKind.HANDSHAKE, EventKind.HANDSHAKE_WANTED, EventKind.KEY_CONFIRMED, EventKind.ACTIVITY)
NO_STAMPS = (0, 0, 0)
POLL = KEEPALIVE_TIMEOUT
"""The shortest timer that traffic alone starts (whitepaper section 6.5)."""
LONGEST_SLEEP = 30 * SECOND
"""The event loop's clock stands still while the machine is suspended, CLOCK_BOOTTIME does not."""
SHORTEST_SLEEP = SECOND // 20
"""A deadline that is past again right after its timer ran must not make the loop spin."""

log = logging.getLogger("udpring.node")


class Control:
    """Drives one Device over one Plane in one event loop.

    ``gone`` is resolved once when the plane cannot continue (the interface was deleted, the worker failed).
    ``forgotten`` is called with the id of a peer that the protocol removed (its key became the node's own),
    ``authenticated`` after each authentic handshake message. ``events``: those for the program go there.
    ``view``: tells the state of another tunnel.
    ``handshakes``: the threads that compute for ``device``, where its jobs are deferred.
    """

    def __init__(
        self,
        plane: Plane,
        device: Device,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: BootClock | None = None,
        forgotten: Callable[[int], None] = lambda peer: None,
        authenticated: Callable[[], None] = lambda: None,
        label: Callable[[int], str] = str,
        fwmark: Callable[[], int] = lambda: 0,
        link: LinkFactory | None = None,
        events: NodeEvents | None = None,
        view: ViewOf = view_of,
        handshakes: HandshakeThreads | None = None,
    ) -> None:
        self.plane = plane
        self.device = device
        self.clock = clock or BootClock()
        self.stats = ControlStats()
        self.gone: asyncio.Future[End] = loop.create_future()
        self.key_unknown: Callable[[UnknownInitiation], None] = lambda initiation: None
        self.address_wanted: Callable[[bytes], None] = lambda ip: None
        """Called where peers come from a directory (``peers_on_demand``)."""
        self.following = Following()
        """Notified of peers that do not answer (``endpoint_following``)."""
        self._loop = loop
        self._forgotten = forgotten
        self._label = label
        self._gate = FloodGate()
        self._deadlines = Deadlines()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self._waiting: deque[Event] = deque()
        self._again: asyncio.Handle | None = None
        self._looks = Looks(loop, self._look_at_touched)
        self._requested: set[int] = set()
        self._resuming: set[int] = set()
        self._loops = RoutingLoops(plane, self.report, label)
        self._nesting = Nesting(plane, self._loops, loop=loop, fwmark=fwmark, view=view)
        self._trains = TrainProbes(plane, loop=loop, report=self.report, label=label)
        self._seen: dict[int, tuple[int, int, int]] = {}
        self._running = False
        self._link = link(self._link_changed) if link else Link(plane.tun_fileno(), self._link_changed)
        self._events = ControlEvents(events or NodeEvents(), plane, device, loop=loop, boot=self.clock.boot)
        self._outcomes = Outcomes(
            plane,
            device,
            stats=self.stats,
            clock=self.clock,
            report=self.report,
            reports=HandshakeReports(self.stats, self.report, label, self._events),
            is_up=lambda: self._link.up,
            touch=self.touch,
            is_checked=self._is_checked,
            removed=self._peer_removed,
            key_unknown=lambda initiation: self.key_unknown(initiation),
            compute=lambda outcome: self._handshakes.compute(outcome),
            authenticated=authenticated,
            following=lambda: self.following,
        )
        self.carry_out = carry_out = self._outcomes.carry_out
        self._handshakes = ControlHandshakes(
            device, handshakes, clock=self.clock, carry_out=carry_out, failed=self._computation_failed
        )

    # ---- life ----

    def start(self) -> None:
        """Begins to read events. The plane must be open. Call it in the event loop's thread."""
        self._running = True
        self._looks.start()
        self._events.start()
        self._link.start(self._loop)
        self.show_identity()
        self._loop.add_reader(self.plane.fileno(), self._readable)

    def stop(self) -> None:
        """Stops reading and all timers. The caller closes the plane. May be called again."""
        if not self._running:
            return
        self._running = False
        self._loop.remove_reader(self.plane.fileno())
        self._link.stop()
        self._nesting.stop()
        self._trains.stop()
        self._events.stop()
        for handle in (self._timer, self._again):
            if handle is not None:
                handle.cancel()
        self._timer = self._again = None
        self._waiting.clear()
        self._looks.stop()
        self._outcomes.clear()
        self.gone.cancel()

    # ---- the interface, up and down ----

    def show_identity(self) -> None:
        """Gives the plane the keys that admit handshakes. While the interface is down there are none."""
        up = self._link.up
        self._handshakes.show_identity()
        self.plane.identity(self.device.mac1_key if up else None, self.device.cookie_key if up else None)

    def _link_changed(self) -> None:
        """Down: silence until it is up again. Up: staged packets start handshakes at once, a few peers a
        turn."""
        up = self._link.up
        log.debug("%s is %s", self.plane.name, "up" if up else "down: no handshakes, no keepalives")
        try:
            self.show_identity()
            if up:
                self._resuming.update(self.device.by_id)
                for number in self.device.by_id:
                    self.request_handshake(number)
            else:
                self._suspend()
        except Exception:
            self.stats.failures += 1
            self.report("link", logging.ERROR, "a change of the interface failed", trace=True)

    def _suspend(self) -> None:
        """As the kernel's ``wg_stop``: drops keys, staged packets, handshakes and timers of all peers."""
        states = {state.peer: state for state in self.plane.peer_states()}
        with self._outcomes.gathered():
            for number, peer in self.device.by_id.items():
                state = states[number]
                erased = replace(state, session_birth=0, send_counter=0)
                self.carry_out(peer.suspend(erased))
                if state.staged:
                    self.carry_out([protocol.DropStaged(number)])
                self.forget(number)
        self._arm()

    # ---- events in ----

    def _readable(self) -> None:
        """The eventfd is readable. If a next turn is already scheduled, that one does the work."""
        if self._again is None:
            self._turn()

    def _turn(self) -> None:
        """Handles events, executes the commands that follow, and schedules a next turn if there are more."""
        self._again = None
        if not self._running:
            return
        self._link.look()
        self._events.look_at_load()
        with self._outcomes.gathered():
            more = self._take_turn()
        if more and self._running:
            # The eventfd was cleared, so nothing else would schedule the remaining work.
            self._again = self._loop.call_soon(self._turn)

    def _take_turn(self) -> bool:
        """Takes events until there are none (False), or the limit in number or time is reached."""
        started = self.clock.boot()
        handled = 0
        while handled < EVENTS_A_TURN and self.clock.boot() - started < TURN_BUDGET:
            if not self._waiting:
                self._waiting.extend(self.plane.events(EVENTS_A_BATCH))
                finished = self._handshakes.go_on()
                handled += finished
                if not self._waiting and not finished:
                    return False
                continue
            self._handle(self._waiting.popleft())
            handled += 1
            if not self._running:
                return False
        return True

    def _handle(self, event: Event) -> None:
        self.stats.events += 1
        try:
            self._dispatch(event)
        except Exception:
            self.stats.failures += 1
            self.report(
                "event", logging.ERROR, "event %d of peer %s failed", event.kind, event.peer, trace=True
            )

    def _computation_failed(self) -> None:
        self.stats.failures += 1
        self.report("computation", logging.ERROR, "what follows from a computation failed", trace=True)

    def _dispatch(self, event: Event) -> None:
        now, wall, kind = self.clock.boot(), self.clock.wall(), event.kind
        if not self._link.up and kind in PACKET_EVENTS:
            return
        if kind == EventKind.HANDSHAKE:
            self.carry_out(self._handshakes.receive(event, now, wall))
        elif kind == EventKind.PEER_WANTED and event.source is not None:
            self.address_wanted(event.source.ip)
        elif kind == EventKind.ROAMED:
            self._events.roamed(event)
        elif kind == EventKind.TUN_GONE:
            self._end(End("the interface was deleted"))
        elif kind == EventKind.FATAL:
            name = errno.errorcode.get(-event.result, str(event.result))
            self._end(End(f"the worker of the plane cannot go on: {name}", failed=True))
        elif kind == EventKind.COALESCING_REFUSED:
            report_refused_coalescing(self.plane.name, event.result)
        elif event.peer is not None and event.peer in self.device.by_id:
            peer = self.device.by_id[event.peer]
            if kind == EventKind.NESTED:
                self._nesting.ask(event.peer)
                return
            if kind == EventKind.TRAINS:
                self._trains.train_sent(event.peer)
                return
            if kind == EventKind.PROBE_ANSWERED:
                self._trains.answered(event.peer, train=event.result == lib.UDPRING_PROBE_TRAIN)
                return
            if kind == EventKind.HANDSHAKE_WANTED:
                self.carry_out(peer.handshake_wanted(now, wall))
            elif kind == EventKind.KEY_CONFIRMED:
                self.carry_out(peer.key_confirmed(now, wall))
            elif kind == EventKind.PATH and self._loops.leads_out(event.peer, event.loops) and self._link.up:
                self.carry_out(peer.path_changed(now, wall))
                self.following.path_changed(event.peer)
            # ACTIVITY only means: check the stamps, as after the other two.
            self.touch(event.peer)

    def _end(self, why: End) -> None:
        if not self.gone.done():
            self.gone.set_result(why)

    # ---- timers ----

    def touch(self, peer: int) -> None:
        """Checks the peer's timers once, soon."""
        if self._link.up:
            self._looks.want(peer)

    def _is_checked(self, peer: int, until: int) -> bool:
        """Whether a check of the peer's timers is due by then."""
        deadline = self._deadlines.get(peer)
        return deadline is not None and deadline <= until

    def request_handshake(self, peer: int) -> None:
        """The peer has just been set up. Packets staged for it may start a handshake at once."""
        if not self._link.up:
            return
        self._requested.add(peer)
        self._looks.want(peer, at_once=True)

    def try_new_path(self, number: int) -> None:
        """The peer may be reached in another way now: sends an initiation as soon as one may be sent."""
        peer = self.device.by_id.get(number)
        if peer is not None and self._link.up:
            now, wall = self.clock.boot(), self.clock.wall()
            self.carry_out(peer.path_changed(now, wall) or peer.handshake_wanted(now, wall))

    def _peer_removed(self, peer: int) -> None:
        self.forget(peer)
        self._forgotten(peer)

    def forget(self, peer: int) -> None:
        """The peer is gone. None of its timers fires any more."""
        self._deadlines.set(peer, None)
        self._requested.discard(peer)
        self._resuming.discard(peer)
        self._loops.forget(peer)
        self._events.forget(peer)
        self._trains.forget(peer)
        self._looks.forget(peer)
        self._seen.pop(peer, None)

    def _look_at_touched(self) -> None:
        self._run_timers(self._looks.take(TIMERS_A_TURN))

    def _timer_fired(self) -> None:
        self._timer = None
        self._run_timers(self._deadlines.due(self.clock.boot(), TIMERS_A_TURN))

    def _run_timers(self, peers: Sequence[int]) -> None:
        """Runs the due timers of these peers, and sets the time of each one's next check.

        Three commands read states, however many peers there are: before timers run, after they ran, and of
        peers whose next change posts ACTIVITY.
        """
        if not self._link.look():
            return
        states = self._states(peers)
        ran: list[int] = []
        with self._outcomes.gathered():
            for number in list(states):
                try:
                    if self._run_due(number, states[number]):
                        ran.append(number)
                except Exception:
                    del states[number]
                    self._timers_failed(number)
        for number in ran:
            del states[number]
            self._looks.forget(number)  # outcomes touched the peer, which is being checked right now
        states |= self._states(ran)
        now = self.clock.boot()
        idle = [number for number, state in states.items() if not self._is_busy(state, now)]
        for number in idle:
            del states[number]
        for number, state in states.items():
            self._set_deadline(number, state, now, self._latest(number, state, now))
        for number, state in self._states(idle, post_activity=True).items():
            self._set_deadline(number, state, now)
        if not self._requested:
            self._requested = set()  # a cleared one would keep its largest size
        self._arm()

    def _states(self, peers: Sequence[int], *, post_activity: bool = False) -> dict[int, PeerState]:
        """The states of the peers that still exist. ``post_activity``: ACTIVITY says when one changes."""
        present: list[int] = []
        for number in peers:
            if number in self.device.by_id:
                present.append(number)
            else:
                self.forget(number)
        found: dict[int, PeerState] = {}
        try:
            found = {
                state.peer: state for state in self.plane.states_of(present, post_activity=post_activity)
            }
            missing = [number for number in present if number not in found]
            if missing:
                raise KeyError(f"the plane has no peers {missing}")
        except Exception:
            for number in present:
                if number not in found:
                    self._timers_failed(number)
        return found

    def _run_due(self, number: int, state: PeerState) -> bool:
        """Runs the due timers of the peer. Whether there were any, so that its state may have changed."""
        peer = self.device.by_id[number]
        now = self.clock.boot()
        if number in self._resuming:
            self._resuming.discard(number)
            self.carry_out(peer.resume(now))
        if number in self._requested:
            self._requested.discard(number)
            if state.staged:  # also with a session: an earlier one may have expired with the private key
                self.carry_out(peer.handshake_wanted(now, self.clock.wall()))
        deadline = peer.deadline(state)
        if deadline is None or deadline > now:
            return False
        self.carry_out(peer.on_timer(now, self.clock.wall(), state))
        return True

    def _latest(self, number: int, state: PeerState, now: int) -> int:
        """When a busy peer is checked again at the latest."""
        try:
            look = self.following.look(number, state, now)
        except Exception:
            self._timers_failed(number)
            look = None
        return now + POLL if look is None else min(look, now + POLL)

    def _set_deadline(self, number: int, state: PeerState, now: int, latest: int | None = None) -> None:
        """The next check comes at the peer's deadline, at ``latest``, or with ACTIVITY."""
        try:
            deadline = self.device.by_id[number].deadline(state)
        except Exception:
            self._timers_failed(number)
            return
        if latest is not None:
            deadline = latest if deadline is None else min(deadline, latest)
        if deadline is not None and deadline <= now:
            deadline = now + SHORTEST_SLEEP
        self._deadlines.set(number, deadline)

    def _timers_failed(self, number: int) -> None:
        """Within an ``except`` block. The next check is in a second."""
        self.stats.failures += 1
        self.report("timer", logging.ERROR, "timers of %s failed", self._label(number), trace=True)
        self._deadlines.set(number, self.clock.boot() + SECOND)

    def _is_busy(self, state: PeerState, now: int) -> bool:
        """Whether stamps may change without an ACTIVITY event. Then the next check is in ``POLL``.

        The plane posts one only when it sets ``unanswered_since`` or ``owed_since`` anew. While one of them
        is set and the session can still carry data, more data may re-arm a timer without an event. Without
        such a session it cannot.
        """
        stamps = (state.unanswered_since, state.owed_since, state.last_traversal)
        changed = self._seen.get(state.peer, NO_STAMPS) != stamps
        self._seen[state.peer] = stamps
        if stamps == NO_STAMPS:
            del self._seen[state.peer]  # very many peers may never do anything
        live = state.session_birth and now - state.session_birth < REJECT_AFTER_TIME
        return changed or bool(live and (state.unanswered_since or state.owed_since))

    def _arm(self) -> None:
        """Makes the one timer fire at the earliest deadline. Boot time and the loop's time share only
        differences."""
        first = self._deadlines.first()
        if self._timer is not None:
            if self._timer_at == first:
                return
            self._timer.cancel()
            self._timer = None
        if first is None or not self._running:
            return
        delay = min(max(first - self.clock.boot(), 0), LONGEST_SLEEP)
        self._timer_at = first
        self._timer = self._loop.call_at(self._loop.time() + delay / SECOND, self._timer_fired)

    # ---- log ----

    def report(self, kind: str, level: int, text: str, *arguments: object, trace: bool = False) -> None:
        """Logs, at most a few lines of each kind in ten seconds. Must not be given secrets."""
        if not log.isEnabledFor(level):
            return
        passes, held = self._gate.passes(kind)
        if held:
            log.log(level, "%s: %d more lines were held back", kind, held)
        if passes:
            log.log(level, text, *arguments, exc_info=trace)
