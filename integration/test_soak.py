"""scripts/soak on a small scale: a fixed seed passes, violations are detected, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import SUBJECT, until
from lab.processes import command, descendants
from soak.levels import SLACKS, Levels, Slack
from soak.order import WINDOW, Order

SOAK = Path(__file__).parent / "soak" / "run.py"
pytestmark = pytest.mark.skipif("udpring" not in SUBJECT.name, reason="soaks udpring")


def _soak(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", str(SOAK), "--json", *arguments],
        env=dict(os.environ, TMPDIR=str(directory)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("soak")
def test_a_short_soak_holds(tmp_path: Path) -> None:
    process = _soak(tmp_path, "--minutes", "1", "--seed", "20260")
    said, log = process.communicate(timeout=550)
    assert process.returncode == 0, f"{said}\n{log}"
    result = json.loads(said)
    assert result["ok"]
    assert result["seed"] == 20260
    assert len(result["events"]) >= 4
    assert all(each["recovered"] is not None for each in result["events"])
    assert result["handshakes seen"] > 0
    assert result["wg show answers"] > 0
    assert len(result["flows"]) == 18


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("soak")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_soak_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = _soak(tmp_path, "--minutes", "5", "--seed", "1")

    def nodes() -> list[int]:
        assert process.poll() is None
        found = descendants(process.pid)
        return found if any("wireguard-go" in command(pid) for pid in found) else []

    inside = until(nodes, "wireguard-go runs", timeout=120)
    process.send_signal(number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), log
    until(lambda: not [pid for pid in inside if Path(f"/proc/{pid}").exists()], "all processes are gone")
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert number == signal.SIGKILL or not list(tmp_path.iterdir())
    assert not (Path("/run/netns") / "r").exists()


@pytest.mark.parametrize(
    ("numbers", "may_reorder", "wrong"),
    [
        ((0, 1, 2, 5, 6), False, None),
        ((0, 2, 1), False, "number 1 came after 2"),
        ((0, 2, 1, 3), True, None),
        ((0, 1, 1), True, "number 1 came twice"),
        ((0, 5, 3, 3), True, "number 3 came twice"),
        ((WINDOW + 5, 2), True, f"number 2 came {WINDOW + 3} behind"),
    ],
)
def test_disorder_and_duplicates_are_seen(
    numbers: tuple[int, ...], may_reorder: bool, wrong: str | None
) -> None:
    order = Order()
    said = [order.take(number, may_reorder=may_reorder) for number in numbers]
    assert not any(said[:-1])
    assert wrong in said[-1] if wrong else not said[-1]


def test_missing_numbers_are_counted() -> None:
    order = Order()
    for number in (0, 1, 4, 3):
        order.take(number, may_reorder=True)
    assert (order.received, order.missing, order.late) == (4, 1, 1)


def test_a_level_above_its_base_is_a_leak() -> None:
    levels = Levels(SLACKS, warm_after=10, least_samples=1)
    assert not levels.take(0, {"fds": 10, "rss": 100 << 20})
    assert not levels.take(9, {"fds": 18, "rss": 90 << 20})
    assert not levels.take(20, {"fds": 22, "rss": 122 << 20})
    said = levels.take(21, {"fds": 23, "rss": 124 << 20})
    assert [each.split()[0] for each in said] == ["rss", "fds"]


def test_what_must_be_nothing_has_no_warm_up() -> None:
    levels = Levels({"fds": Slack()}, warm_after=10)
    assert levels.take(0, {"fds": 1, "failures": 1}) == ["failures is 1, must be 0"]
