"""``udpring monitor`` against a UAPI server: rates, tables, exits."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from udpring.cli import monitor
from udpring.cli._traffic_table import rate
from udpring.cli.main import main
from udpring.tunnel import uapi

from .conftest import Server

PEER, OTHER, NEW = (bytes([number] * 32) for number in (1, 2, 3))
NOW = 1_700_000_000_000_000_000
QUIET = uapi.PeerInfo(OTHER)
BUSY = uapi.PeerInfo(
    PEER, endpoint=(bytes([1, 2, 3, 4]), 5, ""), last_handshake=NOW - 10**10, rx_bytes=1000, tx_bytes=50
)


def look(time: float, *peers: uapi.PeerInfo) -> monitor.Look:
    return monitor.Look(time, 51820, {peer.public_key: peer for peer in peers})


def test_rates_are_what_came_between_two_looks() -> None:
    before = look(10.0, QUIET, BUSY)
    now = look(12.0, QUIET, replace(BUSY, rx_bytes=3000, tx_bytes=51))
    busy, quiet = monitor.compare(before, now)
    assert (busy.peer.public_key, busy.receives, busy.sends) == (PEER, 8000.0, 4.0)
    assert (quiet.peer.public_key, quiet.receives, quiet.sends) == (OTHER, 0.0, 0.0)


@pytest.mark.parametrize(
    "before",
    [None, look(10.0), look(10.0, replace(BUSY, rx_bytes=1001)), look(12.0, BUSY)],
    ids=["new interface", "new peer", "peer was removed and added", "same time"],
)
def test_no_rate_without_two_looks_that_compare(before: monitor.Look | None) -> None:
    (flow,) = monitor.compare(before, look(12.0, BUSY))
    assert (flow.receives, flow.sends) == (None, None)


@pytest.mark.parametrize(
    ("bits", "text"),
    [(None, "-"), (0.0, "0 bit/s"), (999.4, "999 bit/s"), (1e3, "1.00 kbit/s"), (2.5e9, "2.50 Gbit/s")],
)
def test_rate(bits: float | None, text: str) -> None:
    assert rate(bits) == text


def test_json_lines(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "wg0", "--json", "--count", "2", "--interval", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        said = json.loads(line)
        assert said["time"] > 1e9
        interface = said["interfaces"]["wg0"]
        assert interface["listenPort"] == 51820
        peer = max(interface["peers"].values(), key=lambda each: each["transferRx"])
        assert peer["endpoint"] == "1.2.3.4:5"
        assert peer["receivesBitsPerSecond"] == peer["sendsBitsPerSecond"] == 0
    assert "privateKey" not in lines[0]


def test_all_interfaces_and_an_unserved_one(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stale.sock").touch()
    assert main(["monitor", "--count", "1", "--interval", "0.1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("wg0: port 51820")
    assert "stale" not in said


def test_no_interface_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uapi, "SOCKET_DIRECTORY", str(tmp_path))
    assert main(["monitor", "--count", "1", "--interval", "0.1"]) == 0
    assert capsys.readouterr().out.startswith("no interface")
    assert main(["monitor", "wg9"]) == 3
    assert "nothing serves the interface wg9" in capsys.readouterr().err


def test_it_ends_with_ctrl_c(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    assert main(["monitor", "wg0"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [["--interval", "0"], ["--interval", "nan"], ["--interval", "x"], ["--count", "0"], ["--count", "x"]],
)
def test_bad_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["monitor", *words])
    assert left.value.code == 2
