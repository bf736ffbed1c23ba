"""The result of ``bench udp`` as a picture: a row for each pattern, a panel for each part, bars by size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from udpring_tools.bench.plot import require_drawable
from udpring_tools.bench.udp import PARTS, PEERS, WAYS, contender_of, contenders_of
from udpring_tools.bench.udp_work import PATTERNS

__all__ = ["draw"]

PANEL = (5.0, 3.4)
"""Inches."""
PEER_COLORS = ("#b4b4b4", "#8f8f8f", "#c08552", "#8a6d9e", "#555555")
OUR_COLORS = (
    *("#0b6e99", "#6fb1cc", "#123f5a", "#3d8fb3"),
    *("#2f7d4f", "#93c5a3", "#184a2c", "#5f9f78"),
    *("#a4343a", "#dd9a9d", "#5e1b1f", "#c06a6e"),
)
EARLIER_COLORS = ("#e3b23c", "#f0d48a", "#a87f1f")
"""One for each tier."""


def draw(result: dict[str, Any], path: Path, earlier: dict[str, Any] | None = None) -> None:
    """Writes it as a PNG, with the bars of ``earlier``, the result of another version, if there is one.

    Raises as ``require_drawable``, and OSError.
    """
    require_drawable(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    before = _of_earlier(earlier) if earlier else []
    figures = [*result["figures"], *before]
    patterns = list(dict.fromkeys(each["pattern"] for each in figures))
    parts = [part for part in PARTS if any(each["part"] == part for each in figures)]
    added = dict.fromkeys(each["contender"] for each in before)
    contenders = [*contenders_of(result), *added]
    colors = _colors(result["tiers"]) | dict(zip(added, EARLIER_COLORS, strict=False))
    canvas = Canvas(figsize=(PANEL[0] * len(parts), PANEL[1] * len(patterns) + 1.2), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(
        f"udpring {result['udpring']} on Linux {result['kernel']}, {result['cpu']}, {result['cpus']} CPUs\n"
        "nanoseconds a datagram over loopback, less is better (logarithmic); "
        f"median of {result['rounds']} rounds",
        fontsize=10,
    )
    for row, pattern in enumerate(patterns):
        for column, part in enumerate(parts):
            here = [each for each in figures if each["pattern"] == pattern and each["part"] == part]
            axes = canvas.add_subplot(len(patterns), len(parts), row * len(parts) + column + 1)
            axes.set_title(f"{part}: {PATTERNS[pattern].title}", fontsize=8)
            _panel(axes, here, contenders, colors)
    if canvas.axes:
        handles, names = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    with path.open("wb") as file:
        canvas.savefig(file, format="png", dpi=120)


def _of_earlier(earlier: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of udpring's columns, with the version in the name."""
    wanted = {contender_of(tier, WAYS[0]) for tier in earlier["tiers"]}
    return [
        each | {"contender": each["contender"].replace("udpring", f"udpring {earlier['udpring']}", 1)}
        for each in earlier["figures"]
        if each["contender"] in wanted
    ]


def _colors(tiers: list[str]) -> dict[str, str]:
    """Colours for udpring, one for each tier, and dull ones for the others."""
    ours = [contender_of(tier, way) for tier in tiers for way in WAYS]
    return dict(zip(PEERS, PEER_COLORS, strict=True)) | dict(zip(ours, OUR_COLORS, strict=False))


def _panel(axes: Any, figures: list[dict[str, Any]], contenders: list[str], colors: dict[str, str]) -> None:
    sizes = list(dict.fromkeys(each["size"] for each in figures))
    taken = {
        (each["size"], each["contender"]): each["ns"]["median"] for each in figures if each["ns"] is not None
    }
    width = 0.84 / len(contenders)
    for number, name in enumerate(contenders):
        places = [place + (number - (len(contenders) - 1) / 2) * width for place in range(len(sizes))]
        heights = [taken.get((size, name), float("nan")) for size in sizes]
        axes.bar(places, heights, width * 0.92, color=colors[name], label=name)
    if taken:
        axes.set_yscale("log")
        axes.set_ylim(bottom=min(taken.values()) / 2)
    axes.set_xticks(range(len(sizes)), [f"{size} B" for size in sizes], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
