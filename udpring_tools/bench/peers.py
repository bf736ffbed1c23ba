"""The cost of many peers and prefixes: CPU time per packet, compared with a node that has one peer.

1. Each case starts a pair of nodes and fills the tables of both over the UAPI: peers with random keys and
   random prefixes, among them the real one. All pairs stay up.
2. The nodes do the work that follows their filling.
3. In each run, each pair in turn carries datagrams at one rate to a thousand addresses in the real peer's
   prefixes, the same ones in every case. The cost is the CPU time of both nodes divided by the packets that
   arrived. The first run does not count, because a node does some work only once after it was filled.
4. The ratio is a run's cost divided by the cost of the first case in the same run. The result is the median.

The prefixes are IPv4 like the traffic, from /22 to /32, at random places in an eighth of all addresses, so
that the longest-match search finds no pattern.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from udpring.tunnel import uapi
from udpring.udp.receive import RecvRing
from udpring_tools.bench import spray
from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.pair import Ground, Pair
from udpring_tools.bench.program import Program
from udpring_tools.bench.samples import ratio, spread
from udpring_tools.bench.space import require_tools

__all__ = ["CASES", "Case", "Table", "measure_peers"]

Say = Callable[[str], None]

ALL = IPv4Network("32.0.0.0/3")
"""The range of all prefixes."""
BLOCK = 22
"""Prefix length of the block that contains one prefix."""
DESTINATIONS = 1024
PORT = 9000
QUIET = 0.02
"""CPU seconds a second of a pair that has done the work that follows its filling, as shared secrets."""
QUIET_WAIT = 120.0
DRAIN = 0.3
"""Seconds after the last datagram was sent, for datagrams in flight."""
RECEIVE_BUFFER = 8 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """The number of peers, and of prefixes in all."""

    peers: int
    prefixes: int


CASES = (Case(1, 1), Case(100, 1_300), Case(10_000, 130_000), Case(65_000, 500_000))
REAL = 13
"""Prefixes of the real peer, in a case with several peers."""


class Table:
    """The prefixes of the largest case: ``real`` of the existing peer, ``others`` of the other peers. A
    smaller case has the first of them. ``destinations`` lie in the real peer's."""

    def __init__(self, greatest: Case, seed: int = 0) -> None:
        chosen = random.Random(seed)
        blocks = chosen.sample(range(1 << (BLOCK - ALL.prefixlen)), greatest.prefixes)
        places = [int(ALL.network_address) + (block << (32 - BLOCK)) for block in blocks]
        self.real = [IPv4Network((place, 24)) for place in places[:REAL]]
        self.others = []
        for place in places[REAL:]:
            length = chosen.randint(BLOCK, 32)
            inside = chosen.randrange(1 << (length - BLOCK)) << (32 - length)
            self.others.append(IPv4Network((place + inside, length)))
        self.destinations = [
            str(chosen.choice(self.real).network_address + chosen.randrange(1, 255))
            for _ in range(DESTINATIONS)
        ]

    def operations(self, case: Case, real_key: bytes) -> Iterator[uapi.SetOperation]:
        """The contents of a node's tables. If it is the only one, the real peer has all addresses."""
        yield uapi.PeerBegin(real_key)
        for network in self.real if case.peers > 1 else [ALL]:
            yield _allowed(network)
        peers, prefixes = case.peers - 1, case.prefixes - REAL
        for number in range(peers):
            yield uapi.PeerBegin(secrets.token_bytes(32))
            for network in self.others[number * prefixes // peers : (number + 1) * prefixes // peers]:
                yield _allowed(network)


def _allowed(network: IPv4Network) -> uapi.AllowedIp:
    return uapi.AllowedIp(socket.AF_INET, network.network_address.packed, network.prefixlen)


class _Counter:
    """Counts datagrams that arrive at any address of a namespace."""

    def __init__(self, pair: Pair) -> None:
        self.packets = 0
        self._end = threading.Event()
        self._listening = threading.Event()
        self._finish = pair.there.begin(self._run)
        self._listening.wait(10)

    def _run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            sock.bind(("", PORT))
            with RecvRing(sock, gro=True) as ring:
                self._listening.set()
                while not self._end.is_set():
                    with ring.recv_batch(256, timeout=0.1) as batch:
                        self.packets += len(batch)

    def finish(self) -> int:
        """Stops counting. Returns the number."""
        self._end.set()
        self._finish()
        return self.packets


def _carry(pair: Pair, table: Table, rate: float, size: int, seconds: float) -> dict[str, float]:
    counter = _Counter(pair)
    before = pair.cpu_seconds()
    job = spray.Job(tuple(table.destinations), PORT, rate, seconds, size)
    sent = spray.begin(pair.here, job)()
    time.sleep(DRAIN)
    used = pair.cpu_seconds() - before
    arrived = counter.finish()
    sample = {"packets_s": arrived / sent.seconds, "lost_percent": 100 * (1 - arrived / max(sent.packets, 1))}
    if arrived and used:
        sample["cpu_ns_per_packet"] = used * 1e9 / arrived
    return sample


def _fill(pair: Pair, table: Table, case: Case) -> float:
    """The seconds for filling both, one after another."""
    began = time.perf_counter()
    for side, node in enumerate(pair.nodes):
        node.uapi.set(table.operations(case, pair.public_keys[1 - side]))
    took = time.perf_counter() - began
    pair.here.command("ip", "route", "add", str(ALL), "dev", pair.nodes[0].interface)
    pair.there.command("ip", "route", "add", "local", str(ALL), "dev", "lo")
    return took


def _settle(pairs: Sequence[Pair]) -> None:
    """Waits until the nodes are idle, or for QUIET_WAIT seconds."""
    until = time.monotonic() + QUIET_WAIT
    for pair in pairs:
        used = QUIET
        while used >= QUIET and time.monotonic() < until:
            before = pair.cpu_seconds()
            time.sleep(1.0)
            used = pair.cpu_seconds() - before


def measure_peers(
    program: Program, cases: Sequence[Case], rate: float, size: int, seconds: float, runs: int, say: Say
) -> dict[str, Any]:
    """Measures. The other cases are compared with the first one. Raises HostError, UdpringError."""
    require_tools("ip", "nsenter", "unshare", "setpriv", "ping")
    facts, before = host_facts(), load()
    table = Table(max(cases, key=lambda case: case.prefixes))
    samples: list[list[dict[str, float]]] = [[] for _ in cases]
    pairs: list[Pair] = []
    filled = []
    with contextlib.ExitStack() as stack:
        for case in cases:
            say(f"filling two nodes with {case.peers} peers and {case.prefixes} prefixes")
            ground = stack.enter_context(Ground())
            pairs.append(stack.enter_context(Pair(ground, program)))
            filled.append(_fill(pairs[-1], table, case))
        say("waiting until the nodes are idle")
        _settle(pairs)
        for run in range(1 + runs):
            for case, pair, taken in zip(cases, pairs, samples, strict=True):
                name = f"run {run}/{runs}" if run else "warming up"
                say(f"{name}, {case.peers} peers, {case.prefixes} prefixes")
                sample = _carry(pair, table, rate, size, seconds)
                if run:
                    taken.append(sample)
        node = pairs[0].nodes[0]
        rows = [
            {
                "peers": case.peers,
                "prefixes": case.prefixes,
                **_row(taken, samples[0]),
                "fill_s": round(took, 2),
                "resident_mib": round(max(pair.resident_mib()), 1),
            }
            for case, pair, taken, took in zip(cases, pairs, samples, filled, strict=True)
        ]
        return {
            **facts,
            "load_average": [before, load()],
            **node.facts(),
            "seconds": seconds,
            "runs": runs,
            "rate": rate,
            "size": size,
            "cases": rows,
        }


def _row(samples: Sequence[dict[str, float]], first: Sequence[dict[str, float]]) -> dict[str, Any]:
    def column(key: str, rows: Sequence[dict[str, float]]) -> list[float | None]:
        return [row.get(key) for row in rows]

    keys = ("cpu_ns_per_packet", "packets_s", "lost_percent")
    figures: dict[str, Any] = {key: spread(column(key, samples)) for key in keys}
    cost = "cpu_ns_per_packet"
    return figures | {"cost_ratio": ratio(column(cost, samples), column(cost, first))}
