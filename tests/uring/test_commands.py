"""Commands of drivers (uring_cmd). /dev/null takes any command and does nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring import RingError
from udpring.uring import Ring, operations


@pytest.fixture
def null() -> Iterator[int]:
    number = os.open(os.devnull, os.O_RDWR)
    yield number
    os.close(number)


def result(ring: Ring) -> int:
    (one,) = ring.reap(1, 20)
    if one.result in (-errno.EINVAL, -errno.EOPNOTSUPP):
        pytest.skip("/dev/null takes commands since Linux 6.3")
    return one.result


def test_a_command_of_16_bytes(null: int) -> None:
    with Ring(8) as ring:
        ring.uring_cmd(null, 1, bytes(range(16)))
        assert result(ring) == 0
        with pytest.raises(RingError, match="a command of 17 bytes: entries of this ring hold 16"):
            ring.uring_cmd(null, 1, bytes(17))


def test_a_command_of_80_bytes(null: int) -> None:
    """It fills the entry up to its end, and the next entry is intact."""
    with Ring(8, big_sqe=True) as ring:
        buffer = bytearray(4096)
        for _ in range(20):
            ring.uring_cmd(null, 1, b"\xff" * 80)
            ring.uring_cmd(null, 1, b"\xff" * 80, buffer=buffer, address_at=72)
            ring.nop(result=7)
            ring.wait(3, 20)
            assert [one.result for one in ring.completions()] in ([0, 0, 7], [-errno.EOPNOTSUPP] * 2 + [7])
        buffer.append(0)
        for at in (73, 80, 2**64 - 1):
            with pytest.raises(RingError, match="an address at byte"):
                ring.uring_cmd(null, 1, bytes(80), buffer=buffer, address_at=at)
        buffer.append(0)


def test_nvme_commands(null: int) -> None:
    with Ring(8, big_sqe=True, big_cqe=True) as ring:
        ring.nvme_command(null, 2, namespace=1, buffer=bytearray(4096), words=(0, 0, 7), timeout_ms=1000)
        assert result(ring) == 0
        ring.nvme_command(null, 6, admin=True)
        assert result(ring) == 0
        assert not ring._pins
    with Ring(8) as ring, pytest.raises(RingError, match="72 bytes"):
        ring.nvme_command(null, 2)


def test_the_nvme_structure_is_the_kernels() -> None:
    compiler = shutil.which("gcc")
    if not compiler or not Path("/usr/include/linux/nvme_ioctl.h").exists():
        pytest.skip("no compiler, or no linux/nvme_ioctl.h")
    source = f"""
#include <linux/nvme_ioctl.h>
#include <stddef.h>
#include <sys/ioctl.h>
_Static_assert(sizeof(struct nvme_uring_cmd) == {operations._NVME.size}, "size");
_Static_assert(offsetof(struct nvme_uring_cmd, addr) == {operations._NVME_ADDRESS}, "addr");
_Static_assert(offsetof(struct nvme_uring_cmd, data_len) == 36, "data_len");
_Static_assert(offsetof(struct nvme_uring_cmd, cdw10) == 40, "cdw10");
_Static_assert(offsetof(struct nvme_uring_cmd, timeout_ms) == 64, "timeout_ms");
_Static_assert(NVME_URING_CMD_IO == {operations._NVME_URING_CMD_IO}u, "IO");
_Static_assert(NVME_URING_CMD_ADMIN == {operations._NVME_URING_CMD_ADMIN}u, "ADMIN");
"""
    subprocess.run([compiler, "-fsyntax-only", "-x", "c", "-"], input=source, text=True, check=True)
