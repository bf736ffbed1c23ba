"""NAME.up is found while its writer lives, and not afterwards."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from udpring.tunnel import uapi, up_record

WRITER = """
import pathlib, sys, signal
from udpring.tunnel import uapi, up_record
uapi.SOCKET_DIRECTORY = sys.argv[1]
record = up_record.write("wg0", pathlib.Path("/etc/wireguard/wg0.conf"), allow_hooks=True)
print("written", flush=True)
sys.stdin.readline()
record.remove()
"""


@pytest.fixture(autouse=True)
def _directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uapi, "SOCKET_DIRECTORY", str(tmp_path))


def writer(folder: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-P", "-c", WRITER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "written\n"
    return started


def test_a_record_is_found_while_its_writer_lives(tmp_path: Path) -> None:
    assert up_record.find("wg0") is None
    with writer(tmp_path) as process:
        found = up_record.find("wg0")
        assert found is not None
        assert (found.file, found.allow_hooks) == (Path("/etc/wireguard/wg0.conf"), True)
        assert up_record.find("wg1") is None
        assert (tmp_path / "wg0.up").stat().st_mode & 0o777 == 0o600
        process.communicate("\n", timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_the_record_of_a_killed_writer_counts_as_none(tmp_path: Path) -> None:
    with writer(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert (tmp_path / "wg0.up").exists()
    assert up_record.find("wg0") is None
    with writer(tmp_path) as process:
        assert up_record.find("wg0") is not None
        process.communicate("\n", timeout=60)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"file": 5, "allow_hooks": 1}'])
def test_a_record_that_is_none_is_passed_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wg0.up"
    path.write_bytes(content)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert up_record.find("wg0") is None
