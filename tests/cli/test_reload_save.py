"""``udpring reload``, ``save`` and ``up --dry-run`` as far as they need no root."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from udpring.cli import _dry_run
from udpring.cli._reload_report import changes, stays
from udpring.cli.main import main
from udpring.tunnel import up_record
from udpring.tunnel.config import Config
from udpring.tunnel.interface import HostFacts, plan

from .conftest import Server

HEAD = "[Interface]\nPrivateKey = " + "A" * 42 + "E=\n"
PEERS = [
    f"[Peer]\nPublicKey = {chr(65 + number) * 42}E=\nAllowedIPs = 10.{number}.0.0/16\n" for number in range(3)
]


def test_changes_are_named_without_values() -> None:
    before = Config.loads(HEAD + "ListenPort = 5\nDNS = 10.0.0.1, a.example\n" + PEERS[0] + PEERS[1])
    now = Config.loads(
        HEAD + "DNS = 10.0.0.2, b.example\n" + PEERS[1] + "PersistentKeepalive = 5\n" + PEERS[2]
    )
    assert changes(before, now) == "ListenPort, DNS; peers: 1 added, 1 removed, 1 changed"
    assert changes(before, before) == ""
    (note,) = stays(before, now)
    assert note.startswith("ListenPort is no longer set")
    keyless = Config.loads("[Interface]\nPostUp = wg set %i private-key k\n")
    assert changes(before, keyless) == "ListenPort, DNS, PostUp; peers: 2 removed"


def test_reload_needs_an_interface_of_up(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reload", "wg0"]) == 3
    assert "not started by udpring up" in capsys.readouterr().err
    assert main(["reload", "wg9"]) == 3
    assert "nothing serves the interface wg9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "code", "out", "err"),
    [
        (b'changes="MTU"\nnotes.0="a note"\nerrno=0\n\n', 0, "wg0: MTU\n", "udpring: warning: a note\n"),
        (b'changes=""\nerrno=0\n\n', 0, "wg0: nothing has changed\n", ""),
        (b'message="a.conf:1:2: bad"\nmisused=true\nerrno=22\n\n', 2, "", "udpring: wg0: a.conf:1:2: bad\n"),
        (b'message="no"\nrefused=true\nerrno=1\n\n', 3, "", "udpring: wg0: no\n"),
        (b'message="no"\nerrno=5\n\n', 1, "", "udpring: wg0: no\n"),
    ],
)
def test_reload_passes_the_report_on(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answer: bytes,
    code: int,
    out: str,
    err: str,
) -> None:
    record = up_record.write("wg0", tmp_path / "wg0.conf", allow_hooks=False)
    server.answer = answer
    assert main(["reload", "wg0"]) == code
    assert main(["reload", str(tmp_path / "wg0.conf")]) == code
    said = capsys.readouterr()
    assert (said.out, said.err) == (out * 2, err * 2)
    assert main(["reload", str(tmp_path / "x" / "wg0.conf")]) == 2
    assert "wg0 has another file" in capsys.readouterr().err
    record.remove()


@pytest.mark.parametrize("answer", [b"errno=22\n\n", b"errno=95\n\n", b"nonsense\n"])
def test_other_programs_are_named(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes
) -> None:
    """wireguard-go ends the connection at a request that it does not know."""
    record = up_record.write("wg0", tmp_path / "wg0.conf", allow_hooks=False)
    server.answer = answer
    assert main(["reload", "wg0"]) == 3
    assert "the program that serves wg0 does not answer reload requests" in capsys.readouterr().err
    record.remove()


def test_save_without_an_interface_changes_no_file(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wg9.conf"
    assert main(["save", str(file)]) == 2
    assert "there is no such file" in capsys.readouterr().err
    file.write_text(HEAD)
    assert main(["save", str(file)]) == 3
    assert "nothing serves the interface wg9" in capsys.readouterr().err
    assert file.read_text() == HEAD


def test_steps_are_in_the_order_of_up() -> None:
    text = HEAD + "Address = 10.9.0.1/24\nPreUp = echo pre %i\nPostUp = echo post\nOffload = off\n"
    loaded = Config.loads(text + PEERS[0].replace("10.0.0.0/16", "0.0.0.0/0"))
    planned = plan(loaded, "wg0", HostFacts(src_valid_mark=True, firewall=None))
    lines = list(_dry_run.steps("wg0", Path("/a folder/wg0.conf"), loaded, planned))
    assert lines[:5] == [
        "[#] echo pre wg0",
        "[#] udpring-wg wg0",
        "[#] wg setconf wg0 <(wg-quick strip '/a folder/wg0.conf')",
        "[!] Offload: udpring up sets it. wg does not know it",
        "[#] wg set wg0 fwmark 51820",
    ]
    assert lines[5:-1] == list(planned.lines())
    assert lines[-1] == "[#] echo post"


def test_dry_run_needs_no_right_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden() -> int:
        raise AssertionError("nothing may be started")

    monkeypatch.setattr(os, "fork", forbidden)
    file = tmp_path / "lo.conf"
    file.write_text(HEAD + "Address = 10.9.0.1/24\nMTU = 1400\nPostUp = touch made\n" + PEERS[0])
    file.chmod(0o602)
    assert main(["up", "--dry-run", str(file)]) == 0
    said = capsys.readouterr()
    assert "[#] ip link set mtu 1400 up dev lo\n" in said.out
    assert said.out.endswith("[#] touch made\n")
    assert "A" * 42 not in said.out
    assert "the interface lo exists already" in said.err
    assert "udpring down lo" in said.err
    assert "its commands are not run" in said.err


def test_dry_run_looks_names_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The route to the endpoint decides the MTU, as in ``up``."""
    file = tmp_path / "wgdry.conf"
    file.write_text(HEAD + "Address = 10.9.0.1/24\n" + PEERS[0] + "Endpoint = localhost:5\n")
    file.chmod(0o600)
    assert main(["up", "--dry-run", str(file)]) == 0
    # The loopback's MTU less 80. The kernel may remember another path MTU for its address, of another test.
    assert re.search(r"^\[#\] ip link set mtu 6545[56] up dev wgdry$", capsys.readouterr().out, re.MULTILINE)
