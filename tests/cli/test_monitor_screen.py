"""The table and the screen of ``udpring monitor``: any width, scrolling, orders, keys, real terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.cli import _terminal
from udpring.cli._traffic_table import COLUMNS, SORTS, Section, age, as_lines, cells, cut, section_of
from udpring.cli._traffic_view import View
from udpring.cli.monitor import Flow
from udpring.tunnel import keys, uapi

from .conftest import OTHER, PEER, Server

NOW = 1_700_000_000_000_000_000
SECOND = 10**9
BUSY = Flow(
    uapi.PeerInfo(
        PEER,
        endpoint=(bytes([1, 2, 3, 4]), 5, ""),
        last_handshake=NOW - 10 * SECOND,
        rx_bytes=1_500_000,
        tx_bytes=50,
    ),
    12e6,
    0.0,
)
QUIET = Flow(uapi.PeerInfo(OTHER), None, None)
LONG = Flow(
    uapi.PeerInfo(
        bytes([7] * 32),
        endpoint=(bytes(range(0x20, 0x30)), 51820, ""),
        last_handshake=NOW - 400 * SECOND,
        rx_bytes=1 << 50,
        tx_bytes=1 << 50,
    ),
    9.99e11,
    9.99e11,
)
NAMES = {OTHER: "garden shed", LONG.peer.public_key: "\u6771\u4eac server with a long name, e\u0301"}


def section(*flows: Flow, sort: str = "rate", reverse: bool = False) -> Section:
    return section_of("wg0", 51820, flows, NAMES, NOW, sort, reverse)


def test_table_without_a_width_has_every_column() -> None:
    lines = [line.text for line in as_lines([section(QUIET, BUSY)])]
    assert lines[0] == "wg0: port 51820, 1 of 2 peers in touch, receives 12.00 Mbit/s, sends 0 bit/s"
    assert lines[1].split() == [column.title for column in COLUMNS]
    shown = keys.to_base64(PEER)[:12] + "..."
    assert lines[2].split() == [
        shown,
        "1.2.3.4:5",
        "10s",
        "12.00",
        "Mbit/s",
        "0",
        "bit/s",
        "1.43",
        "MiB",
        "50",
        "B",
    ]
    assert lines[3].split() == ["garden", "shed", "-", "never", "-", "-", "0", "B", "0", "B"]
    assert len({len(line) for line in lines[1:]}) == 1


@given(st.integers(1, 220), st.lists(st.sampled_from([BUSY, QUIET, LONG]), max_size=3), st.booleans())
def test_no_line_is_wider_than_the_terminal(width: int, flows: list[Flow], empty: bool) -> None:
    sections = [section(*flows), *([section()] if empty else [])]
    lines = as_lines(sections, width)
    assert all(cells(line.text) <= width for line in lines)
    assert len(lines) == len(as_lines(sections))


@pytest.mark.parametrize("columns_and_rows", [(80, 24), (160, 50)])
@pytest.mark.parametrize("count", [1, 12, 300])
def test_usual_terminals_show_whole_figures(columns_and_rows: tuple[int, int], count: int) -> None:
    """Whatever is cut, it is neither a rate nor the name of a usual length."""
    columns, height = columns_and_rows
    peers = [
        replace(
            BUSY, peer=replace(BUSY.peer, public_key=number.to_bytes(32, "big")), receives=number * 1e6 + 5e8
        )
        for number in range(count)
    ]
    names = {peer.peer.public_key: f"branch {number:03} now" for number, peer in enumerate(peers)}
    shown = section_of("wg0", 51820, peers, names, NOW)
    screen = View().screen([shown], columns, height)
    assert len(screen) == height
    assert all(cells(line) <= columns for line in screen)
    assert screen[0].startswith("wg0: ")
    assert screen[0].endswith("sends 0 bit/s")
    assert f"{count} of {count} peers" in screen[0]
    rows = screen[2 : min(count + 2, height - 1)]
    assert all("Mbit/s" in row and "now  " in row and "\u2026" not in row for row in rows)
    assert len(rows) == min(count, height - 3)


def test_columns_are_left_out_by_importance() -> None:
    def titles(width: int) -> list[str]:
        return as_lines([section(BUSY, LONG)], width)[1].text.split()

    every = [column.title for column in COLUMNS]
    assert titles(160) == every
    assert titles(80) == every[:-2]
    assert titles(60) == ["peer", "handshake", "receives", "sends"]
    assert titles(30) == ["peer", "receives"]
    assert titles(12) == ["peer"]
    wide, narrow = (as_lines([section(LONG)], width)[2].text for width in (200, 100))
    assert "[2021:2223:2425:2627:2829:2a2b:2c2d:2e2f]:51820" in wide
    assert "[2021:2223:2425:2627" in narrow
    assert "\u2026" in narrow


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab\u2026"),
        ("\u6771\u4eac", 4, "\u6771\u4eac"),
        ("\u6771\u4eac", 3, "\u6771\u2026"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
        ("abc", 1, "\u2026"),
        ("abc", 0, ""),
    ],
)
def test_texts_are_cut_by_cells(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59, "59s"),
        (64, "1m 04s"),
        (7500, "2h 05m"),
        (9 * 86400 + 3 * 3600, "9d 03h"),
        (-1, "clock back"),
    ],
)
def test_age(seconds: int, text: str) -> None:
    assert age(seconds * SECOND) == text


def test_every_order_has_its_first_peer() -> None:
    first = {
        "rate": "\u6771", "name": "garden", "endpoint": "AAEC", "handshake": "AAEC",
        "received": "\u6771", "sent": "\u6771",
    }  # fmt: skip
    assert first.keys() == SORTS.keys()
    for sort, begin in first.items():
        rows = section(QUIET, BUSY, LONG, sort=sort).rows
        assert rows[0][0].startswith(begin), sort
        assert section(QUIET, BUSY, LONG, sort=sort, reverse=True).rows == rows[::-1]


def test_numbers_in_names_are_ordered_by_value() -> None:
    names = ["peer 10", "Peer 2", "peer 2b", "peer 02", "7", "peer", "shed", "9" * 5000]
    flows = [Flow(uapi.PeerInfo(bytes([number] * 32)), None, None) for number in range(len(names))]
    of_peers = {flow.peer.public_key: name for flow, name in zip(flows, names, strict=True)}
    rows = section_of("wg0", 51820, flows, of_peers, NOW, "name").rows
    ordered = ["7", "9" * 5000, "peer", "Peer 2", "peer 02", "peer 2b", "peer 10", "shed"]
    assert [row[0] for row in rows] == ordered


# ---- the view ----


def many(count: int, name: str = "wg0") -> Section:
    flows = [
        replace(BUSY, peer=replace(BUSY.peer, public_key=number.to_bytes(32, "big"), rx_bytes=10**6 - number))
        for number in range(count)
    ]
    return section_of(name, 1, flows, {flow.peer.public_key: f"peer{n}" for n, flow in enumerate(flows)}, NOW)


@pytest.mark.parametrize("count", [1, 12, 300])
@pytest.mark.parametrize(("columns", "height"), [(80, 24), (160, 50), (20, 5), (80, 3)])
def test_scrolling_shows_every_peer_below_its_head(count: int, columns: int, height: int) -> None:
    sections = [many(count), many(3, "wg1")]
    view, seen = View(), set()
    for _ in range(count + 20):
        screen = view.screen(sections, columns, height)
        assert len(screen) == height
        assert all(cells(line) <= columns for line in screen)
        seen |= {word for line in screen[:-1] for word in line.split() if word.startswith("peer")}
        if height > 3:
            assert screen[0].startswith(("wg0: ", "wg1: ", "  peer")) or not screen[0]
        view.press("down")
    assert {f"peer{number}" for number in range(count)} <= seen or height == 3
    view.press("home")
    assert view.offset == 0
    view.press("end")
    last = view.screen(sections, columns, height)
    assert "peer2" in [line for line in last[:-1] if line][-1]
    before = view.offset
    view.press("down")
    assert view.offset == before
    view.press("page up")
    assert view.offset == max(0, before - max(1, height - 3))


def test_keys_change_order_and_end() -> None:
    view = View()
    assert not view.press("s")
    assert not view.press("r")
    assert (view.sort, view.reverse) == ("name", True)
    assert "by name, reversed" in view.screen([many(1)], 80, 10)[-1]
    for _ in SORTS:
        view.press("s")
    assert view.sort == "name"
    assert not any(view.press(key) for key in ("x", "resize", "", "\x1b"))
    assert view.press("q")


def test_scrolled_view_follows_peers_that_leave() -> None:
    view = View()
    view.screen([many(300)], 80, 24)
    view.press("end")
    assert view.screen([many(2)], 80, 24)[0].startswith("wg0: ")
    assert view.screen([], 80, 24)[0] == "no interface"


def test_colours_only_where_they_are_wanted() -> None:
    plain = View().screen([section(QUIET, BUSY)], 80, 10)
    colours = View(colours=True).screen([section(QUIET, BUSY)], 80, 10)
    assert not any("\x1b" in line for line in plain)
    assert [re.sub(r"\x1b\[\d*m", "", line) for line in colours] == plain
    (busy,) = (line for line in colours if "\x1b[32m" in line)
    assert "12.00 Mbit/s" in busy, "a peer in touch is green"
    assert _terminal.wants_colours({"TERM": "xterm"})
    assert _terminal.wants_colours({"TERM": "xterm", "NO_COLOR": ""})
    assert not _terminal.wants_colours({"TERM": "xterm", "NO_COLOR": "1"})
    assert not _terminal.wants_colours({"TERM": "dumb"})


# ---- a real terminal ----

PROGRAM = (
    "import sys; from udpring.tunnel import uapi; uapi.SOCKET_DIRECTORY = sys.argv.pop(1);"
    "from udpring.cli.main import main; sys.exit(main(['monitor', *sys.argv[1:]]))"
)


FRAME_END = b"\x1b[?2026l"


class Screen:
    """``udpring monitor`` on a terminal of its own."""

    def __init__(
        self, folder: Path, *words: str, columns: int = 80, lines: int = 24, **environment: str
    ) -> None:
        self.main, self.end = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.end)
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, str(folder), *words],
            stdin=self.end,
            stdout=self.end,
            stderr=self.end,
            env={**inherited, "TERM": "xterm", **environment},
        )
        self.said = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def until(self, wanted: bytes) -> bytes:
        """What it says up to ``wanted``, which is then taken."""
        end = time.monotonic() + 60
        while wanted not in self.said:
            assert select.select([self.main], [], [], end - time.monotonic())[0], self.said
            self.said += os.read(self.main, 65536)
        found, _, self.said = self.said.partition(wanted)
        return found

    def frame(self) -> list[str]:
        """The lines of the next whole screen."""
        said = self.until(FRAME_END).decode()
        assert not re.search(r"[^\n\rH]\x1b\[[KJ]", said), "the last cell of a full line would be erased"
        return re.sub(r"\r|\x1b\[[KJ]", "", said.rpartition("\x1b[H")[2]).split("\n")

    def press(self, keys: bytes) -> None:
        os.write(self.main, keys)


@contextmanager
def screen(folder: Path, *words: str, **how: object) -> Iterator[Screen]:
    made = Screen(folder, *words, **how)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.main)
        os.close(made.end)


def test_q_quits_and_the_terminal_is_as_before(server: Server, tmp_path: Path) -> None:
    with screen(tmp_path, "--interval", "3600", NO_COLOR="1") as shown:
        shown.until(b"\x1b[?1049h")
        lines = shown.frame()
        assert len(lines) == 24
        assert lines[0].startswith("wg0: port 51820, 0 of 2 peers in touch")
        assert all(cells(line) <= 80 for line in lines)
        assert "\x1b" not in "".join(lines)
        assert "by rate" in lines[-1]
        shown.press(b"s")
        assert "by name" in shown.until(FRAME_END).decode()
        shown.press(b"\x1b[B\x1b[5~r")
        assert "by name, reversed" in shown.until(b"reversed").decode() + "reversed"
        shown.resize(40, 8)
        shown.process.send_signal(signal.SIGWINCH)
        while len(lines := shown.frame()) != 8:
            pass
        assert [line for line in lines if cells(line) > 40] == []
        shown.press(b"q")
        assert shown.process.wait(60) == 0
        shown.until(b"\x1b[?1049l")
        assert termios.tcgetattr(shown.end) == shown.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_the_terminal_as_before(
    server: Server, tmp_path: Path, number: signal.Signals
) -> None:
    with screen(tmp_path, "wg0", "--interval", "3600") as shown:
        shown.until(FRAME_END)
        shown.process.send_signal(number)
        assert shown.process.wait(60) == 0
        shown.until(b"\x1b[?1049l")
        assert termios.tcgetattr(shown.end) == shown.before


def test_count_ends_it_and_errors_come_after_the_screen(server: Server, tmp_path: Path) -> None:
    with screen(tmp_path, "--interval", "0.1", "--count", "2") as shown:
        assert shown.process.wait(60) == 0
        assert shown.until(b"\x1b[?1049l").count(b"\x1b[H") == 3
    with screen(tmp_path, "wg0", "--interval", "0.1") as shown:
        shown.until(FRAME_END)
        (tmp_path / "wg0.sock").unlink()
        assert shown.process.wait(60) == 3
        shown.until(b"\x1b[?1049l")
        assert b"nothing serves the interface wg0" in shown.until(b"\n")


def test_dumb_terminal_gets_plain_tables(server: Server, tmp_path: Path) -> None:
    with screen(tmp_path, "--interval", "0.1", "--count", "1", TERM="dumb") as shown:
        assert shown.process.wait(60) == 0
        said = shown.until(b"\r\n\r\n")
        assert b"\x1b" not in said
        assert said.startswith(b"wg0: port 51820")
