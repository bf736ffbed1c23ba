"""Programs of others as clients."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from .reactors import PATIENCE


def require(program: str) -> None:
    """Skips the test if the program is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"no {program}: apt-get install curl wrk apache2-utils")


def run(*words: object) -> str:
    """The output of a program, which must succeed."""
    require(str(words[0]))
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=2 * PATIENCE, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout
