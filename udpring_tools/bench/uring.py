"""``bench uring``: io_uring for Python against its alternatives, in rows of one kind of work each.

1. A run measures every contender of every row, one after the other, for some seconds. Every other run goes in
   reverse. A contender is set up anew each time.
2. A figure is the median of the runs. A ratio is udpring's figure divided by the other's within one run. The
   result is the median of these.
3. A contender is left out if its package or program is missing, or if the host denies what it needs, such as
   io_uring. The result says why, and what to do.

The result is a dict of JSON types, as ``--json`` prints it and ``uring_table`` and ``uring_plot`` read it:

    {"udpring", "kernel", "machine", "cpus", "cpu", "began", "load_average": [before, after], "seconds",
    "runs", "left_out": [{"row", "contender", "why"}], "rows": [{"row", "title", "figures": {key: words},
    "contenders": [{"contender", "figures": {key: {"median", "runs"}}}], "ratios": [{"of", "to", "figures":
    {key: number}}]}]}
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from udpring.errors import HostError
from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.samples import ratio, spread
from udpring_tools.bench.uring_files import files_row, reads_row
from udpring_tools.bench.uring_nops import nops_row
from udpring_tools.bench.uring_row import OURS, Place, Row, Sample, Sizes
from udpring_tools.bench.uring_streams import echo_row, http_row, sink_row

__all__ = ["ROWS", "measure"]

Say = Callable[[str], None]

ROWS: dict[str, Callable[[Place], Row]] = {
    "nops": nops_row,
    "reads": reads_row,
    "files": files_row,
    "echo": echo_row,
    "sink": sink_row,
    "http": http_row,
}


def measure(
    names: Sequence[str],
    seconds: float,
    runs: int,
    directory: Path | None,
    say: Say,
    sizes: Sizes | None = None,
) -> dict[str, Any]:
    """Measures these of ``ROWS``. ``directory``: for the files, which are removed at the end. None: that of
    temporary files. Raises HostError, UdpringError, OSError."""
    facts, before = host_facts(), load()
    left_out: list[dict[str, str]] = []

    def leave_out(row: str, contender: str, why: str) -> None:
        left_out.append({"row": row, "contender": contender, "why": why})
        say(f"{row}{contender and ', '}{contender} is left out: {why}")

    with _place(directory, sizes or Sizes()) as place:
        rows = [ROWS[name](place) for name in ROWS if name in names]
        samples: dict[tuple[str, str], list[Sample]] = {}
        for row in rows:
            for name, missing in row.missing():
                leave_out(row.name, name, missing)
            if row.usable():
                say(f"{row.name}: preparing")
                try:
                    row.prepare()
                except HostError as lacking:
                    leave_out(row.name, "", str(lacking))
                    row.contenders.clear()
        steps = [(row, name) for row in rows for name in row.usable()]
        for run in range(runs):
            for row, name in steps if run % 2 == 0 else reversed(steps):
                contender = row.contenders.get(name)
                if contender is None:
                    continue
                say(f"run {run + 1}/{runs}, {row.name}: {name}")
                try:
                    samples.setdefault((row.name, name), []).append(contender.run(seconds))
                except (HostError, PermissionError) as lacking:
                    leave_out(row.name, name, str(lacking))
                    del row.contenders[name]
    return {
        **facts,
        "load_average": [before, load()],
        "seconds": seconds,
        "runs": runs,
        "left_out": left_out,
        "rows": [_summary(row, samples) for row in rows if row.usable()],
    }


@contextlib.contextmanager
def _place(directory: Path | None, sizes: Sizes) -> Iterator[Place]:
    if directory is not None and not directory.is_dir():
        raise HostError(f"{directory} is no directory", cure="give another one to --directory")
    with tempfile.TemporaryDirectory(prefix="udpring-bench-", dir=directory) as folder:
        yield Place(Path(folder), sizes)


def _summary(row: Row, samples: dict[tuple[str, str], list[Sample]]) -> dict[str, Any]:
    taken = {name: samples[row.name, name] for name in row.usable()}
    return {
        "row": row.name,
        "title": row.title,
        "figures": row.figures,
        "contenders": [{"contender": name, "figures": _figures(row, runs)} for name, runs in taken.items()],
        "ratios": [
            {"of": ours, "to": other, "figures": _ratios(row, taken[ours], taken[other])}
            for ours in taken
            if ours.startswith(OURS)
            for other in taken
            if not other.startswith(OURS)
        ],
    }


def _figures(row: Row, runs: Sequence[Sample]) -> dict[str, Any]:
    found = {key: spread([each.get(key) for each in runs]) for key in row.figures}
    return {key: each for key, each in found.items() if each is not None}


def _ratios(row: Row, ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, float]:
    found = {
        key: ratio([each.get(key) for each in ours], [each.get(key) for each in theirs])
        for key in row.figures
    }
    return {key: each for key, each in found.items() if each is not None}
