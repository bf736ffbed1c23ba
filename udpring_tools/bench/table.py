"""A comparison as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from udpring_tools.bench.measures import FIGURES, Figure

__all__ = ["comparison_table", "figures_grid", "grid", "head"]


def grid(lines: Sequence[Sequence[str]], left: int = 2) -> str:
    """Columns as wide as their widest cell. The first ``left`` (names, units) are left-aligned, numbers
    right-aligned."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def comparison_table(result: dict[str, Any]) -> str:
    """The result of ``compare`` for people."""
    return "\n".join([*head(result, result["programs"][0]), "", figures_grid(result, FIGURES)])


def figures_grid(result: dict[str, Any], figures: Sequence[Figure]) -> str:
    """The medians of each program, and the ratios."""
    names = [program["program"] for program in result["programs"]]
    lines = [["", "unit", *names, *(f"{names[0]} / {ratio['to']}" for ratio in result["ratios"])]]
    for figure in figures:
        medians = [program["figures"].get(figure.key) for program in result["programs"]]
        if not any(medians):
            continue
        ratios = [ratio["figures"].get(figure.key) for ratio in result["ratios"]]
        lines.append(
            [
                figure.title,
                figure.unit,
                *("-" if each is None else f"{each['median']:.{figure.digits}f}" for each in medians),
                *("-" if each is None else f"{each:.2f}" for each in ratios),
            ]
        )
    return grid(lines)


def head(result: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """The subject, place and time of the measurement. udpring's line has the tier and the AEAD."""
    cipher = f"{ours['cipher']} by " if ours.get("cipher") else ""
    number = ours.get("workers")
    workers = f", {number} worker{'s' if number > 1 else ''}" if number else ""
    aead = f"AEAD {cipher}{ours['aead'] or '-'}"
    lines = [f"udpring {result['udpring']}: tier {ours['tier'] or '-'}, {aead}{workers}"]
    if ours["tier_reason"]:
        lines.append(f"  {ours['tier_reason']}")
    before, after = result["load_average"]
    return [
        *lines,
        f"Linux {result['kernel']}, {result['cpu']}, {result['cpus']} CPUs for both nodes and the load",
        f"{result['began']}: median of {result['runs']} run{'s' if result['runs'] > 1 else ''}, "
        f"{result['seconds']:g} s each; load average {before:g} before, {after:g} after",
    ]
