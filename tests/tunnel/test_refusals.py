"""Messages for refused starts: each has a cure, a fault of the program has none, descriptors are closed."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from pathlib import Path

import pytest

from udpring.cli import main as cli
from udpring.errors import HostError, RingError
from udpring.tunnel import refusals
from udpring.tunnel.blocking import run_blocking


@pytest.mark.parametrize(
    ("failed", "text", "cure"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files", "ulimit -n"),
        (OSError(errno.EMFILE, "Too many open files", "/a.py"), "/a.py: Too many open files", "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left", b"/run"), "/run: No space left", "free space"),
        (OSError("no number"), "no number", "udpring doctor"),
        (MemoryError(), "out of memory", "ulimit -v"),
        (RuntimeError("can't start new thread"), "a thread cannot be started", "ulimit -u"),
        (ImportError("x.so: failed to map segment from shared object"), "x.so", "ulimit -v"),
        (ImportError("x.so: cannot open: Too many open files"), "x.so", "ulimit -n"),
        (ImportError("No module named 'x'"), "No module named 'x'", "pip install"),
        (RingError("receiving: no", errno=errno.EPERM), "receiving: no", "sandbox"),
        (HostError("kept", cure="as it is"), "kept", "as it is"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else "",
)
def test_each_refusal_is_one_sentence_and_a_cure(failed: Exception, text: str, cure: str) -> None:
    refusal = refusals.explained(failed)
    assert refusal is not None
    assert text in refusal.message
    assert cure in refusal.cure
    assert "\n" not in str(refusal)


@pytest.mark.parametrize("failed", [ValueError("x"), RuntimeError("no event loop"), KeyError("x")])
def test_a_fault_of_the_program_is_no_refusal(failed: Exception) -> None:
    assert refusals.explained(failed) is None


def test_descriptors_are_counted_and_given_back() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 5, hard))
        with pytest.raises(HostError, match="a node needs 10000") as refused:
            refusals.require_descriptors(10000)
        assert "ulimit -n" in refused.value.cure
        refusals.require_descriptors(4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_work_without_a_thread_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(HostError, match="no thread for a-name"):
        asyncio.run(run_blocking(lambda: None, name="a-name"))


@pytest.mark.parametrize(
    ("failed", "code"),
    [
        (OSError(errno.EMFILE, "Too many open files"), cli.HOST_CANNOT),
        (MemoryError(), cli.HOST_CANNOT),
        (ImportError("no"), cli.HOST_CANNOT),
        (OSError(errno.EACCES, "Permission denied", "/x"), cli.FAILED),
    ],
)
def test_commands_end_with_the_documented_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failed: Exception, code: int
) -> None:
    def refuse(_: object) -> int:
        raise failed

    monkeypatch.setattr("udpring.cli.genkey.run", refuse)
    assert cli.main(["genkey"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("udpring: ")


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr("udpring.cli.genkey.run", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main(["genkey"])


def test_an_error_number_without_a_cure_points_to_doctor() -> None:
    assert refusals.cure_of(errno.EXDEV) == "see: udpring doctor"
    assert os.strerror(errno.EMFILE) == "Too many open files"
