"""The k-th allocation, or the k-th system call, fails during start-up and each command, for all k.

A failing step reports it and leaves nothing behind. Other steps work. Nothing crashes. The program is
lab/failing_plane.py.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import ALLOCATIONS, Faults, build_library
from lab import GO, SUBJECT

from udpring._native import lib

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="the calls are those of our core")

PROGRAM = Path(__file__).parent / "lab" / "failing_plane.py"
TIERS = {
    "uring-multishot": lib.UDPRING_TIER_URING_MULTISHOT,
    "uring-pool": lib.UDPRING_TIER_URING_POOL,
    "mmsg": lib.UDPRING_TIER_MMSG,
}
#: The calls of start-up and of commands, except allocations.
SYSTEM_CALLS = [
    "io_uring_setup",
    "io_uring_register",
    "socket",
    "bind",
    "setsockopt",
    "getsockopt",
    "ioctl",
    "eventfd",
    "madvise",
    "pthread_create",
]


def run(directory: Path, tier: int, workers: int, error: int, calls: list[str]) -> dict[str, int]:
    faults = Faults.make(directory)
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join(sys.path), **faults.environment(build_library(directory))
    )
    command = ["unshare", "--net", sys.executable, "-P", str(PROGRAM), str(tier), str(workers), str(error)]
    done = subprocess.run(
        [*command, *calls], env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    faults.close()
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    failed: dict[str, int] = json.loads(done.stdout)
    return failed


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("tier", TIERS)
def test_every_allocation_may_fail(tmp_path: Path, tier: str, workers: int) -> None:
    failed = run(tmp_path, TIERS[tier], workers, errno.ENOMEM, list(ALLOCATIONS))
    assert failed["start-up"] >= 20, failed
    assert failed["start-up without device"] >= 20, failed
    for step in ("peer", "prefixes", "keypair", "bind"):
        assert failed[step] >= 1, failed


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EPERM])
@pytest.mark.parametrize("tier", TIERS)
def test_every_system_call_of_start_up_may_fail(tmp_path: Path, tier: str, error: int) -> None:
    failed = run(tmp_path, TIERS[tier], 1, error, SYSTEM_CALLS)
    assert failed["start-up"] >= 10, failed
    assert failed["start-up without device"] >= 10, failed
    assert failed["bind"] >= 3, failed
