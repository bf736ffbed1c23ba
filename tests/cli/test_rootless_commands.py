"""``udpring run`` and ``udpring proxy``: refusals before anything is started, and early signals."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import signal
import subprocess

import pytest

from udpring.cli import _rootless, proxy, run
from udpring.cli.main import main
from udpring.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1080", ("127.0.0.1", 1080)),
        ("0.0.0.0:1080", ("0.0.0.0", 1080)),
        ("[::1]:0", ("::1", 0)),
    ],
)
def test_listening_addresses(text: str, wanted: tuple[str, int]) -> None:
    """Loopback unless an address is given."""
    assert proxy.local(text, "--socks") == wanted


@pytest.mark.parametrize("text", ["", "x", "65536", "::1:80", "host:80", ":80", "[127.0.0.1]:80", "-1"])
def test_wrong_listening_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--socks"):
        proxy.local(text, "--socks")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80=intra:8080", ("127.0.0.1", 80, "intra", 8080)),
        ("[::1]:80=[fd00::1]:81", ("::1", 80, "fd00::1", 81)),
    ],
)
def test_forwardings(text: str, wanted: tuple[str, int, str, int]) -> None:
    assert proxy.forward(text) == wanted


@pytest.mark.parametrize("text", ["80", "80=intra", "80=:80", "80=intra:0", "x=intra:80", "80=fd00::1:81"])
def test_wrong_forwardings_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--forward"):
        proxy.forward(text)


@pytest.mark.parametrize("words", [["run", "absent.conf", "--", "true"], ["proxy", "absent.conf"]])
def test_missing_file_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "absent.conf" in capsys.readouterr().err


def test_wrong_option_of_proxy_comes_before_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["proxy", "absent.conf", "--socks", "nowhere"]) == 2
    assert "--socks" in capsys.readouterr().err


# ---- signals of run ----


def test_early_signals_reach_the_program() -> None:
    signals = run._Signals()
    signals.pass_on(signal.SIGUSR1)
    with subprocess.Popen(["sleep", "60"]) as program:
        signals.begin(program.pid)
        assert program.wait(30) == -signal.SIGUSR1


def test_program_without_a_descriptor_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Program:
        pid, killed = os.getpid(), False

        def kill(self) -> None:
            self.killed = True

    class Node:
        async def __aenter__(self) -> Node:
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

        async def spawn(self, *_: str) -> Program:
            return program

    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    program = Program()
    monkeypatch.setattr(_rootless, "node_of", lambda *_: Node())
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        asyncio.run(run._run(argparse.Namespace(program=["true"]), None))
    assert program.killed
