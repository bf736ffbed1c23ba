"""The pages on io_uring: their Python runs, their tables agree with the package."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import udpring
import udpring.udp
import udpring.uring
import udpring.uring.server
from udpring.uring import OPERATIONS

TOP = Path(__file__).resolve().parent.parent.parent
PAGE = TOP / "docs/io-uring.md"
COVERAGE = TOP / "docs/io-uring-coverage.md"
PIECE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ITEMS = {"celeris": 31, "go-uring": 55, "ringline": 32, "nebula": 24}
MODULES = (udpring.uring, udpring.uring.server, udpring, udpring.udp)


def pieces() -> Iterator[object]:
    text = PAGE.read_text()
    for found in PIECE.finditer(text):
        line = text.count("\n", 0, found.start(1))
        # Leading blank lines give a traceback the page's line numbers.
        yield pytest.param("\n" * line + found[1], id=f"line {line + 1}")


@pytest.mark.parametrize("piece", list(pieces()))
def test_a_piece_runs(piece: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(piece, str(PAGE), "exec"), {"__name__": "__page__"})


def test_piece_of_the_readme_runs(tmp_path: Path) -> None:
    [piece] = [one for one in PIECE.findall((TOP / "README.md").read_text()) if "udpring.uring" in one]
    names: dict[str, Any] = {}
    exec(compile(piece, "README.md", "exec"), names)
    (tmp_path / "file").write_bytes(b"one\ntwo\n")
    assert asyncio.run(names["first_line"](tmp_path / "file")) == b"one\n"


def test_the_page_has_pieces_and_no_other_fences() -> None:
    text = PAGE.read_text()
    assert len(PIECE.findall(text)) >= 10
    assert text.count("```") == 2 * len(PIECE.findall(text))


def test_kernels_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| (\d+)\.(\d+) \| (`.*) \|$", PAGE.read_text(), re.MULTILINE)
    found = [(name, (int(major), int(minor))) for major, minor, row in rows for name in row.split(", ")]
    assert sorted(found) == sorted((f"`{row.name}`", row.since) for row in OPERATIONS.values())


@pytest.mark.parametrize("kind", udpring.uring.Operations.__mro__[:4], ids=lambda kind: kind.__name__)
def test_operations_name_their_man_page(kind: type) -> None:
    """Or the kernel that has them."""
    methods = {name: call for name, call in vars(kind).items() if name[0] != "_" and inspect.isfunction(call)}
    assert methods
    missing = [
        name
        for name, call in methods.items()
        if not re.search(r"\w+\(\d\w*\)|\b\d\.\d+\b", call.__doc__ or "")
    ]
    assert not set(missing) - {"queue_many", "completions_into", "prepare", "columns"}  # no single operation


def covered() -> dict[str, list[list[str]]]:
    """The rows of each project's table, as cells."""
    sections = re.split(r"^## ", COVERAGE.read_text(), flags=re.MULTILINE)[1:]
    rows = {}
    for section in sections:
        title, _, text = section.partition("\n")
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        rows[title] = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]
    return rows


def there(words: str) -> bool:
    """Whether a public name, ``Name.member`` or ``Name(argument=)`` exists."""
    name, _, argument = words.partition("(")
    first, *members = name.split(".")
    found: Any = next((vars(module)[first] for module in MODULES if first in vars(module)), None)
    for member in members:
        if member in getattr(found, "__dataclass_fields__", ()):
            return True
        found = inspect.getattr_static(found, member, None)
    if found is None:
        return False
    if not argument:
        return True
    call = found.__func__ if isinstance(found, classmethod) else found
    return argument.rstrip("=)") in inspect.signature(call).parameters


def test_every_item_has_a_row() -> None:
    rows = covered()
    assert {project: len(items) for project, items in rows.items()} == ITEMS
    for items in rows.values():
        assert all(len(cells) == 3 for cells in items), [cells for cells in items if len(cells) != 3]
        assert len({cells[0] for cells in items}) == len(items)


@pytest.mark.parametrize("project", ITEMS)
def test_every_row_names_what_exists(project: str) -> None:
    """A public name or a file, and a test. Or the reason why it is not built."""
    wrong = []
    for item, names, tests in covered()[project]:
        if names.startswith("not built: ") and len(names) > 20:
            continue
        quoted = re.findall(r"`([^`]+)`", names)
        missing = [name for name in quoted if "/" not in name and not there(name)]
        # test_tidy.py checks that the files and tests exist.
        if not quoted or missing or not re.search(r"`(?:tests|integration)/\S+\.py::test_\w+`", tests):
            wrong.append((item, missing))
    assert not wrong


def test_a_wrong_name_is_seen() -> None:
    names = ["Ring", "Ring.wait", "Ring(sq_poll=)", "RingInfo.queued", "Listener.bind(armed=)"]
    assert all(map(there, names))
    assert not any(
        map(there, ["Rinx", "Ring.wart", "Ring(sq_pool=)", "RingInfo.quoted", "Listener.bind(arms=)"])
    )
