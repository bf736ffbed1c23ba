"""The includes of the C core have one order. test_native_graph.py checks which room may include which.

The order within a file: its own header; base.h or abi.h of the core; system headers; lower rooms, lowest
first; its own room. One blank line separates these blocks, and each is sorted.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
from native_graph import LAYERS, NATIVE

ROOMS = [room for layer in LAYERS for room in layer]

FILES = sorted(path.relative_to(NATIVE) for path in [*NATIVE.rglob("*.c"), *NATIVE.rglob("*.h")])
INCLUDE = re.compile(r'#include (?:<([^>]+)>|"([^"]+)")')


def room_of(path: PurePosixPath) -> int:
    """The position of a file's room in ROOMS."""
    folder = path.parent.as_posix()
    return ROOMS.index("" if folder == "." else folder)


def target(file: PurePosixPath, quoted: str) -> PurePosixPath:
    """The path of a quoted include, relative to the core."""
    return PurePosixPath((NATIVE / file.parent / quoted).resolve().relative_to(NATIVE))


def blocks(text: str) -> list[list[str]]:
    """The include lines at the outermost level, in groups as other lines separate them."""
    found: list[list[str]] = [[]]
    depth, gap = 0, False
    guarded = re.search(r"^#ifndef \w+_H$", text, re.MULTILINE) is not None
    for line in text.splitlines():
        if re.match(r"#\s*if", line):
            depth += 1
        elif re.match(r"#\s*endif", line):
            depth -= 1
        elif INCLUDE.match(line) and depth == guarded:
            if gap and found[-1]:
                found.append([])
            found[-1].append(line)
        gap = INCLUDE.match(line) is None
    return [block for block in found if block]


def rank(file: PurePosixPath, line: str) -> int:
    """The block of an include. Blocks come in ascending order."""
    match = INCLUDE.match(line)
    assert match is not None
    if match[1]:
        return 2
    named = target(file, match[2])
    if named == file.with_suffix(".h"):
        return 0
    if room_of(named) == 0:
        return 1
    return 100 if room_of(named) == room_of(file) else 3 + room_of(named)


def ordered(file: PurePosixPath, lines: list[str]) -> list[list[str]]:
    """The same lines in the right blocks."""
    ranks = sorted({rank(file, line) for line in lines})
    return [
        sorted((line for line in lines if rank(file, line) == each), key=lambda line: line.split()[1])
        for each in ranks
    ]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_includes_name_files_by_place(file: PurePosixPath) -> None:
    for quoted in re.findall(r'^\s*#\s*include "([^"]+)"', (NATIVE / file).read_text(), re.MULTILINE):
        assert (NATIVE / file.parent / quoted).is_file()


@pytest.mark.parametrize("file", FILES, ids=str)
def test_includes_are_in_order(file: PurePosixPath) -> None:
    found = blocks((NATIVE / file).read_text())
    wanted = ordered(file, [line for block in found for line in block])
    assert found == wanted, "in this order, with one blank line between the blocks"
