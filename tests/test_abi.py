"""The interface between the core and Python: no stale module is imported, and every enumerator has a name."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from udpring._abi import abi_hash

PACKAGE = Path(__file__).resolve().parent.parent / "udpring"
NATIVE = PACKAGE / "native"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package with its compiled module, for a test to change."""
    return shutil.copytree(PACKAGE, tmp_path / "udpring", ignore=shutil.ignore_patterns("__pycache__"))


def imported(copy: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", "import udpring._native; print(udpring.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(copy.parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_module_fits_its_sources(copy: Path) -> None:
    assert imported(copy).stdout.strip() == str(copy / "__init__.py")


@pytest.mark.parametrize("room", ["", "uring", "uring/net", "udp", "tunnel", "tunnel/crypto"])
def test_a_module_of_another_abi_is_refused(copy: Path, room: str) -> None:
    header = copy / "native" / room / "abi.h"
    header.write_text(header.read_text().replace("#endif", "int32_t udpring_novelty(void);\n#endif"))
    done = imported(copy)
    assert done.returncode == 1
    assert "was built from other abi.h files" in done.stderr
    assert "build it again: scripts/bootstrap" in done.stderr


def test_a_wheel_has_nothing_to_compare(copy: Path) -> None:
    shutil.rmtree(copy / "native")
    assert abi_hash(copy / "native") == ""
    assert imported(copy).returncode == 0


def compiles(native: Path, source: str) -> bool:
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-fsyntax-only", source]
    return subprocess.run(command, cwd=native, capture_output=True, check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("header", "names", "last"),
    [
        ("tunnel/abi.h", "tunnel/worker/drops.c", 'each(ROUTING_LOOP, "routing_loop")'),
        ("uring/abi.h", "uring/probe.c", 'each(SENDMSG_ZC, "sendmsg_zc")'),
        ("udp/abi.h", "udp/tier.c", 'each(MMSG, "mmsg")'),
    ],
)
def test_an_enumerator_without_a_name_does_not_compile(
    tmp_path: Path, header: str, names: str, last: str
) -> None:
    native = shutil.copytree(NATIVE, tmp_path / "native")
    before = (native / header).read_text()
    assert before.count(last) == 1
    (native / header).write_text(before.replace(last, f'each(NOVELTY, "novelty") {last}'))
    assert compiles(native, names)
    (native / header).write_text(before.replace(last, f"each(NOVELTY) {last}"))
    assert not compiles(native, names)
