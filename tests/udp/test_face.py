"""The C interface that the tunnel uses, under the sanitisers: face.c, built with the sources of
native/udp."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent.parent / "udpring" / "native"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test compiles
SCENARIOS = re.findall(r'\{"(\w+)", \1\}', (HERE / "face.c").read_text())


@pytest.fixture(scope="session")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built once per session."""
    built = tmp_path_factory.mktemp("face") / "face"
    sources = [
        NATIVE / "base.c",
        *sorted((NATIVE / "udp").rglob("*.c")),
        *sorted((NATIVE / "uring").rglob("*.c")),
    ]
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-pthread"]
    checks = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
        "-Wl,--wrap=syscall",
    ]
    command = [*compiler, *flags, *checks, f"-I{NATIVE}", HERE / "face.c", *sources, "-o", built]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return built


def test_the_scenarios_are_found() -> None:
    assert len(SCENARIOS) == 11


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_face(face: Path, scenario: str, tier: str) -> None:
    # A sanitised program must not inherit the preloaded sanitiser of a sanitised interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environment["ASAN_OPTIONS"] = "detect_leaks=1"
    done = subprocess.run(
        [face, scenario, tier], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
