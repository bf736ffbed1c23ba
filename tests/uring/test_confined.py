"""Rings of a confined thread: what they may do, and that they are kept for the next open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from core_internals import lib
from seccomp import Rule, run_python

POLL_ADD = 6
TESTS = Path(__file__).resolve().parent.parent
ENABLE_RINGS = Rule("io_uring_register", errno.EPERM, ((1, "==", 12),))
REFUSED = {
    "fsync": 3, "accept": 13, "connect": 16, "fallocate": 17, "openat": 18, "close": 19, "statx": 21,
    "read": 22, "write": 23, "openat2": 28, "splice": 30, "renameat": 35, "unlinkat": 36,
    "symlinkat": 38, "msg_ring": 40,
    "socket": 45, "uring_cmd": 46, "fixed_fd_install": 54,
}  # fmt: skip
"""linux/io_uring.h"""


@pytest.fixture(autouse=True)
def _io_uring() -> None:
    if lib.udpring_confined_reopened(1) < 0:
        pytest.skip(f"no io_uring: {os.strerror(-lib.udpring_confined_reopened(1))}")


def test_ring_polls() -> None:
    fd = os.eventfd(1)
    try:
        assert lib.udpring_confined_operation(POLL_ADD, fd, 1) == 1
    finally:
        os.close(fd)


@pytest.mark.parametrize("operation", REFUSED)
def test_ring_refuses(operation: str) -> None:
    """EACCES: a restriction. EINVAL: the kernel does not have the operation."""
    result = lib.udpring_confined_operation(REFUSED[operation], -1, 0)
    assert result in (-errno.EACCES, -errno.EINVAL)
    assert operation not in ("openat", "connect", "read") or result == -errno.EACCES


@pytest.mark.parametrize("registration", [0, 2, 9, 11, 20])
def test_ring_registers_no_files_or_personalities(registration: int) -> None:
    """Buffers, files, personality, restrictions, ring descriptors."""
    assert lib.udpring_confined_registration(registration) == -errno.EACCES


def test_closed_ring_is_opened_again() -> None:
    assert lib.udpring_confined_reopened(50) == 1


@pytest.mark.parametrize("rule", [Rule("io_uring_enter", errno.EPERM), ENABLE_RINGS], ids=["enter", "enable"])
def test_ring_that_failed_to_open_is_not_kept(rule: Rule) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from core_internals import lib
print(lib.udpring_confined_second_open())
"""
    done = run_python(program, [rule])
    assert done.stdout == f"{-errno.EPERM}\n", done.stderr
