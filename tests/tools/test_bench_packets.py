"""``udpring bench packets``, for a moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "udpring.cli.main", "bench", "packets", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TOP,
        check=False,
        env=os.environ,
    )


@pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])
def test_packets_are_measured_on_each_tier(tier: str) -> None:
    done = bench("--seconds", "1", "--runs", "1", "--json", "--tier", tier)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["tier"] == tier
    assert [row["payload"] for row in shown["sizes"]] == [64, 1300]
    for row in shown["sizes"]:
        assert row["packets_s"]["median"] > 0
        bits = row["packets_cpu_s"]["median"] * (row["payload"] + 28) * 8
        assert row["gbit_cpu_s"]["median"] == pytest.approx(bits / 1e9, rel=1e-3)


def test_table_has_line_for_each_size() -> None:
    done = bench("--seconds", "1", "--runs", "1")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[-2:]] == ["64", "1300"]
    assert "bench: run 1 of 1: 64 B" in done.stderr
