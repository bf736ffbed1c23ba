"""A comparison as a picture: a panel for each kind of figure, a bar for each program."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from udpring.errors import ConfigError, HostError
from udpring_tools.bench.measures import FIGURES, Figure

__all__ = ["draw", "require_drawable"]

COLUMNS = 3
PANEL = (4.6, 3.2)
"""Inches."""
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


def _panels(result: dict[str, Any]) -> dict[str, list[Figure]]:
    """The figures that at least one program has, by group, in order."""
    panels: dict[str, list[Figure]] = {}
    for figure in FIGURES:
        if figure.group and any(figure.key in program["figures"] for program in result["programs"]):
            panels.setdefault(figure.group, []).append(figure)
    return panels


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes the result of ``compare`` as a PNG. The whiskers span the runs from minimum to maximum. Raises
    as ``require_drawable``, and OSError."""
    require_drawable(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    panels = _panels(result)
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    canvas = Canvas(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.8), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(
        f"udpring {result['udpring']} on Linux {result['kernel']}, {result['cpu']}, {result['cpus']} CPUs\n"
        f"median of {result['runs']}, whiskers: least and greatest",
        fontsize=10,
    )
    for position, (group, figures) in enumerate(panels.items(), 1):
        _panel(canvas.add_subplot(rows, columns, position), group, figures, result["programs"])
    if panels:
        handles, names = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6), frameon=False)
    with path.open("wb") as file:
        canvas.savefig(file, format="png", dpi=144)


def _panel(axes: Any, group: str, figures: list[Figure], programs: list[dict[str, Any]]) -> None:
    width = 0.8 / len(programs)
    for number, program in enumerate(programs):
        places = [place + (number - (len(programs) - 1) / 2) * width for place in range(len(figures))]
        given = [program["figures"].get(figure.key) for figure in figures]
        heights = [each["median"] if each else 0.0 for each in given]
        runs = [[run for run in each["runs"] if run is not None] if each else [0.0] for each in given]
        spread = [
            [height - min(each) for height, each in zip(heights, runs, strict=True)],
            [max(each) - height for height, each in zip(heights, runs, strict=True)],
        ]
        color = COLORS[number % len(COLORS)]
        axes.bar(places, heights, width * 0.92, color=color, label=program["program"])
        axes.errorbar(places, heights, yerr=spread, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        for figure, place, each, most in zip(figures, places, given, map(max, runs), strict=True):
            if each:
                label = f"{each['median']:.{min(figure.digits, 2)}f}"
                axes.annotate(
                    label, (place, most), (0, 2), textcoords="offset points", ha="center", fontsize=7
                )
    axes.set_xticks(range(len(figures)), [_short(figure) for figure in figures], fontsize=8)
    axes.set_title(f"{group} ({'less' if figures[0].lower_is_better else 'more'} is better)", fontsize=9)
    axes.set_ylabel(figures[0].unit, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)


def _short(figure: Figure) -> str:
    """The part of the text that is not in the panel's title."""
    words = figure.title.split(", ")
    return words[-1] if len(words) > 1 and not words[0].startswith("UDP") else words[0]
