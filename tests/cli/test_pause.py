"""``udpring pause`` and ``resume``, against a UAPI server."""

from __future__ import annotations

import json

import pytest

from udpring.cli import show
from udpring.cli.main import main
from udpring.tunnel import uapi

from .conftest import Server


@pytest.mark.parametrize(("command", "paused"), [("pause", True), ("resume", False)])
def test_command_sends_one_operation(server: Server, command: str, paused: bool) -> None:
    assert main([command, "wg0"]) == 0
    assert server.operations == [uapi.SetPaused(paused), uapi.EndRequest("set")]


def test_other_programs_are_named(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """wireguard-go answers EINVAL to a key that it does not know."""
    server.answer = b"errno=-22\n\n"
    assert main(["pause", "wg0"]) == 3
    said = capsys.readouterr().err
    assert "the program that serves wg0 cannot pause it" in said
    assert "udpring up" in said


def test_other_refusals_keep_their_errno(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = b"errno=-5\n\n"
    assert main(["resume", "wg0"]) == 1
    assert "Input/output error" in capsys.readouterr().err


def test_missing_interface_is_refused(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pause", "wg7"]) == 3
    assert "nothing serves" in capsys.readouterr().err


def test_show_says_that_an_interface_is_paused() -> None:
    for paused in (True, False):
        device = uapi.DeviceInfo(paused=paused)
        text = "\n".join(show.as_text("wg0", device, {}, False, 0))
        assert ("paused: yes" in text) is paused
        assert (json.loads(json.dumps(show.as_json(device, {}, False))).get("paused", False)) is paused
