"""Tests of one xdist_group run on one worker, one after the other, with --dist loadgroup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GROUPED = """
import os
import pathlib
import pytest
@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_one(number):
    pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).touch()
"""


def test_a_group_stays_on_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    # Its own configuration, or pytest would look for one further up.
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = xdist_group\n")
    words = [sys.executable, "-P", "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.glob("gw*"))) == 1, "each group is spread over all workers"
