"""``bench embedding``: the ways into a tunnel without root against a node with root, all in each run.

Each run measures, in turn: two nodes with root; two rootless nodes, for each device; ``udpring proxy
--socks`` towards a node with root; and packets of a program. Every other run goes in reverse. A ratio is a
way's figure divided by that of the nodes with root in the same run, and the median of these is shown.

    {... facts, "ways": [{"way", "figures": {key: {"median", "runs"}}, "ratios": {key: number}, "goal"}],
    "packets": [{"payload", ...}]}
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.packets import FIGURES as PACKET_FIGURES
from udpring_tools.bench.packets import SIZES, measure_size
from udpring_tools.bench.pair import Ground, Pair
from udpring_tools.bench.program import Program
from udpring_tools.bench.proxied import ProxiedPair
from udpring_tools.bench.samples import ratio, spread
from udpring_tools.bench.space import require_tools
from udpring_tools.bench.stream import stream
from udpring_tools.bench.table import grid, head

__all__ = ["STEPS", "embedding_summary", "embedding_table", "measure_embedding"]

Say = Callable[[str], None]
Sample = dict[str, float]

ROOT = "root"
GOALS = {"rootless tun": 0.9, "rootless packet": 0.9, "proxy socks": 0.5}
"""What each way is to reach, as a part of the nodes with root. In the order of measurement."""
STEPS: dict[str, tuple[str | int, ...]] = {
    "tun": (ROOT, "rootless tun"),
    "packet": (ROOT, "rootless packet"),
    "proxy": (ROOT, "proxy socks"),
    "packets": SIZES,
}
"""What each name of ``--only`` measures."""
PACKET_GOALS = {64: "250000 packets", 1300: "3 Gbit"}
FIGURES = {
    "out_gbit_s": "TCP, out: Gbit/s",
    "in_gbit_s": "TCP, in: Gbit/s",
    "out_gbit_cpu_s": "TCP, out: Gbit per CPU-s",
    "in_gbit_cpu_s": "TCP, in: Gbit per CPU-s",
}


def _pair(way: str, ground: Ground) -> AbstractContextManager[Pair | ProxiedPair]:
    if way == "proxy socks":
        return ProxiedPair(ground)
    return Pair(ground, Program.ours() if way == ROOT else Program.rootless(way.split()[1]))


def _sample(way: str, pair: Pair | ProxiedPair, seconds: float, say: Say) -> Sample:
    sample: Sample = {}
    socks = pair.socks if isinstance(pair, ProxiedPair) else 0
    stream(pair.here, pair.there, pair.target, 0.5, out=True, socks=socks)  # memory is touched first
    for name in ("out", "in"):
        say(f"{way}: TCP, {name}")
        before = pair.cpu_seconds()
        run = stream(pair.here, pair.there, pair.target, seconds, out=name == "out", socks=socks)
        used = pair.cpu_seconds() - before
        sample[f"{name}_gbit_s"] = run.gbit_per_s
        if used:
            sample[f"{name}_gbit_cpu_s"] = run.gbit / used
    return sample


def measure_embedding(names: Iterable[str], seconds: float, runs: int, say: Say) -> dict[str, Any]:
    """Measures these of ``STEPS``. ``say`` gets a progress line for each step. Raises HostError,
    UdpringError."""
    require_tools("ip", "nsenter", "unshare", "setpriv", "ping")
    facts, before = host_facts(), load()
    steps: list[str | int] = []
    for name, needed in STEPS.items():
        if name in names:
            steps += [step for step in needed if step not in steps]
    samples: dict[str, list[Sample]] = {step: [] for step in steps if isinstance(step, str)}
    packets: dict[int, list[dict[str, Any]]] = {step: [] for step in steps if isinstance(step, int)}
    choices: dict[str, Any] = {}
    with Ground() as ground:
        for run in range(runs):
            for step in steps if run % 2 == 0 else reversed(steps):

                def tell(what: str, where: str = f"run {run + 1}/{runs}") -> None:
                    say(f"{where}, {what}")

                if isinstance(step, int):
                    tell(f"packets of {step} B")
                    packets[step].append(asyncio.run(measure_size(step, seconds, None)))
                    choices = choices or packets[step][0]
                else:
                    with _pair(step, ground) as pair:
                        samples[step].append(_sample(step, pair, seconds, tell))
                        choices = choices or pair.facts()
    return {
        **facts,
        "load_average": [before, load()],
        "seconds": seconds,
        "runs": runs,
        **{name: choices[name] for name in ("tier", "tier_reason", "aead")},
        **embedding_summary(samples, packets),
    }


def embedding_summary(
    samples: Mapping[str, list[Sample]], packets: Mapping[int, list[dict[str, Any]]]
) -> dict[str, Any]:
    """``ways`` and ``packets`` of the result, from the samples of each run."""
    return {
        "ways": [
            {
                "way": way,
                "figures": {key: spread([each.get(key) for each in taken]) for key in FIGURES},
                "ratios": {key: _ratio(taken, samples[ROOT], key) for key in FIGURES},
                "goal": GOALS.get(way),
            }
            for way, taken in samples.items()
        ],
        "packets": [
            {"payload": size, **{name: spread([each[name] for each in taken]) for name in PACKET_FIGURES}}
            for size, taken in packets.items()
        ],
    }


def _ratio(these: list[Sample], those: list[Sample], key: str) -> float | None:
    return ratio([each.get(key) for each in these], [each.get(key) for each in those])


def embedding_table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = head(result, result)
    if ways := result["ways"]:
        table = [["", *(each["way"] for each in ways)]]
        table += [[title, *(_cell(each, key) for each in ways)] for key, title in FIGURES.items()]
        table.append(["ratio to be reached", *(_number(each["goal"]) for each in ways)])
        lines += ["", grid(table, left=1)]
    if result["packets"]:
        table = [["packets of a program", "packets per CPU-s", "Gbit per CPU-s", "to be reached"]]
        for row in result["packets"]:
            goal = PACKET_GOALS[row["payload"]]
            figures = f"{row['packets_cpu_s']['median']:.0f}", f"{row['gbit_cpu_s']['median']:.2f}"
            table.append([f"{row['payload']} B", *figures, goal])
        lines += ["", grid(table, left=1)]
    return "\n".join(lines)


def _cell(way: dict[str, Any], key: str) -> str:
    figure, part = way["figures"][key], way["ratios"][key]
    shown = "-" if figure is None else f"{figure['median']:.2f}"
    return shown if way["goal"] is None else f"{shown} ({_number(part)})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
