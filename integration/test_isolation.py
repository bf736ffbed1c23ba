"""Commands run as root in a directory that others can write to never import a module from there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lab.device_node import with_node
from lab.unprivileged import as_nobody, user_namespaces

COMMAND = (sys.executable, "-P", "-m", "udpring.cli.main")
INSTALLED = Path(sys.executable).with_name("udpring")
#: Modules in the package's first imports. An interpreter that looks in the current directory finds one.
STANDARD = ("argparse", "asyncio", "json", "socket", "logging", "dataclasses", "typing", "ipaddress")
TRAP = """
import os, sys
with open({trap!r}, "a") as caught:
    print(__name__, sys.orig_argv, file=caught)
"""


def plant(folder: Path) -> Path:
    """A directory with its own ``udpring`` package and standard modules, which write ``trap`` next to it."""
    trap = TRAP.format(trap=str(folder / "trap"))
    here = folder / "here"
    here.mkdir()
    for package in (
        "udpring",
        "udpring/cli",
        "udpring/tunnel",
        "udpring_tools",
        "udpring_tools/bench",
        "udpring_tools/commands",
        "udpring_tools/demo",
    ):
        (here / package).mkdir()
        (here / package / "__init__.py").write_text(trap)
    for name in (
        "udpring/cli/main",
        "udpring/cli/wg",
        "udpring_tools/demo/node",
        "udpring_tools/bench/spray",
    ):
        (here / f"{name}.py").write_text(trap)
    for name in STANDARD:
        (here / f"{name}.py").write_text(trap)
    return here


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    return plant(tmp_path)


def run(
    folder: Path, *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    trap = folder.parent / "trap"
    assert not trap.exists(), trap.read_text()
    return done


def test_the_trap_catches_an_import_from_here(planted: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    option = "-m"  # deliberately without -P
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


def test_demo_in_a_user_namespace_imports_nothing_from_here(readable: dict[str, str]) -> None:
    """The command is started a second time there."""
    user_namespaces(readable)
    home = Path("/tmp") / f"udpring-test-{secrets.token_hex(4)}"
    home.mkdir()
    try:
        here = plant(home)
        for each in (home, *here.rglob("*"), here):
            each.chmod(0o777)
        words = [*with_node(), *as_nobody(*COMMAND, "demo", "--seconds", "0.1", "--json")]
        done = run(here, *words, environment=readable)
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(home)


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
