"""Checks at the end of a schedule, when the network works again."""

from __future__ import annotations

from udpring.wireguard.constants import (
    ERASE_AFTER_TIME,
    KEEPALIVE_TIMEOUT,
    MAX_RETRIES,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT_JITTER,
)

from .nodes import Simulation
from .world import MILLISECOND, SECOND

#: 15 s of silence, 5 s since an earlier handshake message, jitter of both, crossed initiations, a second.
#: And 10 s: if attempts were abandoned while a session was still good, the next send on it is noticed that
#: much later.
RECOVERY = 33 * SECOND
#: The control loop looks at a busy peer this often, so a timer is at most this late.
LATENESS = SECOND // 2
ROUND_TRIP = 100 * MILLISECOND


def recovers(simulation: Simulation) -> float:
    """A sender is heard within the protocol's bounds. Returns the seconds of virtual time."""
    world, oracles = simulation.world, simulation.oracles
    began = world.now
    wanted = {each for pair in simulation.schedule.pairs for each in (pair, pair[::-1])}
    if simulation.schedule.one_way:
        wanted = {pair if simulation.finds(*pair) else pair[::-1] for pair in simulation.schedule.pairs}
    first = len(oracles.packets)

    def missing() -> set[tuple[int, int]]:
        return wanted - {oracles.packets[packet] for packet in oracles.arrived if packet >= first}

    while left := missing():
        if world.now - began > RECOVERY:
            oracles.fail(f"{RECOVERY // SECOND} s after all was well nothing arrives of {sorted(left)}")
        for here, there in sorted(wanted):
            # Staged packets must be enough to start a handshake. The session may be dead at the other end.
            if not (simulation.schedule.one_way and simulation.waiting(here, there)):
                simulation.send(here, there, 1)
        world.run_until(world.now + SECOND)
        oracles.bounded(simulation.lives())
    return (world.now - began) / SECOND


def _quiet(simulation: Simulation) -> None:
    """Turns keepalives off and waits until everything in progress has ended."""
    for here, node in enumerate(simulation.nodes):
        for there in node.peers:
            simulation.keepalive(here, there, 0)
    simulation.world.run_until(simulation.world.now + 40 * SECOND)


def idle(simulation: Simulation) -> None:
    """Without data nothing is sent, keys are erased in the end, and no timer stays armed."""
    _quiet(simulation)
    world, oracles, lives = simulation.world, simulation.oracles, simulation.lives()
    silent_since = world.now
    world.run_until(world.now + ERASE_AFTER_TIME + 30 * SECOND)
    oracles.bounded(lives)
    for life in lives:
        if life.last_said > silent_since:
            since = (life.last_said - silent_since) / SECOND
            oracles.fail(f"node {life.number} says something {since:.1f} s into silence")
        if life.plane.indices:
            oracles.fail(f"node {life.number} still holds {len(life.plane.indices)} indices")
        if life.loop.armed():
            oracles.fail(f"node {life.number} still has a timer")


def answer(simulation: Simulation) -> None:
    """Unanswered data gets one keepalive after 10 s."""
    _quiet(simulation)
    world, oracles = simulation.world, simulation.oracles
    here, there = simulation.schedule.pairs[0]
    simulation.send(here, there, 1)
    simulation.send(there, here, 1)
    world.run_until(world.now + 2 * ROUND_TRIP)  # a session used in both directions
    _quiet(simulation)
    life = simulation.nodes[there].life
    before, began = life.said, world.now
    handshakes = oracles.handshakes
    packet = len(oracles.packets)
    simulation.send(here, there, 1)
    world.run_until(world.now + KEEPALIVE_TIMEOUT + ROUND_TRIP + LATENESS)
    if packet not in oracles.arrived:
        return  # each end counts the session's age from its own derivation, so the other end's may have ended
    if life.said == before:
        oracles.fail(f"node {there} leaves data unanswered for {(world.now - began) / SECOND:.1f} s")
    world.run_until(world.now + 2 * KEEPALIVE_TIMEOUT)
    if oracles.handshakes == handshakes and life.said > before + 1:
        oracles.fail(f"node {there} sends {life.said - before} messages for one that it received")


def alive(simulation: Simulation) -> None:
    """Persistent keepalives come at the configured interval if nothing else is sent.

    Checked for nodes with one peer: with several, the receiver of a message is not visible.
    """
    world = simulation.world
    world.run_until(world.now + ROUND_TRIP)
    for life in simulation.lives():
        life.longest_silence, life.last_traversal = 0, world.now
    world.run_until(world.now + 80 * SECOND)
    for life in simulation.lives():
        known = [each.keepalive for each in life.node.peers.values() if each.keepalive]
        if known and len(life.node.peers) == 1 and life.longest_silence > min(known) * SECOND + LATENESS:
            silence = f"{life.longest_silence / SECOND:.1f} s"
            simulation.oracles.fail(f"node {life.number} is silent for {silence}, keepalive {min(known)} s")


def dead(simulation: Simulation) -> None:
    """Without answers, a sender tries for about 90 s, every 5 s, and gives up. Staged packets are dropped."""
    _quiet(simulation)
    world, oracles = simulation.world, simulation.oracles
    here, there = simulation.schedule.pairs[0]
    for node in simulation.nodes:
        if node.number != here:
            node.life.end()
    life = simulation.nodes[here].life
    peer = life.peer(there)
    assert peer is not None
    before = life.initiations
    world.run_until(world.now + 200 * SECOND)  # the session is too old to send on
    began = world.now
    if life.initiations != before:
        oracles.fail(f"node {here} initiates without anything to say")
    simulation.send(here, there, 3)
    longest = REKEY_ATTEMPT_TIME + (MAX_RETRIES + 2) * REKEY_TIMEOUT_JITTER + 10 * SECOND
    world.run_until(began + longest)
    tried = life.initiations - before
    if not MAX_RETRIES <= tried <= MAX_RETRIES + 1:
        oracles.fail(f"node {here} tries {tried} times to reach a dead peer")
    if life.plane.peers[peer].staged:
        oracles.fail(f"node {here} still holds packets for a dead peer")
    world.run_until(world.now + ERASE_AFTER_TIME + 30 * SECOND)
    if life.initiations - before != tried:
        oracles.fail(f"node {here} goes on after it gave up")
    if life.plane.indices or life.loop.armed():
        oracles.fail(f"node {here} still holds indices or a timer for a dead peer")
    oracles.bounded(simulation.lives())


ENDINGS = {"idle": idle, "answer": answer, "alive": alive, "dead": dead}
