"""The graph of the C core: which file includes and calls which. Printed by scripts/graph.

Includes come from the sources. Calls come from the objects of the last build (nm): a file calls another if it
needs a symbol that the other defines.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "udpring" / "native"

#: Rooms by layer, the lowest first. A room may use itself and the earlier layers. "" is native/ itself.
LAYERS = (
    ("",),
    ("uring",),
    ("uring/net",),
    ("udp",),
    ("batch", "tunnel"),
    ("tunnel/crypto", "tunnel/tun", "tunnel/packets", "tunnel/routes"),
    ("tunnel/peers",),
    ("tunnel/worker",),
)

Graph = dict[str, dict[str, set[str]]]
"""For each file, the files that it uses and how: "include", or symbols."""


def sources() -> list[Path]:
    return sorted(path for path in NATIVE.rglob("*.[ch]"))


def module(path: Path) -> str:
    return str(path.relative_to(NATIVE))


def room(name: str) -> str:
    return name.rpartition("/")[0]


def includes() -> Iterator[tuple[str, str]]:
    for path in sources():
        for included in re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE):
            there = (path.parent / included).resolve()
            yield module(path), module(there if there.exists() else NATIVE / included)


def symbols(objects: Path) -> dict[str, tuple[set[str], set[str]]]:
    """For each C file, the external symbols that it defines and needs."""
    made = {}
    for path in (path for path in sources() if path.suffix == ".c"):
        compiled = objects / path.relative_to(ROOT).with_suffix(".o")
        if not compiled.exists():
            raise SystemExit(f"graph: {compiled} is missing: run scripts/bootstrap, which builds the core")
        made[str(compiled)] = module(path)
    words = ["nm", "--extern-only", "--print-file-name", *made]  # one process: hundreds take seconds
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found: dict[str, tuple[set[str], set[str]]] = {name: (set(), set()) for name in made.values()}
    for line in listed.splitlines():
        file, _, rest = line.partition(":")
        kind, symbol = rest.split()[-2:]
        found[made[file]][kind in "Uw"].add(symbol)
    return found


def objects_folder() -> Path:
    """The folder with the objects of the last build."""
    made = sorted(ROOT.glob("build/temp.*"), key=lambda path: path.stat().st_mtime)
    if not made:
        raise SystemExit("graph: no objects in build/: run scripts/bootstrap, which builds the core")
    return made[-1]


def graph(objects: Path) -> Graph:
    made: Graph = {module(path): {} for path in sources()}
    for here, there in includes():
        if here != there:
            made[here].setdefault(there, set()).add("include")
    found = symbols(objects)
    owner = {symbol: name for name, (defined, _) in found.items() for symbol in defined}
    for here, (_, needed) in found.items():
        for symbol in needed:
            there = owner.get(symbol, here)
            if there != here:
                made[here].setdefault(there, set()).add(symbol)
    return made


def circles(made: Graph) -> list[list[str]]:
    """The sets of files that reach each other (Tarjan's strongly connected components with several
    members)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in made[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in made:
        if name not in index:
            visit(name)
    return found


def upward(made: Graph) -> list[str]:
    """Each use of a room that is not below, as text."""
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    wrong = []
    for here, used in made.items():
        for there, by in used.items():
            if room(here) != room(there) and layer[room(there)] >= layer[room(here)]:
                wrong.append(f"{here} uses {there} ({', '.join(sorted(by))}), which is not below it")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/graph",
        description="Prints which file of udpring/native includes and calls which, room by room, the lowest "
        "first. Exit code 1 where files form a circle, or a room uses one that is not below it.",
    )
    parser.add_argument("--by", action="store_true", help="also by which symbols")
    options = parser.parse_args()
    made = graph(objects_folder())
    for layer in LAYERS:
        for each in layer:
            print(f"{each or 'native'}/")
            for name in sorted(name for name in made if room(name) == each):
                print(f"    {name.rpartition('/')[2]} -> {' '.join(sorted(made[name])) or '-'}")
                if options.by:
                    for there, by in sorted(made[name].items()):
                        print(f"        {there}: {' '.join(sorted(by))}")
    wrong = [f"a circle: {' '.join(circle)}" for circle in circles(made)] + upward(made)
    for each in wrong:
        print(f"graph: {each}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
