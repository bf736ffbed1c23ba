"""Lines that fit a terminal: a long one goes on below its last column, and words stay whole."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator

__all__ = ["fitting", "folded"]

LEAST_WIDTH = 20
"""Of what is folded. Narrower terminals wrap by themselves."""
_COLUMN = re.compile(r"\S(?: {2,})(?=\S)")


def fitting(lines: Iterable[str]) -> str:
    """The text of these lines for standard output, folded where that is a terminal."""
    if not sys.stdout.isatty():
        return "\n".join(lines)
    width = shutil.get_terminal_size().columns
    return "\n".join(part for line in lines for part in folded(line, width))


def folded(line: str, width: int) -> Iterator[str]:
    """Parts of at most ``width`` characters, except single words that are longer."""
    columns = [match.end() for match in _COLUMN.finditer(line)]
    head, hanging = (columns[-1], 0) if columns else (len(line) - len(line.lstrip()), 2)
    if columns and width - head < LEAST_WIDTH:
        head, hanging = len(line) - len(line.lstrip()), 2
    if len(line) <= width or width - head < LEAST_WIDTH:
        yield line
        return
    parts = textwrap.wrap(
        line[head:],
        width - head,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield line[:head] + (parts[0] if parts else "")
    yield from (" " * head + part for part in parts[1:])
