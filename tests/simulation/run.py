"""Runs many schedules and reports the seed of each failure, or runs one with a trace (scripts/simulate)."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import multiprocessing
import re
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "simulation"
    import simulation  # noqa: F401

from udpring.tunnel import control
from udpring.wireguard import device as wireguard_device
from udpring.wireguard import noise as real_noise
from udpring.wireguard import peer as wireguard_peer

from . import fake_noise
from .endings import ENDINGS, recovers
from .model_link import ModelLink
from .nodes import Simulation
from .schedule import Schedule, drawn
from .shrink import shrunk

BATCH = 500
SHOWN = 20
"""Failing seeds that are printed with their text. Others are only counted."""


@dataclass
class Result:
    """Totals of several schedules."""

    done: int = 0
    handshakes: int = 0
    virtual: float = 0.0
    slowest: float = 0.0
    failed: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.done += other.done
        self.handshakes += other.handshakes
        self.virtual += other.virtual
        self.slowest = max(self.slowest, other.slowest)
        self.failed += other.failed


@contextlib.contextmanager
def stand_ins(schedule: Schedule) -> Iterator[object]:
    """Installs the model of the interface and the handshake for the protocol."""
    noise: object = real_noise if schedule.real_crypto else fake_noise
    with (
        mock.patch.object(control, "Link", ModelLink),
        mock.patch.object(wireguard_device, "noise", noise),
        mock.patch.object(wireguard_peer, "noise", noise),
    ):
        yield noise


def run_schedule(schedule: Schedule, trace: list[str] | None = None, result: Result | None = None) -> str:
    """Runs it. Returns the violation, or nothing."""
    try:
        with stand_ins(schedule) as noise:
            simulation = Simulation(schedule, noise, trace)
            simulation.act()
            simulation.make_kind()
            took = recovers(simulation)
            if schedule.ending:
                ENDINGS[schedule.ending](simulation)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if result is not None:
        result.done += 1
        result.handshakes += simulation.oracles.handshakes
        result.virtual += (simulation.world.now) / 1e9 - 1000
        result.slowest = max(result.slowest, took)
    return ""


@contextlib.contextmanager
def _quiet(level: int) -> Iterator[None]:
    """Hides log lines of nodes below this level."""
    log = logging.getLogger("udpring.node")
    before = log.level
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)


def run_batch(seeds: range) -> Result:
    """The schedules of these seeds."""
    result = Result()
    gc.disable()
    with _quiet(logging.CRITICAL):
        for seed in seeds:
            wrong = run_schedule(drawn(seed), None, result)
            if wrong:
                result.done += 1
                result.failed.append((seed, wrong))
    gc.enable()
    gc.collect()
    return result


def run_many(first: int, count: int, jobs: int) -> Iterator[Result]:
    """Results as they come in, batch by batch."""
    batches = [range(at, min(at + BATCH, first + count)) for at in range(first, first + count, BATCH)]
    if jobs == 1:
        yield from map(run_batch, batches)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_batch, batches)


def _kind(wrong: str) -> str:
    """The violation without numbers, because a shorter schedule has other ones."""
    return re.sub(r"[\d.]+", "#", wrong)


def replayed(seed: int) -> int:
    """Runs one schedule again, shortened while it still fails, with its events."""
    schedule = drawn(seed)
    trace: list[str] = []
    with _quiet(logging.ERROR):
        wrong = run_schedule(schedule)
        if wrong:
            kind = _kind(wrong)
            actions = shrunk(schedule, lambda each: _kind(run_schedule(each)) == kind)
            schedule = replace(schedule, actions=actions)
        wrong = run_schedule(schedule, trace)
    print(schedule)
    print("\n".join(trace))
    print(wrong or "all held")
    return 1 if wrong else 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Two to five nodes in virtual time: the real protocol and control loop on a model of the "
        "plane, with loss, reordering, restarts, suspensions, clock steps and changes of keys, drawn from a "
        "seed. Each schedule's seed is the first one's plus its number. Exit code 1 when an oracle fails.",
    )
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (default 10000)")
    parser.add_argument("--seed", type=int, default=None, help="of the first (default: a new one)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument(
        "--replay", type=int, metavar="SEED", help="run this one, shortened if it fails, with a trace"
    )
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return replayed(options.replay)
    first = secrets.randbelow(1 << 40) if options.seed is None else options.seed
    print(f"{options.schedules} schedules, seeds {first} to {first + options.schedules - 1}", flush=True)
    began, shown = time.monotonic(), time.monotonic()
    total = Result()
    for result in run_many(first, options.schedules, options.jobs):
        for seed, wrong in result.failed[: max(0, SHOWN - len(total.failed))]:
            print(f"FAILED seed {seed}: {wrong}", flush=True)
        total.add(result)
        if time.monotonic() - shown > 10 or total.done == options.schedules:
            shown = time.monotonic()
            print(
                f"{total.done} done, {len(total.failed)} failed, {total.done / (shown - began):.0f}/s, "
                f"{total.handshakes} handshakes, {total.virtual / 3600:.0f} h of virtual time, "
                f"slowest recovery {total.slowest:.1f} s",
                flush=True,
            )
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
