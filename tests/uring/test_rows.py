"""Every row of the table of operations: it works, and the kernel writes to no memory that was dropped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from udpring import RingError
from udpring._native import ffi, lib
from udpring.uring import OPERATIONS, Flag, Ring
from uring.operation_cases import CASES, Refused, Rig

ROWS = list(OPERATIONS.values())
EAGER = lib.UDPRING_SETUP_DEFER_TASKRUN | lib.UDPRING_SETUP_COOP_TASKRUN


def test_every_row_has_a_case() -> None:
    assert sorted(CASES) == sorted(OPERATIONS)


def release() -> tuple[int, ...]:
    return tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))


class RegisteredRing(Ring):
    """Puts each file into the registered files and uses it from there."""

    def __init__(self) -> None:
        super().__init__(32)
        super().register_files(64)
        self.places = 32  # those below are the case's

    def register_files(self, files: Any) -> None:
        if not isinstance(files, int):
            self.update_files(0, files)

    def place(self, operation: int, flags: int, fd: int) -> tuple[int, int]:
        if not ROWS[operation].registered_files or flags & Flag.FIXED_FILE:
            return flags, fd
        self.places = 32 + (self.places + 1) % 32
        self.update_files(self.places, [fd])
        return flags | Flag.FIXED_FILE, self.places

    def _put(self, operation: int, flags: int, fd: int = -1, *rest: Any, **named: Any) -> int:
        return super()._put(operation, *self.place(operation, flags, fd), *rest, **named)

    def _put_vector(
        self, operation: int, flags: int, buffers: Any, writable: bool, fd: int, *rest: Any
    ) -> int:
        flags, fd = self.place(operation, flags, fd)
        return super()._put_vector(operation, flags, buffers, writable, fd, *rest)

    def _put_message(self, operation: int, flags: int, fd: int, **named: Any) -> int:
        return super()._put_message(operation, *self.place(operation, flags, fd), **named)


class AsyncRing(Ring):
    """Has every operation executed by a worker thread of the kernel."""

    def _put(self, operation: int, flags: int, *rest: Any, **named: Any) -> int:
        return super()._put(operation, flags | self.extra_flag(operation), *rest, **named)

    def _put_vector(self, operation: int, flags: int, *rest: Any, **named: Any) -> int:
        return super()._put_vector(operation, flags | self.extra_flag(operation), *rest, **named)

    def _put_message(self, operation: int, flags: int, fd: int, **named: Any) -> int:
        return super()._put_message(operation, flags | self.extra_flag(operation), fd, **named)

    def extra_flag(self, operation: int) -> Flag:
        return Flag.ASYNC


class LinkedRing(AsyncRing):
    """Has every operation wait for one before it."""

    def extra_flag(self, operation: int) -> Flag:
        name = ROWS[operation].name
        if name not in ("nop", "link_timeout", "cancel"):
            super(AsyncRing, self)._put(OPERATIONS["nop"].number, Flag.LINK)
        return Flag.NONE


# These act on another operation, which must have started. Workers and links delay that.
ACTING = {"cancel", "futex_wait", "poll_remove", "poll_update"}
ACTING |= {"timeout_remove", "timeout_update", "link_timeout_update"}
RINGS: dict[str, Callable[[], Ring]] = {
    "kept": lambda: Ring(32),
    "dropped": lambda: Ring(32),
    "registered": RegisteredRing,
    "async": lambda: AsyncRing(32),
    # Linked operations start in task work, which must not wait for the next call here.
    "linked": lambda: LinkedRing(32, deny=EAGER),
}


@pytest.mark.parametrize("way", RINGS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_its_work(name: str, way: str, tmp_path: Path) -> None:
    """Dropped: nothing of the caller's is left when the kernel works, and its memory is used again. So also
    with worker threads."""
    if way in ("async", "linked") and name in ACTING:
        return
    if way == "registered" and not OPERATIONS[name].registered_files:
        return
    refused = ""
    with RINGS[way]() as ring:
        try:
            Rig(ring, tmp_path, drops=way in ("dropped", "async")).run(CASES[name])
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
