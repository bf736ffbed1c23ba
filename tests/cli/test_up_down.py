"""``udpring up``, ``down`` and ``udpring-wg`` that end before they start anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import udpring
from udpring.cli import wg
from udpring.cli.main import main


@pytest.fixture(autouse=True)
def _no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> int:
        raise AssertionError("nothing may be started")

    monkeypatch.setattr(os, "fork", forbidden)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Interface]\nPrivateKey = short\n", "wg0.conf:2:"),
        ("[Interface]\nListenPort = 5\n", "udpring genkey"),
        ("ListenPort = 5\n", "wg0.conf:1:"),
    ],
)
def test_a_configuration_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "wg0.conf"
    file.write_text(text)
    assert main(["up", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_no_such_file_and_no_interface_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", str(tmp_path / "none.conf")]) == 2
    assert main(["up", str(tmp_path / "a-name-that-is-too-long.conf")]) == 2
    assert main(["down", str(tmp_path / "odd name.conf")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_down_of_what_is_not_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "no-such-if"]) == 3
    assert "nothing serves the interface no-such-if" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [[], ["a", "b"], ["-x", "wg0"], [""], ["sixteen-bytes-xx"], ["a/b"], [".."], ["\u00e4" * 8]],
)
def test_udpring_wg_refuses_bad_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        wg.main(words)
    assert left.value.code == 2


def test_reserved_memory_is_untouched() -> None:
    """A node keeps it for as long as it runs."""
    size = 64 << 20

    def resident() -> int:
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) << 10

    before = resident()
    kept = wg.reserve(size)
    assert resident() - before < size // 2
    kept.close()


def test_udpring_wg_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        wg.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"udpring-wg {udpring.__version__}\n"


def test_udpring_wg_names_a_bad_descriptor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WG_UAPI_FD", "three")
    assert wg.main(["wg0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "WG_UAPI_FD" in line


@pytest.mark.parametrize("command", ["up", "wg"])
@pytest.mark.parametrize("flags", [[], ["-f"]], ids=["background", "foreground"])
@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("UDPRING_TIER", "fastest", "uring-pool, mmsg"),
        ("UDPRING_WORKERS", "17", "from 1 to 16"),
        ("UDPRING_WORKERS", "two", "from 1 to 16"),
        ("UDPRING_OFFLOADS", "some", "all, tun, udp, none"),
        ("UDPRING_NICE", "5", "from -20 to 0"),
        ("UDPRING_NICE", "-21", "from -20 to 0"),
    ],
)
def test_a_wrong_setting_in_the_environment_is_bad_usage(
    tmp_path: Path, command: str, flags: list[str], name: str, value: str, cure: str
) -> None:
    file = tmp_path / "udpringtest0.conf"
    file.write_text("[Interface]\nPrivateKey = " + "A" * 42 + "E=\n")
    file.chmod(0o600)
    words = ["udpring.cli.main", "up", *flags, str(file)]
    if command == "wg":
        words = ["udpring.cli.wg", *flags, "udpringtest0"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", *words],
        env={**os.environ, name: value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert name in line
    assert repr(value) in line
    assert cure in line
