"""The pages on datagrams: every piece of Python in them runs."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import udpring

TOP = Path(__file__).resolve().parent.parent
PAGES = {"docs/from-socket-to-udpring.md": 20, "docs/datagrams.md": 4}
"""Page -> the minimum number of pieces."""
PIECE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pieces() -> Iterator[object]:
    for page in PAGES:
        text = (TOP / page).read_text()
        for found in PIECE.finditer(text):
            line = text.count("\n", 0, found.start(1))
            # Leading blank lines give a traceback the page's line numbers.
            yield pytest.param(page, "\n" * line + found[1], id=f"{page} line {line + 1}")


@pytest.fixture(name="sockets")
def two_sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox,
    ):
        inbox.bind(("127.0.0.1", 0))
        outbox.bind(("127.0.0.1", 0))
        yield inbox, outbox


@pytest.mark.parametrize(("page", "piece"), list(pieces()))
def test_a_piece_runs(page: str, piece: str, sockets: tuple[socket.socket, socket.socket]) -> None:
    inbox, outbox = sockets
    names = {
        "__name__": "__page__",
        "udpring": udpring,
        "socket": socket,
        "inbox": inbox,
        "outbox": outbox,
        "address": inbox.getsockname(),
    }
    exec(compile(piece, str(TOP / page), "exec"), names)


@pytest.mark.parametrize(("page", "least"), PAGES.items())
def test_the_page_has_pieces_and_no_other_fences(page: str, least: int) -> None:
    text = (TOP / page).read_text()
    assert len(PIECE.findall(text)) >= least
    assert text.count("```") == 2 * len(PIECE.findall(text))
