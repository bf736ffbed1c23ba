"""Handshakes a node answers in a second, and what it still forwards while bogus ones arrive.

Handshakes. A node knows a thousand peers whose keys are here. Valid initiations of theirs are made before
the clock starts (an initiator's half of the work is not the node's), then sent with a fixed number
unanswered at a time, fewer than what makes a node think it is under load. What counts is responses.

Flood. One TCP stream goes through a pair of nodes, in turn
1. ``quiet``: with nothing else;
2. ``aside``: while the generator sends its datagrams to a socket beside the receiving node, that nobody
   reads: what the generator and the kernel take from the stream;
3. ``wrong-mac1``: while it sends random bytes of an initiation's length and type to the node;
4. ``right-mac1``: the same with a valid mac1, which needs the node's public key and no more.
What the stream keeps is its rate by that of ``quiet``, and by that of ``aside``. The flood comes over a link
of its own on which packets are not joined (no segmentation offload), as they would not be from many senders.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from udpring.tunnel import keys, uapi
from udpring.wireguard import messages, noise
from udpring.wireguard.constants import IDENTIFIER, KEY_LENGTH
from udpring.wireguard.cookie import MacSigner
from udpring.wireguard.tai64n import next_timestamp
from udpring_tools.bench import spray, traffic
from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.pair import PORT, Ground, Pair
from udpring_tools.bench.program import Program
from udpring_tools.bench.samples import ratio, spread
from udpring_tools.bench.space import join, require_tools

__all__ = ["PHASES", "Initiators", "measure_handshakes"]

Say = Callable[[str], None]
Sample = dict[str, float]

PEERS = 1000
PER_PEER = 2
"""Initiations of each peer in a run; a thousand others lie between them, as they must be 20 ms apart."""
WINDOW = 64
ANSWER_WAIT = 1.0
PHASES = ("quiet", "aside", "wrong-mac1", "right-mac1")
FLOOD = ("10.98.0.1", "10.98.0.2")
ASIDE_PORT = 9
LEAD = 3.0
"""Seconds that a flood lasts longer than the stream: iperf3 takes a moment to begin and to end."""


class Initiators:
    """Peers whose private keys we have, and their initiations to one responder."""

    def __init__(self, responder: bytes, count: int = PEERS) -> None:
        self._responder = responder
        self._keys = [noise.StaticKey(keys.generate_private_key()) for _ in range(count)]
        self._shared = [key.shared_with(responder) for key in self._keys]
        self._signers = [MacSigner(responder) for _ in self._keys]
        self._stamps: list[bytes | None] = [None] * count

    @property
    def public_keys(self) -> list[bytes]:
        """Of the peers, in order."""
        return [key.public for key in self._keys]

    def initiations(self, each: int = PER_PEER) -> list[bytes]:
        """So many valid initiations of every peer, round and round; the sender index is the place."""
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
    """Sends them over a connected socket, ``window`` unanswered at a time: responses, cookie replies, and
    seconds to the last answer. One that is not answered within a second is given up."""
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
            unanswered = 0  # all of those that are out are lost
            continue
        last = time.perf_counter()
        parsed = messages.parse_handshake(answer)
        responses += isinstance(parsed, messages.Response)
        cookies += isinstance(parsed, messages.CookieReply)
        unanswered = max(0, unanswered - 1)
    return responses, cookies, last - began


def _handshakes(pair: Pair, initiators: Initiators) -> Sample:
    ready = initiators.initiations()
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
        sock.bind((FLOOD[1], ASIDE_PORT))
        return sock

    with pair.there.begin(make)():
        yield


def _phase(pair: Pair, phase: str, rate: float, seconds: float) -> Sample:
    if phase == "quiet":
        return {"gbit_s": traffic.tcp(pair.here, pair.there, pair.target, seconds).gbit_per_s}
    job = spray.Job(
        hosts=(FLOOD[1],),
        port=ASIDE_PORT if phase == "aside" else PORT,
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
    program: Program,
    rate: float,
    seconds: float,
    runs: int,
    say: Say,
    parts: Sequence[str] = ("rate", "flood"),
) -> dict[str, Any]:
    """Measures; ``parts`` may leave one out. Raises HostError, UdpringError."""
    require_tools("ip", "nsenter", "unshare", "setpriv", "ping", "iperf3")
    facts, before = host_facts(), load()
    answered: list[Sample] = []
    kept: dict[str, list[Sample]] = {phase: [] for phase in PHASES}
    with Ground() as ground, Pair(ground, program) as pair:
        join(ground.here, ground.there, [[f"{address}/24"] for address in FLOOD], link="flood")
        ground.here.command("ip", "link", "set", "flood", "gso_max_segs", "1")
        initiators = Initiators(pair.public_keys[1])
        pair.nodes[1].uapi.set([uapi.PeerBegin(key) for key in initiators.public_keys])
        for run in range(runs):
            if "rate" in parts:
                say(f"run {run + 1}/{runs}: {PEERS * PER_PEER} handshakes")
                answered.append(_handshakes(pair, initiators))
            for phase in PHASES if "flood" in parts else ():
                say(f"run {run + 1}/{runs}: one TCP stream, flood: {phase}")
                kept[phase].append(_phase(pair, phase, rate, seconds))
        node = pair.nodes[0]
        return {
            **facts,
            "load_average": [before, load()],
            "tier": node.tier,
            "tier_reason": node.tier_reason,
            "workers": node.workers,
            "aead": node.aead,
            "seconds": seconds,
            "runs": runs,
            **summary(answered, kept, rate),
        }


def summary(answered: Sequence[Sample], kept: dict[str, list[Sample]], rate: float) -> dict[str, Any]:
    """``handshakes`` and ``flood`` of the result, from the samples of the runs; null for a part left out."""

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
            "kept_of_aside": ratio(speeds[phase], speeds["aside"]),
        }
        for phase, samples in kept.items()
    ]
    return {
        "handshakes": {name: spread(column(answered, name)) for name in names} if answered else None,
        "flood": {"rate": rate, "phases": phases} if kept["quiet"] else None,
    }
