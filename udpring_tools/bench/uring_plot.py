"""The result of ``bench uring`` as a picture: a panel for the first two figures of each row, a bar for each
contender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from udpring_tools.bench.plot import require_drawable
from udpring_tools.bench.uring_row import OURS

__all__ = ["draw"]

PANEL = (5.2, 2.2)
"""Inches."""
COLUMNS = 2
OUR_COLOR, PEER_COLOR = "#0b6e99", "#b4b4b4"


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes it as a PNG. The whiskers span the runs. Raises as ``require_drawable``, and OSError."""
    require_drawable(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    rows = result["rows"]
    canvas = Canvas(figsize=(PANEL[0] * COLUMNS, PANEL[1] * max(1, len(rows)) + 0.8), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(
        f"udpring {result['udpring']} on Linux {result['kernel']}, {result['cpu']}, {result['cpus']} CPUs\n"
        f"median of {result['runs']}, whiskers: least and greatest",
        fontsize=10,
    )
    for line, row in enumerate(rows):
        for column, (key, words) in enumerate(list(row["figures"].items())[:COLUMNS]):
            axes = canvas.add_subplot(len(rows), COLUMNS, line * COLUMNS + column + 1)
            axes.set_title(f"{row['row']}: {words}", fontsize=8)
            _panel(axes, row["contenders"], key)
    with path.open("wb") as file:
        canvas.savefig(file, format="png", dpi=120)


def _panel(axes: Any, contenders: list[dict[str, Any]], key: str) -> None:
    shown = [each for each in contenders if key in each["figures"]]
    names = [each["contender"] for each in shown]
    medians = [each["figures"][key]["median"] for each in shown]
    runs = [[run for run in each["figures"][key]["runs"] if run is not None] for each in shown]
    reach = [
        [median - min(run) for median, run in zip(medians, runs, strict=True)],
        [max(run) - median for median, run in zip(medians, runs, strict=True)],
    ]
    colors = [OUR_COLOR if name.startswith(OURS) else PEER_COLOR for name in names]
    axes.barh(names, medians, xerr=reach, color=colors, ecolor="#555555", capsize=2)
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
