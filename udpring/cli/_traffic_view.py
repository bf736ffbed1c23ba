"""The view of ``udpring monitor`` on a terminal: which lines of the table are shown, in which order.

The line of an interface and the titles of its columns stay at the top while its peers scroll. The last line
of the screen shows the keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from udpring.cli._traffic_table import SORTS, Line, Section, as_lines, cut

__all__ = ["View"]

_STYLES = {
    "title": "\x1b[1m", "head": "\x1b[4m", "alive": "\x1b[32m", "silent": "\x1b[2m", "keys": "\x1b[7m",
}  # fmt: skip
"""SGR: bold, underlined, green, faint, reversed."""


class View:
    """The state that keys change."""

    def __init__(self, sort: str = "rate", reverse: bool = False, *, colours: bool = False) -> None:
        self.sort = sort
        self.reverse = reverse
        self.offset = 0
        self._colours = colours
        self._page = 1
        self._last = 0

    def press(self, key: str) -> bool:
        """Whether the key asks to end."""
        moves = {
            "up": -1, "down": 1, "page up": -self._page, "page down": self._page,
            "home": -self.offset, "end": self._last,
        }  # fmt: skip
        if key in moves:
            self.offset = min(max(self.offset + moves[key], 0), self._last)
        elif key == "s":
            orders = list(SORTS)
            self.sort = orders[(orders.index(self.sort) + 1) % len(orders)]
        elif key == "r":
            self.reverse = not self.reverse
        return key in ("q", "Q")

    def screen(self, sections: Sequence[Section], columns: int, height: int) -> list[str]:
        """At most ``height`` lines of at most ``columns`` cells."""
        lines = as_lines(sections, columns) if sections else [Line("no interface", "gap", 0)]
        room = max(height - 1, 1)
        self._page = max(room - 2, 1)
        self._last = max(len(lines) - room, 0)
        self.offset = min(self.offset, self._last)
        shown = lines[self.offset : self.offset + room]
        self._keep_titles(lines, shown)
        texts = [self._styled(line.text, line.kind) for line in shown]
        if height > 1:
            texts += [""] * (room - len(texts))
            texts.append(self._keys(len(lines), room, columns))
        return texts

    def _keep_titles(self, lines: Sequence[Line], shown: list[Line]) -> None:
        """Puts the title and the head of the first shown section over the lines that scrolled away."""
        if not shown or len(shown) < 3:
            return
        titles = [
            line for line in lines if line.section == shown[0].section and line.kind in ("title", "head")
        ]
        for place, title in enumerate(titles):
            if shown[place].section == title.section and shown[place].kind != "gap":
                shown[place] = title

    def _keys(self, total: int, room: int, columns: int) -> str:
        where = "" if total <= room else f"lines {self.offset + 1}-{self.offset + room} of {total}  "
        order = f"by {self.sort}{', reversed' if self.reverse else ''}"
        return self._styled(cut(f"{where}{order}  q quit  s sort  r reverse  arrows scroll", columns), "keys")

    def _styled(self, text: str, kind: str) -> str:
        style = _STYLES.get(kind) if self._colours else None
        return f"{style}{text}\x1b[0m" if style and text else text
