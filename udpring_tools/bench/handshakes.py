"""Handshakes that a node answers in a second, and its throughput and event loop during a flood of bogus ones.

Handshakes. A node has a thousand peers, and the benchmark has their keys. It makes valid initiations before
the clock starts, because the initiator's half of the work is not the node's. It waits until the node is idle,
because each program computes shared secrets with new peers at a time of its own. It sends the initiations
with a fixed number unanswered, small enough that the node does not consider itself under load. It counts
responses.

Tables. The same thousand peers of a node with or without many other peers and prefixes (``TABLE``), in turn.

Flood. One TCP stream goes through a pair of nodes, in four situations:
1. ``quiet``: without a flood.
2. ``unrelated``: the generator floods a socket beside the receiving node that nobody reads. This costs the
   stream the CPU time of the generator and of the kernel.
3. ``wrong-mac1``: the generator floods the node with random bytes of an initiation's length and type.
4. ``right-mac1``: the same with a valid mac1, which needs only the node's public key.
Loop. The delays of an event loop under forged initiations (``loop_delay``).

Ratios are to the rates of ``quiet`` and ``unrelated``. The flood has a link of its own, without segmentation
offload: packets of many senders would not be joined either.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from udpring.errors import UdpringError
from udpring.tunnel import keys, uapi
from udpring.wireguard import messages, noise
from udpring.wireguard.constants import IDENTIFIER, KEY_LENGTH
from udpring.wireguard.cookie import MacSigner
from udpring.wireguard.tai64n import next_timestamp
from udpring_tools.bench import spray, traffic
from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.loop_delay import delays_summary, measure_delays
from udpring_tools.bench.pair import PORT, Ground, Pair
from udpring_tools.bench.peers import Case, Table
from udpring_tools.bench.program import NodeProcess, Program
from udpring_tools.bench.samples import ratio, spread
from udpring_tools.bench.space import join, require_tools

__all__ = ["PHASES", "Initiators", "against", "measure_handshakes"]

Say = Callable[[str], None]
Sample = dict[str, float]

PEERS = 1000
PER_PEER = 2
"""Initiations of each peer in a run. They must be 20 ms apart, so all other peers' go between them."""
WINDOW = 64
ANSWER_WAIT = 1.0
PHASES = ("quiet", "unrelated", "wrong-mac1", "right-mac1")
FLOOD = ("10.98.0.1", "10.98.0.2")
UNRELATED_PORT = 9
TABLE = Case(64_000, 500_000)
"""In addition to the thousand. A node has room for 65,536 peers."""
IDLE_FOR = 1.5
"""Seconds. Longer than a node of udpring waits before it begins with shared secrets."""
IDLE_CPU = 0.01
"""Seconds in that time. One tick of the counter."""
IDLE_WAIT = 180.0
LOOP_RATE = 10_000.0
"""Forged initiations a second in part ``loop``."""
LEAD = 3.0
"""Seconds that a flood lasts longer than the stream: iperf3 takes a moment to begin and to end."""


class Initiators:
    """Peers with known private keys, and their initiations to one responder."""

    def __init__(self, responder: bytes, count: int = PEERS) -> None:
        self._responder = responder
        self._keys = [noise.StaticKey(keys.generate_private_key()) for _ in range(count)]
        self._shared = [key.shared_with(responder) for key in self._keys]
        self._signers = [MacSigner(responder) for _ in self._keys]
        self._stamps: list[bytes | None] = [None] * count

    @property
    def public_keys(self) -> list[bytes]:
        """The peers' public keys, in order."""
        return [key.public for key in self._keys]

    def initiations(self, each: int = PER_PEER) -> list[bytes]:
        """This many valid initiations of every peer, in turns. The sender index is the position."""
        made: list[bytes] = []
        for _ in range(each):
            for number in range(len(self._keys)):
                made.append(self._initiation(number, len(made)))
        return made

    def _initiation(self, number: int, index: int) -> bytes:
        stamp = self._stamps[number] = next_timestamp(time.time_ns(), self._stamps[number])
        handshake = noise.Initiator(
            self._keys[number], self._responder, prologue=IDENTIFIER, static_static=self._shared[number]
        )
        body = handshake.write_initiation(os.urandom(KEY_LENGTH), stamp)
        return self._signers[number].sign(messages.pack_initiation(index, body), time.monotonic_ns())


def exchange(
    sock: socket.socket, initiations: Sequence[bytes], window: int = WINDOW
) -> tuple[int, int, float]:
    """Sends them over a connected socket, with ``window`` unanswered at a time. Returns responses, cookie
    replies, and seconds to the last answer. An initiation without an answer within a second is abandoned."""
    sock.settimeout(ANSWER_WAIT)
    responses = cookies = sent = 0
    began = last = time.perf_counter()
    unanswered = 0
    while sent < len(initiations) or unanswered:
        while sent < len(initiations) and unanswered < window:
            sock.send(initiations[sent])
            sent, unanswered = sent + 1, unanswered + 1
        try:
            answer = sock.recv(256)
        except TimeoutError:
            unanswered = 0  # all outstanding ones are lost
            continue
        last = time.perf_counter()
        parsed = messages.parse_handshake(answer)
        responses += isinstance(parsed, messages.Response)
        cookies += isinstance(parsed, messages.CookieReply)
        unanswered = max(0, unanswered - 1)
    return responses, cookies, last - began


def measure_rates(
    programs: Sequence[Program], runs: int, say: Say, facts: dict[str, Any]
) -> dict[str, list[Sample]]:
    """The samples of each program, which take turns. ``facts``: gets those of the first one. Raises
    HostError, UdpringError."""
    kept: dict[str, list[Sample]] = {program.name: [] for program in programs}
    for run in range(runs):
        for program in programs if run % 2 == 0 else reversed(programs):
            say(f"run {run + 1}/{runs}: {PEERS * PER_PEER} handshakes with {program.name}")
            with _answering(program) as (pair, initiators):
                kept[program.name].append(_handshakes(pair, initiators))
                if program is programs[0]:
                    facts |= pair.facts()
    return kept


def measure_tables(program: Program, runs: int, say: Say) -> dict[str, list[Sample]]:
    """The samples without (``alone``) and with the other peers (``among``), in turn. Raises HostError,
    UdpringError."""
    kept: dict[str, list[Sample]] = {"alone": [], "among": []}
    table = Table(TABLE)
    for run in range(runs):
        for case in kept if run % 2 == 0 else reversed(kept):
            say(f"run {run + 1}/{runs}: {PEERS * PER_PEER} handshakes, {case}")
            with _answering(program, table if case == "among" else None) as (pair, initiators):
                kept[case].append(_handshakes(pair, initiators))
    return kept


@contextlib.contextmanager
def _answering(program: Program, table: Table | None = None) -> Iterator[tuple[Pair, Initiators]]:
    """A pair of its nodes, one of which knows the initiators, and the peers of the table."""
    with Ground() as ground, Pair(ground, program) as pair:
        _join_flood(ground)
        initiators = Initiators(pair.public_keys[1])
        if table is not None:
            pair.nodes[1].uapi.set(table.operations(TABLE, pair.public_keys[0]))
        pair.nodes[1].uapi.set([uapi.PeerBegin(key) for key in initiators.public_keys])
        yield pair, initiators


def _join_flood(ground: Ground) -> None:
    join(ground.here, ground.there, [[f"{address}/24"] for address in FLOOD], link="flood")
    ground.here.command("ip", "link", "set", "flood", "gso_max_segs", "1")


def _until_idle(node: NodeProcess) -> None:
    """Waits until the node is idle. Raises UdpringError after ``IDLE_WAIT`` seconds."""
    deadline = time.monotonic() + IDLE_WAIT
    used = node.cpu_seconds()
    while time.monotonic() < deadline:
        time.sleep(IDLE_FOR)
        before, used = used, node.cpu_seconds()
        if used - before <= IDLE_CPU * 1.5:
            return
    raise UdpringError(f"{node.program.name} is still busy {IDLE_WAIT:g} s after it got its peers")


def _handshakes(pair: Pair, initiators: Initiators) -> Sample:
    ready = initiators.initiations()
    _until_idle(pair.nodes[1])
    before = pair.nodes[1].cpu_seconds()

    def run() -> tuple[int, int, float]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((FLOOD[1], PORT))
            return exchange(sock, ready)

    responses, cookies, seconds = pair.here.begin(run)()
    used = pair.nodes[1].cpu_seconds() - before
    sample = {
        "answered_percent": 100 * responses / len(ready),
        "cookie_replies": float(cookies),
        "handshakes_s": responses / seconds if seconds else 0.0,
    }
    if responses:
        sample["cpu_ms_per_handshake"] = used * 1e3 / responses
    return sample


@contextlib.contextmanager
def _unread_socket(pair: Pair) -> Iterator[None]:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((FLOOD[1], UNRELATED_PORT))
        return sock

    with pair.there.begin(make)():
        yield


def _phase(pair: Pair, phase: str, rate: float, seconds: float) -> Sample:
    if phase == "quiet":
        return {"gbit_s": traffic.tcp(pair.here, pair.there, pair.target, seconds).gbit_per_s}
    job = spray.Job(
        hosts=(FLOOD[1],),
        port=UNRELATED_PORT if phase == "unrelated" else PORT,
        rate=rate,
        seconds=seconds + LEAD,
        bogus="right" if phase == "right-mac1" else "wrong",
        public_key=pair.public_keys[1].hex(),
    )
    with _unread_socket(pair):
        finish = spray.begin(pair.here, job)
        run = traffic.tcp(pair.here, pair.there, pair.target, seconds)
        return {"gbit_s": run.gbit_per_s, "flood_packets_s": finish().per_second}


def measure_handshakes(
    programs: Sequence[Program],
    rate: float,
    seconds: float,
    runs: int,
    say: Say,
    parts: Sequence[str] = ("rate", "flood", "loop"),
) -> dict[str, Any]:
    """Measures. ``programs``: the first one is udpring, and the others are measured in part ``rate`` alone.
    ``parts`` may omit some, and name ``tables``. Raises HostError, UdpringError."""
    if set(parts) != {"loop"}:
        require_tools("ip", "nsenter", "unshare", "setpriv", "ping", "iperf3")
    facts: dict[str, Any] = host_facts() | dict.fromkeys(("tier", "tier_reason", "workers", "aead"))
    before = load()
    answered: dict[str, list[Sample]] = {program.name: [] for program in programs}
    if "rate" in parts:
        answered = measure_rates(programs, runs, say, facts)
    kept: dict[str, list[Sample]] = {phase: [] for phase in PHASES}
    if "flood" in parts:
        with Ground() as ground, Pair(ground, programs[0]) as pair:
            _join_flood(ground)
            facts |= pair.facts()
            for run in range(runs):
                for phase in PHASES:
                    say(f"run {run + 1}/{runs}: one TCP stream, flood: {phase}")
                    kept[phase].append(_phase(pair, phase, rate, seconds))
    grown = measure_tables(programs[0], runs, say) if "tables" in parts else None
    delayed = measure_delays(LOOP_RATE, seconds, runs, say) if "loop" in parts else None
    ours = answered[programs[0].name]
    return {
        **facts,
        "load_average": [before, load()],
        "seconds": seconds,
        "runs": runs,
        **summary(ours, kept, rate),
        "against": [against(each.name, answered[each.name], ours) for each in programs[1:]],
        "tables": None if grown is None else tables_summary(grown),
        "loop": None if delayed is None else delays_summary(delayed, LOOP_RATE),
    }


def against(name: str, samples: Sequence[Sample], ours: Sequence[Sample]) -> dict[str, Any]:
    """Another program's rate, and ours in relation to it."""

    def column(of: Sequence[Sample], key: str) -> list[float | None]:
        return [sample.get(key) for sample in of]

    figures = ("handshakes_s", "cpu_ms_per_handshake")
    return {
        "name": name,
        **{key: spread(column(samples, key)) for key in figures},
        **{f"{key}_ratio": ratio(column(ours, key), column(samples, key)) for key in figures},
    }


def tables_summary(kept: dict[str, list[Sample]]) -> dict[str, Any]:
    """Both cases, and the ratio of the CPU times."""
    figures = ("handshakes_s", "cpu_ms_per_handshake")
    columns = {
        case: {key: [sample.get(key) for sample in samples] for key in figures}
        for case, samples in kept.items()
    }
    return {
        "peers": TABLE.peers,
        "prefixes": TABLE.prefixes,
        **{case: {key: spread(column[key]) for key in figures} for case, column in columns.items()},
        **{f"{key}_ratio": ratio(columns["among"][key], columns["alone"][key]) for key in figures},
    }


def summary(answered: Sequence[Sample], kept: dict[str, list[Sample]], rate: float) -> dict[str, Any]:
    """``handshakes`` and ``flood`` of the result, from the samples of the runs. null for an omitted part."""

    def column(samples: Sequence[Sample], key: str) -> list[float | None]:
        return [sample.get(key) for sample in samples]

    names = ("handshakes_s", "cpu_ms_per_handshake", "answered_percent", "cookie_replies")
    speeds = {phase: column(samples, "gbit_s") for phase, samples in kept.items()}
    phases = [
        {
            "phase": phase,
            "gbit_s": spread(speeds[phase]),
            "flood_packets_s": spread(column(samples, "flood_packets_s")),
            "kept_of_quiet": ratio(speeds[phase], speeds["quiet"]),
            "kept_of_unrelated": ratio(speeds[phase], speeds["unrelated"]),
        }
        for phase, samples in kept.items()
    ]
    return {
        "handshakes": {name: spread(column(answered, name)) for name in names} if answered else None,
        "flood": {"rate": rate, "phases": phases} if kept["quiet"] else None,
    }
