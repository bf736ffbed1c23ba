"""``udpring bench`` and ``udpring demo`` without the package that runs them."""

from __future__ import annotations

import sys

import pytest

from udpring.cli.main import main


@pytest.fixture(autouse=True)
def _not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "udpring_tools", None)  # how the import system marks a missing module


@pytest.mark.parametrize(
    "words", [["bench"], ["bench", "udp", "--json"], ["demo", "--seconds", "1"], ["demo", "--help"]]
)
def test_missing_tools_are_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line and code 3."""
    assert main(words) == 3
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert f"udpring {words[0]} needs the Python package udpring_tools" in line
    assert "pip install udpring" in line


def test_help_lists_missing_tools(capsys: pytest.CaptureFixture[str]) -> None:
    """``udpring --help`` works without the package, and says what the two commands lack."""
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert " ".join(capsys.readouterr().out.split()).count("(not installed: udpring_tools)") == 2
