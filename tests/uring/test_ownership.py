"""Every row of the table of operations, with the caller's memory dropped and used again before it starts.

The operation is linked behind a read of a pipe, so the kernel looks at its memory late. The cases check the
results, and that fresh memory keeps its content. A new row gets its test here with its case.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from udpring._native import lib
from udpring.uring import OPERATIONS, Flag, Ring, graveyard

from .operation_cases import CASES, Refused, Rig

ROWS = list(OPERATIONS.values())
# Linked operations start in task work, which must not wait for the next call here.
EAGER = lib.UDPRING_SETUP_DEFER_TASKRUN | lib.UDPRING_SETUP_COOP_TASKRUN
NOT_LATE = {
    "link_timeout": "it follows the operation that it limits, and its time runs while memory is used again",
    "futex_wait": "its case wakes it while it waits",
}


class GatedRing(Ring):
    """Operations of one row wait behind a read of a pipe. A wait for completions lets them start."""

    def __init__(self, name: str) -> None:
        super().__init__(64, deny=EAGER)
        self.name = name
        self.gate, self.key = os.pipe()
        self.waiting = self.gated = 0

    def stop_before(self, operation: int) -> None:
        if ROWS[operation].name == self.name and self.name not in NOT_LATE:
            super().reserve(2)
            super()._put(lib.UDPRING_OP_READ, Flag.LINK, self.gate, 2**64 - 1, 0, 1)
            self.waiting += 1
            self.gated += 1

    def _put(self, operation: int, *rest: Any, **named: Any) -> int:
        self.stop_before(operation)
        return super()._put(operation, *rest, **named)

    def _put_vector(self, operation: int, *rest: Any, **named: Any) -> int:
        self.stop_before(operation)
        return super()._put_vector(operation, *rest, **named)

    def _put_message(self, operation: int, *rest: Any, **named: Any) -> int:
        self.stop_before(operation)
        return super()._put_message(operation, *rest, **named)

    def begin(self) -> None:
        os.write(self.key, bytes(self.waiting))
        self.waiting = 0

    def wait(self, count: int = 1, timeout: float | None = None) -> bool:
        if count and self.waiting:
            self.submit()
            self.begin()
        return super().wait(count, timeout)

    def close(self) -> None:
        if not self.closed:
            os.close(self.gate)
            os.close(self.key)
        super().close()


@pytest.mark.parametrize("name", OPERATIONS)
def test_late_operation_has_its_memory_for_itself(name: str, tmp_path: Path) -> None:
    assert name in CASES, f"{name} has no case: write one in operation_cases.py"
    graves = graveyard()
    refused = ""
    with GatedRing(name) as ring:
        try:
            rig = Rig(ring, tmp_path, drops=True)
            rig.begin = ring.begin
            rig.run(CASES[name])
        except Refused as why:
            refused = f"{name} needs Linux {OPERATIONS[name].since}: {why}"
        assert (ring.info.stale, ring.info.lost) == (0, 0)
        assert ring.gated or name in NOT_LATE, "the operation did not wait"
    assert (ring.leaked, graveyard()) == (0, graves)
    assert not ring._pins
    if refused:
        release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
        assert release < OPERATIONS[name].since, refused
        pytest.skip(refused)
