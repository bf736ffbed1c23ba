"""``udpring bench peers`` and ``bench handshakes``: tables, messages, figures, output. Nothing is timed."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest

from udpring.errors import UdpringError
from udpring.tunnel import keys, uapi
from udpring.tunnel.config import Config
from udpring.wireguard import messages, noise
from udpring.wireguard.constants import IDENTIFIER
from udpring.wireguard.cookie import mac1_key, mac1_valid
from udpring_tools.bench import handshakes, loop_delay, peers, samples, setup, spray
from udpring_tools.bench.comparison import summary
from udpring_tools.bench.peers import Case, Table
from udpring_tools.bench.table import figures_grid
from udpring_tools.commands import bench, bench_handshakes, bench_peers

PRIVATE = keys.generate_private_key()
PUBLIC = keys.public_key(PRIVATE)
SMALL = Case(100, 1300)
HOST = {
    "udpring": "0.1.0",
    "kernel": "6.18.0",
    "machine": "x86_64",
    "cpus": 2,
    "cpu": "A CPU",
    "began": "2026-01-01T00:00:00",
    "load_average": [0.0, 1.0],
    "tier": "mmsg",
    "tier_reason": "",
    "aead": "openssl",
    "seconds": 5,
    "runs": 3,
}
NO_OTHERS: dict[str, Any] = {"against": [], "loop": None, "tables": None}
"""A result of ``bench handshakes`` of udpring alone."""


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers(dest="command"))
    return parser.parse_args(["bench", *words])


@pytest.mark.parametrize(
    "words",
    [
        ("peers", "--rate", "1"),
        ("peers", "--size", "0"),
        ("peers", "--runs", "x"),
        ("handshakes", "--only", "all"),
        ("handshakes", "--rate", "-5"),
        ("handshakes", "--seconds", "0"),
    ],
)
def test_wrong_usage_exits_2(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        parsed(*words)
    assert left.value.code == 2


# ---- the tables ----


def filled(table: Table, case: Case) -> dict[bytes, list[IPv4Network]]:
    """Prefixes by peer, from the operations."""
    found: dict[bytes, list[IPv4Network]] = {}
    current: list[IPv4Network] = []
    for operation in table.operations(case, PUBLIC):
        if isinstance(operation, uapi.PeerBegin):
            current = found[operation.public_key] = []
        else:
            assert isinstance(operation, uapi.AllowedIp)
            assert operation.family == socket.AF_INET
            current.append(IPv4Network((operation.ip, operation.cidr)))
    return found


@pytest.mark.parametrize("case", [*peers.CASES[:-1], Case(6500, 50_000)], ids=str)
def test_table_has_peers_and_prefixes_of_case(case: Case) -> None:
    found = filled(Table(Case(10_000, 130_000)), case)
    assert len(found) == case.peers
    assert sum(map(len, found.values())) == case.prefixes
    assert len({network for networks in found.values() for network in networks}) == case.prefixes


def test_every_destination_is_the_real_peers_by_longest_match() -> None:
    table = Table(SMALL)
    found = filled(table, SMALL)
    others = [network for key, networks in found.items() if key != PUBLIC for network in networks]
    assert len(set(table.destinations)) > peers.DESTINATIONS // 2
    for destination in table.destinations:
        address = IPv4Address(destination)
        assert address in peers.ALL
        assert sum(address in network for network in found[PUBLIC]) == 1
        assert not any(address in network for network in others)


def test_the_same_table_each_time() -> None:
    assert Table(SMALL).destinations == Table(SMALL).destinations
    assert Table(SMALL).others == Table(SMALL).others


# ---- generated packets ----


def job(**more: Any) -> spray.Job:
    return spray.Job(("127.0.0.1",), 9, 1000.0, 0.1, public_key=PUBLIC.hex(), **more)


@pytest.mark.parametrize(("bogus", "valid"), [("wrong", False), ("right", True)])
def test_bogus_initiations_are_what_they_say(bogus: str, valid: bool) -> None:
    made = spray.payloads(job(bogus=bogus))
    assert len(set(made)) == len(made) == spray.POOL
    for message in made:
        assert isinstance(messages.parse_handshake(message), messages.Initiation)
        assert mac1_valid(mac1_key(PUBLIC), message) is valid


def test_data_has_the_requested_size() -> None:
    assert spray.payloads(job(size=1300)) == [bytes(1300)]


def test_datagrams_go_to_each_host_in_turn() -> None:
    """Receivers count them."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.2", one.getsockname()[1]))
        port = one.getsockname()[1]
        sent = spray.spray(spray.Job(("127.0.0.1", "127.0.0.2"), port, 1000.0, 0.1, size=5))
        assert sent.packets >= spray.BATCH
        assert sent.per_second > 0
        for sock in (one, two):
            sock.settimeout(30)
            assert sock.recv(100) == bytes(5)


def test_initiations_are_valid_and_in_peer_order() -> None:
    initiators = handshakes.Initiators(PUBLIC, count=3)
    made = initiators.initiations(2)
    responder_key = noise.StaticKey(PRIVATE)
    stamps: dict[bytes, list[bytes]] = {}
    for number, message in enumerate(made):
        parsed_message = messages.parse_handshake(message)
        assert isinstance(parsed_message, messages.Initiation)
        assert mac1_valid(mac1_key(PUBLIC), message)
        responder = noise.Responder(responder_key, prologue=IDENTIFIER)
        body = message[8:-32]
        public = responder.read_static(body)
        assert public == initiators.public_keys[number % 3]
        stamps.setdefault(public, []).append(responder.read_payload(body))
    assert all(first < second for first, second in stamps.values())


def answering(sock: socket.socket, answer: bytes, count: int, swallow: int) -> threading.Thread:
    """Answers ``count`` datagrams, except the first ``swallow``."""

    def run() -> None:
        for number in range(count):
            _, source = sock.recvfrom(256)
            if number >= swallow:
                sock.sendto(answer, source)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("swallow", [0, 3])
def test_exchange_counts_answers_and_gives_up(swallow: int) -> None:
    """An initiation without an answer is abandoned after a time."""
    response = messages.pack_response(1, 2, bytes(48)) + bytes(32)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        node.bind(("127.0.0.1", 0))
        node.settimeout(30)
        here.connect(node.getsockname())
        thread = answering(node, response, 20, swallow)
        responses, cookies, seconds = handshakes.exchange(here, [bytes(148)] * 20, window=4)
        thread.join(10)
    assert (responses, cookies) == (20 - swallow, 0)
    assert seconds > 0


# ---- figures and tables ----


def test_spread_and_ratio() -> None:
    assert samples.spread([]) is None
    assert samples.spread([None, None]) is None
    assert samples.spread([1.0, None, 3.0]) == {"median": 2.0, "runs": [1.0, None, 3.0]}
    assert samples.ratio([1.0, 4.0, None], [2.0, 1.0, 1.0]) == 2.25
    assert samples.ratio([1.0], [0.0]) is None


def test_the_table_of_peers() -> None:
    first = [{"cpu_ns_per_packet": 4000.0, "packets_s": 40000.0, "lost_percent": 0.0}] * 3
    second = [{"packets_s": 0.0, "lost_percent": 100.0}, *[{**first[0], "cpu_ns_per_packet": 4400.0}] * 2]
    rows = [
        {
            "peers": case.peers,
            "prefixes": case.prefixes,
            **peers._row(taken, first),
            "fill_s": 1.0,
            "resident_mib": 40.0,
        }
        for case, taken in ((peers.CASES[0], first), (peers.CASES[2], second))
    ]
    result = {**HOST, "rate": 40000, "size": 64, "cases": rows}
    assert json.loads(json.dumps(result)) == result
    lines = bench_peers.as_table(result).splitlines()
    assert lines[-2].split()[:4] == ["1", "1", "4000", "1.000"]
    assert lines[-1].split()[:4] == ["10000", "130000", "4400", "1.100"]


def test_configuration_for_wg_has_each_peer_once() -> None:
    settings = Config.loads(setup.configuration(300))
    assert len({peer.public_key for peer in settings.peers}) == 300
    assert len({peer.allowed_ips for peer in settings.peers}) == 300
    assert all(peer.endpoint for peer in settings.peers)


def test_figures_of_setup_are_a_grid() -> None:
    ours, theirs = ({figure.key: number for figure in setup.FIGURES} for number in (1.0, 2.0))
    result = summary([("udpring", "a", [ours]), ("other", "b", [theirs])], figures=setup.FIGURES)
    lines = figures_grid(result, setup.FIGURES).splitlines()
    assert len(lines) == 1 + len(setup.FIGURES)
    assert lines[1].split() == ["start", "to", "socket", "ready", "ms", "1.0", "2.0", "0.50"]


def test_the_table_of_handshakes() -> None:
    kept = {
        phase: [{"gbit_s": speed, **({"flood_packets_s": 1e5} if phase != "quiet" else {})}]
        for phase, speed in zip(handshakes.PHASES, (4.0, 3.0, 2.0, 1.0), strict=True)
    }
    answered = [{"handshakes_s": 2000.0, "answered_percent": 100.0, "cookie_replies": 0.0}]
    result = HOST | handshakes.summary(answered, kept, 1e5)
    assert json.loads(json.dumps(result)) == result
    text = bench_handshakes.as_table(result | NO_OTHERS)
    assert "2000 handshakes/s answered, - ms" in text
    assert text.splitlines()[-1].split() == ["right-mac1", "1.00", "100000", "0.25", "0.33"]


def test_table_of_handshakes_compares_with_another_program() -> None:
    ours = [{"handshakes_s": 3000.0, "cpu_ms_per_handshake": 0.2}]
    theirs = [{"handshakes_s": 2000.0, "cpu_ms_per_handshake": 0.4}]
    nothing: dict[str, list[dict[str, float]]] = {phase: [] for phase in handshakes.PHASES}
    other = handshakes.against("other", theirs, ours)
    result = HOST | handshakes.summary(ours, nothing, 1e5) | NO_OTHERS | {"against": [other]}
    assert "2000 and 0.400 ms by other: ours is 1.50 of its rate and 0.50 of its time" in (
        bench_handshakes.as_table(result)
    )


def test_table_of_handshakes_has_the_delays_of_the_loop() -> None:
    delay = {"quiet": {"p50_ms": 0.1, "p99_ms": 0.5}, "right-mac1": {"p50_ms": 0.2, "p99_ms": 1.5}}
    nothing: dict[str, list[dict[str, float]]] = {phase: [] for phase in handshakes.PHASES}
    delays = loop_delay.delays_summary({name: [sample] for name, sample in delay.items()}, 1e4)
    result = HOST | handshakes.summary([], nothing, 1e5) | NO_OTHERS | {"loop": delays}
    lines = bench_handshakes.as_table(result).splitlines()
    assert lines[-1].split() == ["right-mac1", "0.20", "1.50", "-", "-"]


def test_handshakes_among_many_peers_are_compared() -> None:
    kept = {case: [{"cpu_ms_per_handshake": cost}] for case, cost in (("alone", 0.2), ("among", 0.3))}
    grown = handshakes.tables_summary(kept)
    nothing: dict[str, list[dict[str, float]]] = {phase: [] for phase in handshakes.PHASES}
    result = HOST | handshakes.summary([], nothing, 1e5) | NO_OTHERS | {"tables": grown}
    text = bench_handshakes.as_table(result)
    assert "each with 1000 peers, 0.300 with 64000 others and 500000 prefixes: 1.50 times that" in text


class Working:
    """Uses CPU time for a while."""

    program = SimpleNamespace(name="working")

    def __init__(self, *used: float) -> None:
        self._used = iter(used)
        self.looks = 0

    def cpu_seconds(self) -> float:
        self.looks += 1
        return next(self._used)


def test_handshakes_wait_for_an_idle_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "IDLE_FOR", 0.0)
    node: Any = Working(0.0, 0.5, 1.0, 1.01)
    handshakes._until_idle(node)
    assert node.looks == 4
    monkeypatch.setattr(handshakes, "IDLE_WAIT", 0.0)
    with pytest.raises(UdpringError, match="working is still busy"):
        handshakes._until_idle(node=Working(0.0))  # type: ignore[arg-type]


def test_delays_of_a_loop_are_measured_under_a_flood() -> None:
    kept = loop_delay.measure_delays(1000, 0.3, 1, lambda text: None)
    assert list(kept) == list(loop_delay.SITUATIONS)
    for (sample,) in kept.values():
        assert 0 < sample["p50_ms"] <= sample["p99_ms"]
    assert kept["right-mac1"][0]["flood_packets_s"] > 0


def test_omitted_part_is_null_and_not_shown() -> None:
    nothing: dict[str, list[dict[str, float]]] = {phase: [] for phase in handshakes.PHASES}
    result = HOST | handshakes.summary([{"handshakes_s": 1.0}], nothing, 1e5)
    assert result["flood"] is None
    assert "flood" not in bench_handshakes.as_table(result | NO_OTHERS)
    assert "handshakes/s" not in bench_handshakes.as_table({**result, **NO_OTHERS, "handshakes": None})
