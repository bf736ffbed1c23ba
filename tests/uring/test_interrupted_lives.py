"""A ring, a reactor and a server are interrupted at each step of their lives, in every way a program can end.

There is no crash and no hang, the errors are the right ones, and no descriptor, thread or memory stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .reactors import SANITIZED  # udpring.uring runs in the program

PROGRAM = Path(__file__).with_name("interrupted_lives.py")
WAYS = ["cancel", "close", "drop", "fork", "fork and use", "exit", "_exit", "exception"]
SUBJECTS = ["ring"] if SANITIZED else ["ring", "reactor", "server"]
# A server has no owner: a child may not use its threads, and cannot.
CASES = [
    (subject, way) for subject in SUBJECTS for way in WAYS if (subject, way) != ("server", "fork and use")
]


@pytest.mark.parametrize(("subject", "way"), CASES)
def test_interruption_at_each_step_leaves_nothing(subject: str, way: str) -> None:
    child = subprocess.run(
        [sys.executable, "-P", str(PROGRAM), subject, way],
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split(maxsplit=1) == ["11", "[]\n"], child.stdout + child.stderr
