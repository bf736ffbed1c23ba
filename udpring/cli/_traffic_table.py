"""The table of ``udpring monitor``: a section for each interface, as wide as it may be.

Pure text. Columns that do not fit are left out, the least important first. Long names and endpoints are cut.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from udpring.cli.show import size
from udpring.tunnel import keys, uapi
from udpring.wireguard.constants import REJECT_AFTER_TIME

if TYPE_CHECKING:
    from udpring.cli.monitor import Flow

__all__ = ["SORTS", "Line", "Section", "age", "as_lines", "cells", "cut", "rate", "section_of"]

KEY_SHOWN = 12
"""Characters of a public key that has no name."""
INDENT, GAP = "  ", "  "
_SECOND = 10**9
_RATES = ((1e12, "Tbit/s"), (1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"))
_AGES = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))

Names = Mapping[bytes, str]


class Column(NamedTuple):
    """``least``: cells that it may shrink to; None: it does not shrink. ``rank``: those with the highest are
    left out first. ``usual``: cells that columns of a rank above ESSENTIAL leave it."""

    title: str
    rank: int
    least: int | None = None
    right: bool = True
    usual: int = 0


ESSENTIAL = 2

COLUMNS = (
    Column("peer", 0, 8, right=False, usual=14),
    Column("endpoint", 4, 21, right=False),
    Column("handshake", 3),
    Column("receives", 1),
    Column("sends", 2),
    Column("received", 5),
    Column("sent", 6),
)


@dataclass(frozen=True, slots=True)
class Section:
    """An interface: forms of its line, the longest first, and a row of texts for each peer. ``alive``: which
    of them are in touch."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    alive: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table. ``kind``: ``title``, ``head``, ``alive``, ``silent`` or ``gap``. ``section``: the
    number of its section."""

    text: str
    kind: str
    section: int


def _name(flow: Flow, names: Names) -> str:
    key = flow.peer.public_key
    return names.get(key) or keys.to_base64(key)[:KEY_SHOWN] + "..."


def _natural(text: str) -> list[tuple[str, int, str]]:
    """An order in which "peer 2" comes before "peer 10". int() refuses very long numbers."""
    parts = re.split(r"([0-9]+)", text.casefold())
    digits = [number.lstrip("0") for number in parts[1::2]]
    return [(words, len(number), number) for words, number in zip(parts[::2], [*digits, ""], strict=True)]


SORTS: dict[str, Callable[[Flow, Names], tuple[object, ...]]] = {
    "rate": lambda flow, _: (
        -(flow.receives or 0) - (flow.sends or 0),
        -flow.peer.rx_bytes - flow.peer.tx_bytes,
    ),
    "name": lambda flow, names: (flow.peer.public_key not in names, _natural(_name(flow, names))),
    "endpoint": lambda flow, _: (flow.peer.endpoint is None, flow.peer.endpoint or ()),
    "handshake": lambda flow, _: (-flow.peer.last_handshake,),
    "received": lambda flow, _: (-flow.peer.rx_bytes,),
    "sent": lambda flow, _: (-flow.peer.tx_bytes,),
}
"""What peers can be ordered by. The first of each order are the busiest, the latest, or those at the start of
the alphabet."""


def section_of(
    interface: str,
    port: int,
    flows: Sequence[Flow],
    names: Names,
    now: int,
    sort: str = "rate",
    reverse: bool = False,
) -> Section:
    """``now`` is in nanoseconds since the epoch."""
    alive = sum(_is_alive(flow, now) for flow in flows)
    receives = rate(sum(flow.receives or 0 for flow in flows))
    sends = rate(sum(flow.sends or 0 for flow in flows))
    rates = f"receives {receives}, sends {sends}"
    peers = f"{alive} of {len(flows)} peers"
    order = SORTS[sort]
    ordered = sorted(flows, key=lambda flow: order(flow, names), reverse=reverse)
    return Section(
        (
            f"{interface}: port {port}, {peers} in touch, {rates}",
            f"{interface}: {peers} in touch, {rates}",
            f"{interface}: {peers}, {rates}",
        ),
        tuple(_row(flow, names, now) for flow in ordered),
        tuple(_is_alive(flow, now) for flow in ordered),
    )


def _is_alive(flow: Flow, now: int) -> bool:
    return now - flow.peer.last_handshake < REJECT_AFTER_TIME


def _row(flow: Flow, names: Names, now: int) -> tuple[str, ...]:
    peer = flow.peer
    return (
        _name(flow, names),
        uapi.format_endpoint(*peer.endpoint) if peer.endpoint else "-",
        age(now - peer.last_handshake) if peer.last_handshake else "never",
        rate(flow.receives),
        rate(flow.sends),
        size(peer.rx_bytes),
        size(peer.tx_bytes),
    )


def as_lines(sections: Sequence[Section], width: int = 0) -> list[Line]:
    """All lines, none wider than ``width`` cells; 0: as wide as they are. Columns of all sections align."""
    head = tuple(column.title for column in COLUMNS)
    texts = [head, *(row for section in sections for row in section.rows)]
    natural = [max(map(cells, column)) for column in zip(*texts, strict=True)]
    widths = _fit(natural, width - cells(INDENT)) if width else dict(enumerate(natural))
    lines: list[Line] = []
    for number, section in enumerate(sections):
        if lines:
            lines.append(Line("", "gap", number - 1))
        fitting = (title for title in section.titles if not width or cells(title) <= width)
        title = next(fitting, None) or cut(section.titles[-1], width)
        lines.append(Line(title, "title", number))
        if section.rows:
            lines.append(Line(_joined(head, widths, width), "head", number))
        for row, alive in zip(section.rows, section.alive, strict=True):
            lines.append(Line(_joined(row, widths, width), "alive" if alive else "silent", number))
    return lines


def _fit(natural: Sequence[int], room: int) -> dict[int, int]:
    """The columns that fit into ``room`` cells, and the width of each."""
    kept = dict(enumerate(natural))
    least = {place: min(kept[place], COLUMNS[place].least or kept[place]) for place in kept}

    def taken(widths: Mapping[int, int]) -> int:
        return sum(widths[place] for place in kept) + len(GAP) * (len(kept) - 1)

    usual = {place: max(least[place], min(kept[place], COLUMNS[place].usual)) for place in kept}
    while len(kept) > 1:
        last = max(kept, key=lambda place: COLUMNS[place].rank)
        if taken(usual if COLUMNS[last].rank > ESSENTIAL else least) <= room:
            break
        del kept[last]
    # The endpoint gives way before the name.
    for place in sorted(kept, key=lambda place: COLUMNS[place].rank, reverse=True):
        kept[place] = max(least[place], kept[place] - max(0, taken(kept) - room))
    return kept


def _joined(row: Sequence[str], widths: Mapping[int, int], width: int) -> str:
    shown = []
    for place, wide in widths.items():
        text = cut(row[place], wide)
        blanks = " " * (wide - cells(text))
        shown.append(blanks + text if COLUMNS[place].right else text + blanks)
    line = (INDENT + GAP.join(shown)).rstrip()
    return cut(line, width) if width else line


def cells(text: str) -> int:
    """The width of the text on a terminal: 2 cells for a wide character, none for one that combines."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text in at most ``width`` cells. An ellipsis stands for the rest."""
    if cells(text) <= width:
        return text
    kept, used = "", 1
    for character in text:
        used += _cells(character)
        if used > width:
            break
        kept += character
    return kept + "\u2026" if width > 0 else ""


def rate(bits: float | None) -> str:
    """``1.20 Mbit/s``, in powers of 1000; ``-`` where it is not known."""
    if bits is None:
        return "-"
    for unit, name in _RATES:
        if bits >= unit:
            return f"{bits / unit:.2f} {name}"
    return f"{bits:.0f} bit/s"


def age(nanoseconds: int) -> str:
    """``12s``, ``3m 04s``, ``2h 05m``, ``9d 03h``. For a future time: the clock was set back."""
    if nanoseconds < 0:
        return "clock back"
    seconds = nanoseconds // _SECOND
    for unit, letter, part, small in _AGES:
        if seconds >= unit:
            return f"{seconds // unit}{letter} {seconds % unit // part:02}{small}"
    return f"{seconds}s"
