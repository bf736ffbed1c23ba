"""Takes the pieces of Python out of the pages, for mypy: each becomes a module of its own in a folder.

A page leaves out annotations of its own functions, and names that a piece before has made. So a piece gets
those names first, and a piece with await becomes the body of a coroutine.

Usage: page_programs.py FOLDER
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PIECE = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
AWAITS = re.compile(r"^(await|async with|async for|\w+ = await)\b", re.MULTILINE)
BEFORE = """\
import asyncio, socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol
import udpring
from udpring import PeerConfig
inbox: socket.socket
outbox: socket.socket
address: tuple[str, int]
config: udpring.Config
node: udpring.Node
"""


def main(folder: Path) -> None:
    """Fills the folder anew. The names of files say where a piece is from."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
    for page in pages:
        text = page.read_text()
        for found in PIECE.finditer(text):
            piece = textwrap.dedent(found[2])
            if AWAITS.search(piece):
                piece = "async def page() -> None:\n" + textwrap.indent(piece, "    ")
            where = re.sub(r"\W", "_", str(page.relative_to(TOP).with_suffix("")))
            line = text.count("\n", 0, found.start()) + 2
            (folder / f"{where}_line_{line}.py").write_text(BEFORE + piece)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
