"""When a saturated worker is helped (tunnel/worker/spread_trial.c), with a clock and models of a worker."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from core_internals import ffi, lib

S, MS = 10**9, 10**6
WINDOW = 4 * MS
ALONE = 1.5  # bytes a nanosecond


@dataclass
class Worker:
    """A flow that offers `offered` bytes a nanosecond, to a worker that moves at most ALONE, or `helped`."""

    offered: float
    helped: float
    cpu: float = 1.0  # of the time that it would run
    now: int = 7 * S
    cpu_ns: int = 0
    bytes: int = 0
    waits: int = 0
    on: bool = False
    trials: int = 0

    def __post_init__(self) -> None:
        self.state = ffi.gc(lib.udpring_trial_new(), lib.udpring_trial_free)

    def run(self, duration: int) -> float:
        """The share of this time with help."""
        end, with_help = self.now + duration, 0
        while self.now < end:
            on = bool(lib.udpring_trial_see(self.state, self.now, self.cpu_ns, self.bytes, self.waits))
            self.trials += on and not self.on
            self.on = on
            most = (self.helped if on else ALONE) * self.cpu
            self.bytes += int(min(self.offered, most) * WINDOW)
            self.waits += self.offered < most
            self.cpu_ns += int(WINDOW * self.cpu * min(1.0, self.offered / most))
            self.now += WINDOW
            with_help += WINDOW * on
        return with_help / duration


@pytest.mark.parametrize("offered", [1.7, 2.5, 9.0])
def test_help_that_pays_goes_on(offered: float) -> None:
    worker = Worker(offered, helped=2.0)
    worker.run(1 * S)
    assert worker.run(30 * S) > 0.97


def test_help_begins_within_twenty_milliseconds() -> None:
    worker = Worker(9.0, helped=2.0)
    worker.run(20 * MS)
    assert worker.on


@pytest.mark.parametrize("helped", [0.3, 1.0, 1.5, 1.55])
def test_help_that_does_not_pay_is_rare(helped: float) -> None:
    worker = Worker(9.0, helped=helped)
    assert worker.run(1 * S) < 0.03
    worker.run(60 * S)
    assert worker.run(120 * S) < 0.001


@pytest.mark.parametrize("offered", [0.1, 1.0, 1.49])
def test_worker_that_waits_needs_no_help(offered: float) -> None:
    worker = Worker(offered, helped=2.0)
    assert worker.run(5 * S) == 0


def test_worker_without_cpu_asks_for_no_help() -> None:
    """It never waits, and other programs have a quarter of its CPU: no core is idle."""
    worker = Worker(9.0, helped=2.0, cpu=0.75)
    assert worker.run(5 * S) == 0


def test_help_ends_with_the_flow() -> None:
    worker = Worker(9.0, helped=2.0)
    worker.run(5 * S)
    worker.offered = 0.1
    worker.run(2 * S)
    assert worker.run(5 * S) == 0
    worker.offered = 9.0
    worker.run(20 * MS)
    assert worker.on, "a flow that ends is no reason to wait"


def test_help_is_tried_again_when_cores_become_idle() -> None:
    worker = Worker(9.0, helped=1.0)
    worker.run(60 * S)
    worker.helped = 2.0
    worker.run(64 * S)
    assert worker.run(5 * S) > 0.9


def test_help_that_no_longer_pays_ends() -> None:
    worker = Worker(9.0, helped=2.0)
    worker.run(5 * S)
    worker.helped = 1.0
    worker.run(2 * S)
    assert worker.run(20 * S) < 0.02
