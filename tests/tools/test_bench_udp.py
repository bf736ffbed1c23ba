"""``udpring bench udp``: traffic, losses, the table, the goals, the picture. Nothing is timed."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from udpring.errors import HostError, RingError
from udpring.udp import RecvRing
from udpring_tools.bench import udp, udp_contenders, udp_work
from udpring_tools.bench.udp_contenders import Mmsg, Rings, SocketLoop
from udpring_tools.bench.udp_plot import draw
from udpring_tools.bench.udp_table import GOALS, goals_reached, udp_table
from udpring_tools.bench.udp_work import PATTERNS, SIZES, MmsgBursts, Pair, Work, lossless
from udpring_tools.commands import bench, bench_udp

HOST: dict[str, Any] = {
    "udpring": "0.1.0",
    "kernel": "6.18.0",
    "machine": "x86_64",
    "cpus": 2,
    "cpu": "A CPU",
    "began": "2026-01-01T00:00:00",
    "load_average": [0.0, 1.0],
    "seconds": 1,
    "rounds": 2,
    "receive_buffer": 425984,
    "tiers": ["uring-multishot", "mmsg"],
    "left_out": [{"contender": "uvloop", "why": "it is not installed"}],
}
ROUND_NS = 1_000_000


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers(dest="command"))
    return parser.parse_args(["bench", "udp", *words])


def run(*words: str) -> int:
    return bench_udp.run(parsed(*words))


def figure(contender: str, ratios: dict[str, float], **more: Any) -> dict[str, Any]:
    plain = {"pattern": "to-1", "size": 1200, "burst": 256, "part": "both", "sent": 512, "lost": 0}
    taken = {"median": 100.0, "runs": [90.0, 110.0]}
    return plain | {"contender": contender, "ns": taken, "ratios": ratios} | more


RESULT = HOST | {
    "figures": [
        figure("socket", {}),
        figure("udpring uring-multishot, columns", {"socket": 12.5, "udpring mmsg, columns": 1.1}),
        figure("udpring mmsg, columns", {"socket": 9.5, "udpring uring-multishot, columns": 0.9}),
        figure("udpring mmsg, views", {}, lost=3, ns=None),
    ]
}


def test_the_command_knows_the_names() -> None:
    assert tuple(PATTERNS) == bench_udp.PATTERNS
    assert tuple(map(str, SIZES)) == bench_udp.SIZES
    assert udp.PARTS == bench_udp.PARTS
    assert {goal.pattern for goal in GOALS} <= set(PATTERNS)
    assert {goal.size for goal in GOALS} <= set(SIZES)
    assert {goal.way for goal in GOALS} <= set(udp.WAYS)
    assert {goal.peer for goal in GOALS} <= set(udp.PEERS)


@pytest.mark.parametrize(
    "words", [("--only", "all"), ("--only", ""), ("--tier", "best"), ("--seconds", "0"), ("--plot",)]
)
def test_wrong_usage_exits_2(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        parsed(*words)
    assert left.value.code == 2


def test_only_names_each_kind_for_itself() -> None:
    assert parsed("--only", "1200,both,64").only == (("both",), (), ("64", "1200"))


def test_all_contenders_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--quick", "--seconds", "1", "--only", "to-64,200,receive-singles,both", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    contenders = udp.contenders_of(result)
    ours = [udp.contender_of(tier, way) for tier in result["tiers"] for way in udp.WAYS if way != "one ring"]
    left_out = [each["contender"] for each in result["left_out"]]
    assert contenders == [each for each in (*udp.PEERS, *ours) if each not in left_out]
    assert "mmsg" in result["tiers"]
    for each in result["figures"]:
        assert (each["pattern"], each["size"]) == ("to-64", 200)
        assert each["sent"] > 0
        assert each["sent"] % each["burst"] == 0
        assert len([one for one in each["ns"]["runs"] if one is not None]) == 3 or each["lost"]
        assert ("cpu_ns" in each) == (each["part"] == "both")
    assert {each["part"] for each in result["figures"]} == {"both", "receive-singles"}


def test_one_ring_receives_from_many_sockets() -> None:
    result = udp.measure(["sockets-64"], [64], ["both", "receive-singles"], None, 0.5, 1, lambda _: None)
    ours = [
        udp.contender_of(tier, way) for tier in result["tiers"] for way in ("columns", "views", "one ring")
    ]
    peers = [name for name in ("socket", "asyncio", "uvloop") if name in udp.contenders_of(result)]
    assert udp.contenders_of(result) == [*peers, *ours]
    assert len(peers) >= 2
    for each in result["figures"]:
        assert each["burst"] == 256
        assert each["lost"] == 0
        assert each["sent"] > 0


def test_second_thread_is_measured_where_useful(monkeypatch: pytest.MonkeyPatch) -> None:
    parallel = [udp.TWO_THREADS, "udpring mmsg, 1 helper"]
    for cpus, usable in (({0, 1}, True), ({0}, False)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cpus=cpus: cpus)
        result = udp.measure(["to-1", "to-64"], [64], ["both"], ["mmsg"], 0.05, 1, lambda _: None)
        have = {(each["pattern"], each["contender"]) for each in result["figures"]}
        for name in parallel:
            assert ("to-1", name) not in have
            assert (("to-64", name) in have) == usable
        left_out = [each["contender"] for each in result["left_out"]]
        assert [name for name in parallel if name in left_out] == ([] if usable else parallel)
        one, many = udp_table(result).split("both, ")[1:]
        for name in parallel:
            assert name not in one
            assert (name in many) == usable


def test_a_tier_is_measured_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "udp.png"
    words = ("--only", "to-1,200,send", "--tier", "mmsg", "--plot", str(picture))
    assert run("--quick", "--seconds", "1", *words) == 0
    shown = capsys.readouterr()
    assert "udpring mmsg, columns" in shown.out
    assert "uring-" not in shown.out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_missing_contender_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the output reports it."""

    def refuse(sock: object, buffers: int, tier: str) -> RecvRing:
        if tier != "mmsg":
            raise RingError("no rings here", errno=1)
        return RecvRing(sock, buffers, tier=tier)  # type: ignore[arg-type]

    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(udp, "RecvRing", refuse)
    said: list[str] = []
    result = udp.measure(["to-1"], [64], ["both"], None, 0.05, 1, said.append)
    assert result["tiers"] == ["mmsg"]
    assert [each["contender"] for each in result["left_out"]] == [
        "uvloop",
        "udpring uring-multishot",
        "udpring uring-pool",
    ]
    assert any("no rings here" in line for line in said)
    assert "left out: uvloop: it is not installed" in udp_table(result)
    with pytest.raises(RingError, match="no rings here"):
        udp.measure(["to-1"], [64], ["both"], ["uring-pool"], 0.05, 1, said.append)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=lambda pattern: pattern.name)
def test_patterns_are_what_they_say(pattern: udp_work.Pattern) -> None:
    hosts = pattern.hosts()
    assert len(hosts) == pattern.destinations * pattern.each
    assert len(set(hosts)) == pattern.destinations
    assert {hosts.count(host) for host in hosts} == {pattern.each}
    work = Work.of(pattern, 64, len(hosts) // 2)
    assert [host for burst in work.bursts for host in burst] == hosts


def openers() -> dict[str, Any]:
    return udp._contenders(None)[0]


@pytest.mark.parametrize("name", openers())
def test_every_contender_sends_to_every_destination(name: str) -> None:
    """Also in bursts of a part of the pattern. Its datagrams and another sender's arrive."""
    work = Work.of(PATTERNS["to-1000"], 64, 125)
    with contextlib.closing(openers()[name](work)) as contender:
        for fed in (False, True):
            done = contender.round(ROUND_NS, fed)
            assert done.sent >= work.burst
            assert done.sent % work.burst == 0
            assert done.lost == 0
            assert done.receive_ns > 0
            assert done.send_ns > 0


@pytest.mark.parametrize(
    "opener",
    [SocketLoop, Mmsg, openers()["asyncio"], lambda work: Rings(work, "mmsg", False)],
    ids=["socket", "mmsg in C", "asyncio", "rings"],
)
def test_losses_are_counted(opener: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket has room for a few datagrams, and a burst is 256."""
    for module in (udp_work, udp_contenders):
        monkeypatch.setattr(module, "LOSS_WAIT", 0.01)
    monkeypatch.setattr(udp_work, "ROOM", 4096)
    with contextlib.closing(opener(Work.of(PATTERNS["to-1"], 1400, 256))) as contender:
        done = contender.round(ROUND_NS, True)
    assert 0 < done.lost < done.sent


def test_bursts_are_as_long_as_the_socket_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_work, "LOSS_WAIT", 0.01)
    monkeypatch.setattr(udp_work, "ROOM", 100_000)
    work = lossless(PATTERNS["to-64"], 1400)
    assert work.burst < 256
    assert [host for burst in work.bursts for host in burst] == PATTERNS["to-64"].hosts()
    with contextlib.closing(Mmsg(work)) as contender:
        assert contender.round(ROUND_NS, False).lost == 0


def test_where_nothing_arrives_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MmsgBursts, "run", lambda *_, **__: 0)
    with pytest.raises(HostError, match="do not all arrive"):
        lossless(PATTERNS["to-1"], 64)


def test_the_baseline_refuses_what_makes_no_sense() -> None:
    with contextlib.closing(Pair()) as pair, pytest.raises(HostError):
        MmsgBursts(Work.of(PATTERNS["to-1"], 65508, 1), pair)


def test_table_shows_ratios_goals_and_losses() -> None:
    text = udp_table(RESULT)
    assert "both, one destination, bursts of 256" in text
    assert "left out: uvloop: it is not installed" in text
    assert "lost: 3 of 512: udpring mmsg, views, both, one destination, 1200 B" in text
    row = next(line for line in text.splitlines() if "one destination, 1200 B, columns" in line)
    assert row.split()[-4:] == ["10", "12.50", "9.50", "reached"]
    assert "no datagram was lost" in udp_table(RESULT | {"figures": RESULT["figures"][:3]})


def test_goals_are_those_of_the_best_tier() -> None:
    first, alike = goals_reached(RESULT)
    assert (first["goal"], first["peer"], first["reached"]) == (10, "socket", True)
    assert first["ratios"] == {"uring-multishot": 12.5, "mmsg": 9.5}
    assert (alike["peer"], alike["ratios"], alike["reached"]) == (
        "tier mmsg",
        {"uring-multishot": 1.1},
        True,
    )
    short = RESULT | {"tiers": ["mmsg"]}
    assert [each["reached"] for each in goals_reached(short)] == [False]


def test_what_lost_all_rounds_is_drawn_too(tmp_path: Path) -> None:
    draw(RESULT, tmp_path / "udp.png")
    assert (tmp_path / "udp.png").read_bytes().startswith(b"\x89PNG")
