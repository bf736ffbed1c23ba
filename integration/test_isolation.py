"""Commands run as root in a directory that somebody else may write to: no module there is ever imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-P", "-m", "udpring.cli.main")
INSTALLED = Path(sys.executable).with_name("udpring")
#: Modules that the package's first lines import: whoever looks in the current directory finds one of these.
STANDARD = ("argparse", "asyncio", "json", "socket", "logging", "dataclasses", "typing", "ipaddress")
TRAP = """
import os, sys
with open({trap!r}, "a") as caught:
    print(__name__, sys.orig_argv, file=caught)
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A directory with an ``udpring`` package and standard modules of its own, which write ``trap``."""
    trap = TRAP.format(trap=str(tmp_path / "trap"))
    folder = tmp_path / "here"
    folder.mkdir()
    for package in ("udpring", "udpring/cli", "udpring/bench", "udpring/tunnel"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(trap)
    for name in ("cli/main", "cli/wg", "cli/_demo_node", "bench/spray"):
        (folder / "udpring" / f"{name}.py").write_text(trap)
    for name in STANDARD:
        (folder / f"{name}.py").write_text(trap)
    return folder


def run(folder: Path, *words: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    trap = folder.parent / "trap"
    assert not trap.exists(), trap.read_text()
    return done


def test_the_trap_catches_an_import_from_here(planted: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    option = "-m"  # without -P, on purpose
    words = [sys.executable, option, "udpring.cli.main", "genkey"]
    subprocess.run(words, cwd=planted, env=environment, capture_output=True, check=False, timeout=60)
    assert (planted.parent / "trap").exists()


@pytest.mark.xdist_group("bench")
@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--seconds", "0.1", "--json"],
        ["bench", "tunnel", "--seconds", "1", "--runs", "1", "--only", "rtt", "--json"],
        ["bench", "peers", "--seconds", "1", "--runs", "1", "--rate", "5000", "--largest", "10", "--json"],
        ["bench", "handshakes", "--seconds", "1", "--runs", "1", "--rate", "5000", "--json"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_helper_processes_import_nothing_from_here(planted: Path, words: list[str]) -> None:
    done = run(planted, *COMMAND, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.parametrize("program", [COMMAND, (str(INSTALLED),)], ids=["module", "installed"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["genkey"], 0),
        (["--help"], 0),
        (["doctor", "--json"], 0),
        (["show"], 0),
        (["check", "wg0.conf"], 0),
        (["bench", "aead", "--rounds", "50", "--length", "64"], 0),
        (["up", "wg0.conf"], 2),
        (["down", "nosuchif"], 3),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else str(words),
)
def test_commands_import_nothing_from_here(
    planted: Path, program: tuple[str, ...], words: list[str], code: int
) -> None:
    if not Path(program[0]).exists():
        pytest.skip("udpring is not installed beside the interpreter")
    file = planted / "wg0.conf"
    file.write_text("[Interface]\n" + ("PrivateKey = " + "A" * 42 + "E=\n" if words[0] == "check" else ""))
    file.chmod(0o600)
    done = run(planted, *program, *words)
    assert done.returncode == code, done.stderr
