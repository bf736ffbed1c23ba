"""The command line: exit codes, one line on standard error, and key commands that behave as wg's."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

import udpring
from udpring.cli import main as cli
from udpring.errors import ConfigError, HostError, UdpringError
from udpring.tunnel import keys

TOP = Path(__file__).resolve().parents[2]
PRIVATE = keys.to_base64(bytes([0x58] * 32))


def udpring_command(
    *arguments: str, stdin: str = "", umask: int = 0o077, **more: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-P", "-m", "udpring.cli.main", *arguments],
        input=stdin,
        text=True,
        timeout=60,
        cwd=TOP,
        umask=umask,
        check=False,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more),
    )


def test_genkey_is_a_clamped_key_and_a_newline() -> None:
    done = udpring_command("genkey")
    assert (done.returncode, done.stderr) == (0, "")
    key = keys.from_base64(done.stdout.removesuffix("\n"))
    assert key == keys.clamp(key)


def test_genpsk_is_a_key_and_a_newline() -> None:
    done = udpring_command("genpsk")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(keys.from_base64(done.stdout.removesuffix("\n"))) == 32


@pytest.mark.parametrize("trail", ["", "\n", " \t\n\n"])
def test_pubkey_reads_standard_input(trail: str) -> None:
    done = udpring_command("pubkey", stdin=PRIVATE + trail)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == keys.to_base64(keys.public_key(keys.from_base64(PRIVATE))) + "\n"


@pytest.mark.parametrize(
    "text", ["", "\n", "abc\n", PRIVATE + "x\n", " " + PRIVATE, PRIVATE + "\n" + PRIVATE, "\xff" * 44]
)
def test_pubkey_refuses_as_wg_does(text: str) -> None:
    """The error is one line and does not contain the key."""
    done = udpring_command("pubkey", stdin=text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("udpring: standard input is not a private key: ")
    assert done.stderr.count("\n") == 1
    assert PRIVATE[:10] not in done.stderr
    if shutil.which("wg"):
        assert subprocess.run(
            ["wg", "pubkey"], input=text, text=True, capture_output=True, check=False
        ).returncode


@pytest.mark.parametrize("command", ["genkey", "genpsk"])
@pytest.mark.parametrize(("umask", "warns"), [(0o077, False), (0o022, True)])
def test_key_in_world_readable_file_warns(tmp_path: Path, command: str, umask: int, warns: bool) -> None:
    path = tmp_path / "key"
    path.touch(0o666 & ~umask)
    path.chmod(0o666 & ~umask)
    with path.open("w") as out:
        done = udpring_command(command, stdout=out)
    assert done.returncode == 0
    assert ("world accessible" in done.stderr) is warns
    assert len(path.read_text()) == 45


def test_key_commands_load_neither_the_compiled_module_nor_asyncio() -> None:
    code = (
        "import sys; from udpring.cli.main import main; main(['genkey']);"
        "bad = {'udpring._core', 'udpring._native', 'asyncio', 'socket', 'cryptography'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=TOP, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_version_and_help() -> None:
    assert udpring_command("--version").stdout == f"udpring {udpring.__version__}\n"
    text = udpring_command("--help").stdout
    for name in ("genkey", "pubkey", "genpsk", "check", "show"):
        assert f"\n    {name} " in text
    assert "0 done, 1 failed, 2 bad usage or configuration, 3 refused by this host" in " ".join(text.split())


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "udpring", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"udpring {udpring.__version__}\n", "")


def test_every_command_has_help_and_a_description() -> None:
    for name, module in cli._modules([]).items():
        subparsers = argparse.ArgumentParser().add_subparsers()
        module.register(subparsers)
        (parser,) = subparsers.choices.values()
        assert list(subparsers.choices) == [name]
        assert parser.description
        assert callable(module.run)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["genkey", "--nonsense"], ["check"], ["--vers"]])
def test_bad_usage_is_2(arguments: list[str]) -> None:
    done = udpring_command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: udpring" in done.stderr


class Command(types.ModuleType):
    """A command with the behaviour that the test names."""

    def __init__(self, outcome: BaseException | int) -> None:
        super().__init__("fake")
        self.outcome = outcome

    def register(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        subparsers.add_parser("fake")

    def run(self, args: argparse.Namespace) -> int:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "code", "line"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (
            ConfigError("bad\nport", file="a.conf", line=3, column=5, text="x", cure="y"),
            2,
            "udpring: a.conf:3:5: bad port: 'x' (y)\n",
        ),
        (HostError("not root", cure="use sudo"), 3, "udpring: not root (use sudo)\n"),
        (UdpringError("no"), 1, "udpring: no\n"),
        (OSError(28, "No space left"), 1, "udpring: [Errno 28] No space left\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: BaseException | int,
    code: int,
    line: str,
) -> None:
    monkeypatch.setattr(cli, "_modules", lambda _: {"fake": Command(outcome)})
    assert cli.main(["fake"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("command", "closed", "words"),
    [
        ("genkey", ">&-", "standard output cannot be written: Bad file descriptor"),
        ("genpsk", "<&- >&-", "standard output cannot be written: Bad file descriptor"),
        ("genkey", "> /dev/full", "standard output cannot be written: No space left on device"),
        ("pubkey", "<&-", "standard input cannot be read: Bad file descriptor"),
        ("pubkey", "<&- >&-", "standard input cannot be read: Bad file descriptor"),
        ("check /nonexistent.conf", "<&- >&-", "/nonexistent.conf: there is no such file"),
    ],
)
def test_closed_standard_streams_are_reported(command: str, closed: str, words: str) -> None:
    """The error is one line."""
    line = f"exec {shlex.quote(sys.executable)} -P -m udpring.cli.main {command} {closed}"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=TOP, check=False, timeout=60
    )
    assert done.returncode == (2 if command.startswith("check") else 1)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_long_output_survives_short_writes(stream: str, unbuffered: str) -> None:
    """A signal ends the write to a full pipe early. PYTHONUNBUFFERED must not lose the rest."""
    program = f"""
import signal, sys, udpring.cli
udpring.cli.open_standard_streams()
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
print("x" * 1_000_000, file=sys.{stream})
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                cwd=TOP,
                env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
                **{stream: writing},
            )
        finally:
            os.close(writing)
        with child:
            got = b""
            while part := pipe.read1(4096):
                got += part
                if len(got) < 100_000:
                    signal.sigtimedwait([], 0.002)  # a slow reader: the pipe is full when the signals come
    assert child.returncode == 0
    assert len(got) == 1_000_001


def test_closed_standard_streams_keep_exit_code() -> None:
    for words, code in (("pubkey", 1), ("check /nonexistent.conf", 2)):
        line = f"exec {shlex.quote(sys.executable)} -P -m udpring.cli.main {words} <&- >&- 2>&-"
        done = subprocess.run(["sh", "-c", line], cwd=TOP, check=False, timeout=60)
        assert done.returncode == code, words


def test_a_closed_pipe_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = udpring_command("genkey", stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
