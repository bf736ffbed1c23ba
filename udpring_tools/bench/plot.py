"""A result as a picture: a panel for each kind of figure, a bar for each program."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udpring.errors import ConfigError, HostError
from udpring_tools.bench import setup
from udpring_tools.bench.measures import FIGURES, Figure

__all__ = ["Panel", "draw", "panels_of", "require_drawable"]

COLUMNS = 3
PANEL = (4.6, 3.2)
"""Inches."""
LEAST_WIDTH = 7.5
"""For the title."""
COLORS = ("#0b6e99", "#b4b4b4", "#8a6d9e", "#c08552", "#6b8f71", "#555555")


def require_drawable(path: Path) -> None:
    """Call it before a long measurement. Raises HostError if matplotlib is missing, ConfigError if no file
    can be written at ``path``."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise HostError(
            "matplotlib is not installed. --plot needs it", cure="pip install 'udpring[plot]'"
        ) from None
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        raise ConfigError("cannot be written", file="--plot", text=str(path), cure="give another path")


@dataclass(frozen=True, slots=True)
class Panel:
    """Figures with one unit. ``series``: for each program or kind, its name and a figure for each label, a
    dict with "median" and "runs", or None."""

    title: str
    unit: str
    lower_is_better: bool
    digits: int
    labels: list[str]
    series: list[tuple[str, list[dict[str, Any] | None]]]


def panels_of(result: dict[str, Any]) -> list[Panel]:
    """The panels of a result of ``bench tunnel``, ``setup``, ``handshakes`` or ``peers``. Raises ValueError
    if it is none of these."""
    if "programs" in result:
        return _of_programs(result["programs"])
    if "flood" in result:
        return _of_handshakes(result)
    if "cases" in result:
        return _of_peers(result["cases"])
    raise ValueError("no chart is known for this result")


def _of_programs(programs: list[dict[str, Any]]) -> list[Panel]:
    """A panel for each group of the figures that at least one program has, in order."""
    figures: Sequence[Figure] = FIGURES
    if any("start_ms" in program["figures"] for program in programs):
        figures = setup.FIGURES
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        if figure.group and any(figure.key in program["figures"] for program in programs):
            groups.setdefault(figure.group, []).append(figure)
    return [
        Panel(
            group,
            members[0].unit,
            members[0].lower_is_better,
            members[0].digits,
            [_short(figure) for figure in members],
            [
                (program["program"], [program["figures"].get(figure.key) for figure in members])
                for program in programs
            ],
        )
        for group, members in groups.items()
    ]


def _of_handshakes(result: dict[str, Any]) -> list[Panel]:
    panels: list[Panel] = []
    if result["handshakes"]:
        answering = [("udpring", result["handshakes"]), *((each["name"], each) for each in result["against"])]
        panels += [
            Panel(title, unit, lower, digits, [""], [(name, [each[key]]) for name, each in answering])
            for key, title, unit, lower, digits in (
                ("handshakes_s", "Handshakes", "a second", False, 0),
                ("cpu_ms_per_handshake", "CPU time of a handshake", "ms", True, 3),
            )
        ]
    if result["flood"]:
        phases = result["flood"]["phases"]
        labels = [phase["phase"] for phase in phases]
        panels.append(
            Panel(
                f"TCP under {result['flood']['rate']} bogus initiations a second",
                "Gbit/s",
                False,
                2,
                labels,
                [("udpring", [phase["gbit_s"] for phase in phases])],
            )
        )
    if result["loop"]:
        situations = result["loop"]["situations"]
        labels = [each["situation"] for each in situations]
        panels += [
            Panel(
                f"Delay of the event loop, {key[:3]}",
                "ms",
                True,
                2,
                labels,
                [("udpring", [each[key] for each in situations])],
            )
            for key in ("p50_ms", "p99_ms")
        ]
    return panels


def _of_peers(cases: list[dict[str, Any]]) -> list[Panel]:
    labels = ["1 peer" if case["peers"] == 1 else f"{case['peers']} peers" for case in cases]
    memory: list[dict[str, Any] | None] = [
        {"median": case["resident_mib"], "runs": [case["resident_mib"]]} for case in cases
    ]
    cost: list[dict[str, Any] | None] = [case["cpu_ns_per_packet"] for case in cases]
    return [
        Panel("CPU time of a packet, both nodes", "ns", True, 0, labels, [("udpring", cost)]),
        Panel("Resident memory", "MiB", True, 1, labels, [("udpring", memory)]),
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes a result that ``panels_of`` takes as a PNG. The whiskers span the runs from minimum to maximum.
    Raises as ``panels_of`` and ``require_drawable``, and OSError."""
    panels = panels_of(result)
    require_drawable(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    width = max(PANEL[0] * columns, LEAST_WIDTH)
    canvas = Canvas(figsize=(width, PANEL[1] * rows + 0.8), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(
        f"udpring {result['udpring']} on Linux {result['kernel']}, {result['cpu']}, {result['cpus']} CPUs\n"
        f"median of {result['runs']}, whiskers: least and greatest",
        fontsize=10,
    )
    for position, panel in enumerate(panels, 1):
        _draw(canvas.add_subplot(rows, columns, position), panel)
    if panels:
        handles, names = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6), frameon=False)
    with path.open("wb") as file:
        canvas.savefig(file, format="png", dpi=144)


def _draw(axes: Any, panel: Panel) -> None:
    width = 0.8 / len(panel.series)
    for number, (name, given) in enumerate(panel.series):
        places = [place + (number - (len(panel.series) - 1) / 2) * width for place in range(len(given))]
        heights = [each["median"] if each else 0.0 for each in given]
        runs = [[run for run in each["runs"] if run is not None] if each else [0.0] for each in given]
        spread = [
            [height - min(each) for height, each in zip(heights, runs, strict=True)],
            [max(each) - height for height, each in zip(heights, runs, strict=True)],
        ]
        axes.bar(places, heights, width * 0.92, color=COLORS[number % len(COLORS)], label=name)
        axes.errorbar(places, heights, yerr=spread, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        for place, each, most in zip(places, given, map(max, runs), strict=True):
            if each:
                label = f"{each['median']:.{min(panel.digits, 2)}f}"
                axes.annotate(
                    label, (place, most), (0, 2), textcoords="offset points", ha="center", fontsize=7
                )
    axes.set_xticks(range(len(panel.labels)), panel.labels, fontsize=8)
    axes.set_title(f"{panel.title} ({'less' if panel.lower_is_better else 'more'} is better)", fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)


def _short(figure: Figure) -> str:
    """The part of the text that is not in the panel's title."""
    words = figure.title.split(", ")
    return words[-1] if len(words) > 1 and not words[0].startswith(("UDP", "wg")) else words[0]
