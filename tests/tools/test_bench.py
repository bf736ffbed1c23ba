"""``udpring bench``: its subjects, and the figures of ``bench aead``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from udpring._native import ffi, lib

TOP = Path(__file__).resolve().parents[2]
NAMES = [ffi.string(lib.udpring_aead_name(which)).decode() for which in range(lib.udpring_aead_count())]
ROWS = [
    (name, ("chacha20-poly1305", "aes-256-gcm")[lib.udpring_aead_cipher(which)])
    for which, name in enumerate(NAMES)
]


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "udpring.cli.main", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TOP,
        check=False,
        env=os.environ | environment,
    )


def test_a_subject_is_needed() -> None:
    assert bench().returncode == 2
    assert bench("nothing").returncode == 2
    done = bench("--help")
    assert done.returncode == 0
    assert "aead" in done.stdout


def test_aead_measures_every_implementation_at_every_length() -> None:
    done = bench("aead", "--json", "--rounds", "200", "--length", "0", "--length", "65535", "--burst", "64")
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert {(name, cipher) for cipher, name in shown["chosen"].items()} <= set(ROWS)
    assert set(shown["chosen"]) == {"chacha20-poly1305", "aes-256-gcm"}
    assert shown["burst"] == 64
    assert [((each["aead"], each["cipher"]), each["length"]) for each in shown["figures"]] == [
        (row, length) for length in (0, 65535) for row in ROWS
    ]
    cost = {
        (each["aead"], each["cipher"], each["length"]): (each["seal_ns"], each["open_ns"])
        for each in shown["figures"]
    }
    for name, cipher in ROWS:
        for direction in (0, 1):
            # A fast CPU does at most two bytes a cycle (AES: eight), and no call is free.
            assert 5 < cost[name, cipher, 0][direction] < cost[name, cipher, 65535][direction]
            assert cost[name, cipher, 65535][direction] > 65535 / (40 if cipher == "aes-256-gcm" else 10)


@pytest.mark.parametrize("name", dict.fromkeys(NAMES))
def test_aead_marks_the_ones_in_use(name: str) -> None:
    done = bench("aead", "--rounds", "50", "--length", "64", UDPRING_AEAD=name)
    assert (done.returncode, done.stderr) == (0, "")
    marked = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("*")]
    assert marked == [["chacha20-poly1305", name], ["aes-256-gcm", name]]
    assert len([line for line in done.stdout.splitlines() if line.split()[-4:-3] == ["64"]]) == len(NAMES)


def test_aead_without_any_that_works_says_why() -> None:
    done = bench("aead", UDPRING_AEAD="rot13")
    assert done.returncode == 3
    assert "rot13" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--length", "-1"), ("--length", "65536"), ("--burst", "0"), ("--burst", "65"), ("--rounds", "many")],
)
def test_aead_refuses_what_makes_no_sense(arguments: tuple[str, str]) -> None:
    done = bench("aead", *arguments)
    assert done.returncode == 2
    assert repr(arguments[1]) in done.stderr


def test_nohup_keeps_a_hangup_ignored() -> None:
    program = """
import signal
from udpring_tools.commands.measuring import ended_by_signals
with ended_by_signals():
    print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
"""
    done = subprocess.run(
        ["nohup", sys.executable, "-P", "-c", program],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "True\n"
