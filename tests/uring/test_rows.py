"""Every row of the table of operations: it works, and the kernel writes to no memory that was dropped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from udpring import RingError
from udpring._native import ffi, lib
from udpring.uring import OPERATIONS, Flag, Ring
from uring.operation_cases import CASES, Refused, Rig


def test_every_row_has_a_case() -> None:
    assert sorted(CASES) == sorted(OPERATIONS)


def release() -> tuple[int, ...]:
    return tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))


@pytest.mark.parametrize("drops", [False, True], ids=["kept", "dropped"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_its_work(name: str, drops: bool, tmp_path: Path) -> None:
    """Dropped: nothing of the caller's is left when the kernel works, and its memory is used again."""
    refused = ""
    with Ring(32) as ring:
        try:
            Rig(ring, tmp_path, drops=drops).run(CASES[name])
        except Refused as why:
            refused = f"{name} needs Linux {OPERATIONS[name].since}, and here is {release()}: {why}"
        assert (ring.info.stale, ring.info.lost) == (0, 0)
    assert ring.leaked == 0
    assert not ring._pins
    if refused:
        assert release() < OPERATIONS[name].since, refused
        pytest.skip(refused)


@pytest.mark.parametrize("name", [row.name for row in OPERATIONS.values() if not row.skips])
def test_memory_is_not_given_to_silent_operations(name: str) -> None:
    with Ring(8) as ring:
        number = OPERATIONS[name].number
        flags = int(Flag.SKIP_SUCCESS)
        code = lib.udpring_ring_put(ring._native, number, flags, 0, 0, 0, 0, 0, 0, ffi.NULL, 0, 0)
        assert code == -22
        assert b"SKIP_SUCCESS" in ffi.string(lib.udpring_ring_why(ring._native))
        assert ring.info.queued == 0


def test_an_address_is_no_argument() -> None:
    """Numbers in fields that the kernel takes for addresses are refused."""
    with Ring(8) as ring, pytest.raises(RingError, match="statx takes fewer arguments"):
        ring._put(OPERATIONS["statx"].number, 0, 0, 0x7FFF0000, 0, 0)
