"""``udpring demo`` without its namespaces: arguments, the table, ratios, unsuitable hosts."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Server

from udpring.cli.main import main
from udpring.errors import HostError
from udpring.tunnel.uapi_client import UapiClient
from udpring_tools.commands import demo
from udpring_tools.demo import lab

ROW = {
    "outer": "IPv4",
    "inner": "IPv6",
    "handshake_ms": 2.0,
    "rtt_p50_ms": 0.1,
    "rtt_p99_ms": 0.5,
    "echoes_lost": 0,
    "tcp_forward_gbit_s": 3.0,
    "tcp_reverse_gbit_s": 2.0,
    "gbit_per_cpu_s": 4.0,
}


def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    """A PATH with only these programs."""
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--seconds", "x"], ["--seconds", "1e9"], ["more"]])
def test_bad_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["demo", *words])
    assert left.value.code == 2


def test_a_missing_tool_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools(tmp_path, monkeypatch, ip="exit 0", unshare="exit 0")
    assert main(["demo"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "udpring: nsenter is not installed (install it: apt-get install util-linux)\n"


def test_no_program_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools(tmp_path, monkeypatch, ip="exit 0", unshare="exit 0", nsenter="exit 0", setpriv="exit 0")
    assert main(["demo", "--against"]) == 3
    assert "wireguard-go is not installed" in capsys.readouterr().err


def test_neither_root_nor_user_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = 'echo "unshare: unshare failed: Operation not permitted" >&2; exit 1'
    tools(tmp_path, monkeypatch, ip="exit 0", unshare=refused, nsenter="exit 0", setpriv="exit 0")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["demo"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "Operation not permitted" in line
    assert "sudo" in line


@pytest.mark.parametrize("name", ["UDPRING_TIER", "UDPRING_WORKERS", "UDPRING_OFFLOADS"])
def test_wrong_setting_fails_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, "fastest")
    monkeypatch.setattr("udpring_tools.bench.space.become_root", pytest.fail)
    assert main(["demo"]) == 2
    assert name in capsys.readouterr().err


def test_root_without_the_right_to_namespaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = 'echo "unshare: unshare failed: Operation not permitted" >&2; exit 1'
    tools(tmp_path, monkeypatch, ip="exit 0", unshare=refused, nsenter="exit 0", setpriv="exit 0")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["demo"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "CAP_SYS_ADMIN" in line


def test_table_is_aligned_without_unknown_figures() -> None:
    lines = demo._table([ROW, {**ROW, "gbit_per_cpu_s": None, "handshake_ms": 1234.5}]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[:4] == ["IPv4", "IPv6", "2.0", "ms"]
    assert lines[2].split()[-1] == "-"


def test_ratios_are_medians_of_what_both_have() -> None:
    theirs = [{**ROW, "handshake_ms": value, "gbit_per_cpu_s": None} for value in (1.0, 2.0, 8.0)]
    ratio = demo._ratio([ROW] * 3, theirs)
    assert ratio["handshake_ms"] == 1.0
    assert ratio["tcp_forward_gbit_s"] == 1.0
    assert "gbit_per_cpu_s" not in ratio
    assert "echoes_lost" not in ratio


def test_the_table_says_what_was_used(capsys: pytest.CaptureFixture[str]) -> None:
    demo._print_table(
        {
            "udpring": "1.2.3",
            "tier": "mmsg",
            "tier_reason": "io_uring is denied",
            "aead": "openssl",
            "kernel": "6.1",
            "cpus": 2,
            "tunnels": [ROW],
            "against": {"program": "wireguard-go", "tunnels": [ROW]},
            "ratio": demo._ratio([ROW], [ROW]),
        }
    )
    said = capsys.readouterr().out
    assert "tier mmsg, AEAD openssl" in said
    assert "io_uring is denied" in said
    assert "udpring divided by wireguard-go: handshake 1.00" in said


def test_address_is_awaited_until_local(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        def __init__(self) -> None:
            self.routes = ["", "", "local fd99::1 dev under table local proto kernel metric 0 pref medium\n"]

        def command(self, *words: str) -> str:
            assert words[-1] == "fd99::1"
            return self.routes.pop(0)

    late: Any = Late()
    lab._wait_until_local(late, "fd99::1")
    assert not late.routes
    monkeypatch.setattr(lab, "FIRST_ECHO_WAIT", 0)
    late.routes = [""] * 1000
    with pytest.raises(HostError, match="fd99::1 did not come up"):
        lab._wait_until_local(late, "fd99::1")


def test_a_program_is_asked_again_until_it_listens(tmp_path: Path) -> None:
    client = UapiClient("wg0", tmp_path)
    assert not lab._answers(client)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(client.path))
        assert not lab._answers(client)


def test_a_program_that_listens_answers(server: Server, tmp_path: Path) -> None:
    assert lab._answers(UapiClient("wg0", tmp_path))
