"""Several programs measured in turn, run after run: medians, and ratios of udpring to each other program.

1. A run starts a new pair of each program, one after another, and measures it. Every other run goes through
   the programs in reverse, so that a machine that slows down favours none.
2. A program's figure is the median of its runs.
3. A ratio is udpring's figure divided by the other's within one run, where both were measured close in time.
   The result is the median of these. It is not the ratio of the medians.

The result is a dict of JSON types, as ``--json`` prints it and ``table`` and ``plot`` read it:

    {"udpring": version, "kernel", "machine", "cpus", "cpu", "began": UTC time, "load_average": [before,
    after], "seconds", "runs", "measures": [name], "programs": [{"program", "command", "cipher", "tier",
    "tier_reason", "workers", "aead", "figures": {key: {"median", "runs": [number or null]}}}],
    "ratios": [{"to": program, "figures": {key: number}}]}
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.measures import FIGURES, MEASURES, Figure, measure
from udpring_tools.bench.pair import Ground, Pair
from udpring_tools.bench.program import Program
from udpring_tools.bench.samples import ratio, spread
from udpring_tools.bench.space import require_tools

__all__ = ["compare", "summary"]

Say = Callable[[str], None]
Sample = dict[str, float]
NodeFacts = dict[str, str | int | None]
"""A program's description of itself."""
NO_FACTS: NodeFacts = dict.fromkeys(("cipher", "tier", "tier_reason", "workers", "aead"))


def compare(
    programs: Sequence[Program], names: Sequence[str], seconds: float, runs: int, say: Say
) -> dict[str, Any]:
    """Measures the programs. The first one is udpring. ``say`` gets a progress line for each step. Raises
    HostError, UdpringError."""
    require_tools("ip", "nsenter", "unshare", "setpriv", "ping", "iperf3")
    facts = host_facts()
    before = load()
    samples: dict[str, list[Sample]] = {program.name: [] for program in programs}
    nodes: dict[str, NodeFacts] = {}
    with Ground() as ground:
        for run in range(runs):
            for program in programs if run % 2 == 0 else reversed(programs):

                def tell(what: str, where: str = f"run {run + 1}/{runs}, {program.name}") -> None:
                    say(f"{where}: {what}")

                tell("starting two nodes")
                with Pair(ground, program) as pair:
                    nodes[program.name] = {"cipher": str(program.cipher), **pair.nodes[0].facts()}
                    samples[program.name].append(measure(pair, names, seconds, tell))
    return {
        **facts,
        "load_average": [before, load()],
        "seconds": seconds,
        "runs": runs,
        "measures": [name for name in MEASURES if name in names],
        **summary(
            [(program.name, shlex.join(program.argv), samples[program.name]) for program in programs], nodes
        ),
    }


def summary(
    taken: Sequence[tuple[str, str, Sequence[Sample]]],
    nodes: dict[str, NodeFacts] | None = None,
    figures: Sequence[Figure] = FIGURES,
) -> dict[str, Any]:
    """``programs`` and ``ratios``, from (name, command, samples of its runs). udpring is first."""
    programs = [
        {
            "program": name,
            "command": command,
            **NO_FACTS,
            **(nodes or {}).get(name, {}),
            "figures": _figures(samples, figures),
        }
        for name, command, samples in taken
    ]
    ours = taken[0][2]
    ratios = [{"to": name, "figures": _ratios(ours, theirs, figures)} for name, _, theirs in taken[1:]]
    return {"programs": programs, "ratios": ratios}


def _figures(samples: Sequence[Sample], figures: Sequence[Figure]) -> dict[str, Any]:
    """A figure that no run has is omitted."""
    found = {figure.key: spread([sample.get(figure.key) for sample in samples]) for figure in figures}
    return {key: each for key, each in found.items() if each is not None}


def _ratios(ours: Sequence[Sample], theirs: Sequence[Sample], figures: Sequence[Figure]) -> dict[str, float]:
    found = {}
    for figure in figures:
        each = ratio([one.get(figure.key) for one in ours], [one.get(figure.key) for one in theirs])
        if each is not None:
            found[figure.key] = each
    return found
