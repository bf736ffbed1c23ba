"""Delays of the event loop of a program that has a node, without and with a flood of forged initiations.

The node has no device (``Packets``) and no peers. It runs in this process, as in a program that embeds it. A
coroutine sleeps for a millisecond again and again, and what it sleeps longer is a sample. The flood comes
from another process over loopback: random bytes with a valid mac1, which needs only the node's public key.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import udpring
from udpring.errors import UdpringError
from udpring.keys import generate_private_key, public_key
from udpring_tools.bench import spray
from udpring_tools.bench.interpreter import module_argv
from udpring_tools.bench.samples import spread

__all__ = ["FIGURES", "SITUATIONS", "delays_summary", "measure_delays"]

SITUATIONS = ("quiet", "right-mac1")
FIGURES = ("p50_ms", "p99_ms", "loop_cpu_percent")
PAUSE = 0.001
LEAD = 1.0
"""Seconds that a flood begins before the first sample and ends after the last."""

Sample = dict[str, float]


async def _delays(seconds: float) -> Sample:
    samples: list[float] = []
    began, used = time.perf_counter(), time.thread_time()
    while (before := time.perf_counter()) < began + seconds:
        await asyncio.sleep(PAUSE)
        samples.append(time.perf_counter() - before - PAUSE)
    cpu, elapsed = time.thread_time() - used, time.perf_counter() - began
    samples.sort()
    return {
        "p50_ms": 1e3 * samples[len(samples) // 2],
        "p99_ms": 1e3 * samples[len(samples) * 99 // 100],
        "loop_cpu_percent": 100 * cpu / elapsed,
    }


async def _flooded(port: int, public: bytes, rate: float, seconds: float) -> Sample:
    job = spray.Job(("127.0.0.1",), port, rate, seconds + 2 * LEAD, bogus="right", public_key=public.hex())
    sender = await asyncio.create_subprocess_exec(
        *module_argv("udpring_tools.bench.spray", json.dumps(asdict(job))), stdout=subprocess.PIPE
    )
    try:
        assert sender.stdout is not None
        if await sender.stdout.readline() != b"started\n":
            raise UdpringError("the sender of datagrams ended at once")
        await asyncio.sleep(LEAD)
        sample = await _delays(seconds)
        said = await sender.stdout.read()
        sample["flood_packets_s"] = spray.Sent(**json.loads(said)).per_second
        return sample
    finally:
        if sender.returncode is None and await _still_runs(sender):
            sender.kill()
            await sender.wait()


async def _still_runs(sender: asyncio.subprocess.Process) -> bool:
    """It ends by itself soon after its last words."""
    try:
        async with asyncio.timeout(LEAD):
            await sender.wait()
    except TimeoutError:
        return True
    return False


async def _measure(rate: float, seconds: float) -> dict[str, Sample]:
    key = generate_private_key()
    config = udpring.Config(udpring.InterfaceConfig(private_key=key))
    async with udpring.Node(config, attachment=udpring.Packets()) as node:
        await asyncio.sleep(LEAD)
        quiet = await _delays(seconds)
        return {
            "quiet": quiet,
            "right-mac1": await _flooded(node.listen_port, public_key(key), rate, seconds),
        }


def measure_delays(
    rate: float, seconds: float, runs: int, say: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """The samples of each situation. Raises UdpringError."""
    kept: dict[str, list[Sample]] = {situation: [] for situation in SITUATIONS}
    for run in range(runs):
        say(f"run {run + 1}/{runs}: delays of an event loop, {rate:g} forged initiations a second")
        for situation, sample in asyncio.run(_measure(rate, seconds)).items():
            kept[situation].append(sample)
    return kept


def delays_summary(kept: Mapping[str, Sequence[Sample]], rate: float) -> dict[str, Any]:
    """For the JSON."""
    names = (*FIGURES, "flood_packets_s")
    return {
        "rate": rate,
        "situations": [
            {
                "situation": situation,
                **{name: spread([sample.get(name) for sample in samples]) for name in names},
            }
            for situation, samples in kept.items()
        ],
    }
