"""``udpring stats`` against a UAPI server."""

from __future__ import annotations

import json

import pytest

from udpring.cli import stats
from udpring.cli.main import main
from udpring.tunnel.uapi_report import format_report

from .conftest import Server

REPORT = {
    "version": "1.2",
    "node": {"tier": "mmsg", "workers": 1, "paused": False, "tier_reason": ""},
    "queues": {"sends_pending": 0, "send_slots": 256},
    "histograms": {
        "send_batches": {"count": 9, "sum": 40, "buckets": {"1": 3, "2": 0, "4": 4, "8": 1, "more": 1}},
        "receive_trains": {"count": 0, "sum": 0, "buckets": {"1": 0, "2": 0, "more": 0}},
    },
    "drops": {"no_peer": 12, "spoofed": 0},
    "handshake_drops": {"paused": 0},
}


def test_json_is_the_report(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = b"".join(format_report(REPORT)) + b"errno=0\n\n"
    assert main(["stats", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"wg0": REPORT}


def test_counters_that_are_zero_are_left_out() -> None:
    assert "\n".join(stats.as_text("wg0", REPORT, zeros=False)).splitlines() == [
        "wg0: udpring 1.2",
        "",
        "node:",
        "  tier     mmsg",
        "  workers  1",
        "  paused   no",
        "",
        "queues:",
        "  sends pending  0",
        "  send slots     256",
        "",
        "send batches: 9, of 4.4 datagrams on average",
        "          1  3",
        "        3-4  4",
        "        5-8  1",
        "  9 or more  1",
        "",
        "receive trains: none",
        "",
        "drops:",
        "  no peer  12",
        "",
        "dropped handshake messages: none",
    ]
    assert "  spoofed  0" in stats.as_text("wg0", REPORT, zeros=True)


def test_other_programs_are_left_out_of_all(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = b"errno=22\n\n"
    assert main(["stats"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "the program that serves wg0 does not answer stats requests" in said.err
    assert main(["stats", "wg0"]) == 3
    assert main(["stats", "wg7"]) == 3
    assert "nothing serves" in capsys.readouterr().err
