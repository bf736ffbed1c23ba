"""A program that starts and stops nodes over and over keeps nothing of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "lab" / "lifetimes.py"
WARM_UP, AT_ONCE = 12, 4
#: Namespaces of each kind that may exist at once. The kernel frees them late, so some more than AT_ONCE.
NAMESPACES = 60
ENTER = f"""
for kind in user net mnt; do echo {NAMESPACES} > /proc/sys/user/max_${{kind}}_namespaces || exit; done
ip link set lo up && exec "$@"
"""


@pytest.mark.timeout(330)
@pytest.mark.parametrize(
    ("attachment", "loop", "lives"),
    [
        ("packets", "asyncio", 200),
        ("packets", "uvloop", 200),
        ("tun", "asyncio", 200),
        ("tun", "uvloop", 200),
        ("rootless", "asyncio", 200),
        ("rootless", "uvloop", 100),  # each takes 0.1 s of processor time
    ],
)
def test_lives_of_nodes_leave_nothing(attachment: str, loop: str, lives: int) -> None:
    """Neither descriptors, threads, processes, namespaces, interfaces nor memory."""
    words = [sys.executable, "-P", str(PROGRAM), attachment, loop, *map(str, (lives, WARM_UP, AT_ONCE))]
    done = subprocess.run(
        # A user namespace has limits of its own. With one arena, malloc's figures are those of all threads.
        ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", ENTER, "sh", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    held = json.loads(done.stdout)
    before, after = held["before"], held["after"]
    grown = {name: after.pop(name) - before.pop(name) for name in ("allocated", "resident")}
    print(f"KiB more after {lives} lives: {grown}; {held['waited']} starts waited for the kernel")
    assert after == before
    assert after["children"] == []
    assert after["interfaces"] == ["lo"]
    # A leak of 1 KiB by each life, or of memory that is mapped: malloc's free memory comes and goes, some
    # 10 MiB of it, however many lives there were.
    assert grown["allocated"] < lives
    assert grown["resident"] < 10240 + 40 * lives
