"""``udpring bench aead``: what sealing and opening a packet costs with each AEAD of the build."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from udpring.cli import Subparsers
from udpring.cli._measuring import Between
from udpring.errors import HostError

DEFAULT_LENGTHS = (0, 64, 512, 1424)
"""Bytes of plaintext: a keepalive, a small packet, a middling one, one that fills a path of 1500 bytes."""
LENGTH_MAX = 65535
BURST_MAX = 64
REPEATS = 9


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "aead",
        help="sealing and opening packets, by each AEAD implementation",
        description="Nanoseconds of CPU time to seal and to open one packet of the tunnel with "
        "ChaCha20-Poly1305, by each implementation of this build in turn: the best of several runs, from "
        "buffer to buffer, 64 packets in the cache. A * marks the one in use (UDPRING_AEAD forces another).",
    )
    parser.add_argument(
        "--length",
        type=Between(0, LENGTH_MAX),
        action="append",
        metavar="BYTES",
        help=f"of plaintext, any number of times (default: {', '.join(map(str, DEFAULT_LENGTHS))})",
    )
    parser.add_argument(
        "--burst",
        type=Between(1, BURST_MAX),
        default=1,
        metavar="N",
        help=f"packets a call, up to {BURST_MAX} (default: 1)",
    )
    parser.add_argument(
        "--rounds",
        type=Between(1, 10_000_000),
        default=10_000,
        metavar="N",
        help="packets a run (default: 10000)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measures and prints. HostError where no AEAD works at all."""
    # Not at the top: this loads the compiled module, and the help must not need it.
    from udpring._native import ffi, lib  # noqa: PLC0415

    names = [ffi.string(lib.udpring_aead_name(which)).decode() for which in range(lib.udpring_aead_count())]
    chosen, why = lib.udpring_aead_chosen(), ffi.string(lib.udpring_aead_why()).decode()
    if chosen < 0:
        raise HostError(f"no AEAD works here: {why}", errno=-chosen)
    figures = [
        figure
        for length in args.length or DEFAULT_LENGTHS
        for figure in measure(names, length, args.burst, args.rounds)
    ]
    if args.json:
        whole: dict[str, Any] = {"cpu": cpu_name(), "chosen": names[chosen], "why": why, "burst": args.burst}
        print(json.dumps(whole | {"figures": [asdict(figure) for figure in figures]}, indent=2))
    else:
        print(f"CPU: {cpu_name()}\nAEAD: {why}\n")
        print("\n".join(as_table(figures, names[chosen])))
    return 0


@dataclass(frozen=True, slots=True)
class Figure:
    """One implementation at one length: ns of CPU time a packet."""

    aead: str
    length: int
    seal_ns: float
    open_ns: float

    def gigabits(self) -> float:
        """Gbit of plaintext a CPU-second, sealing."""
        return 8 * self.length / self.seal_ns


def measure(names: list[str], length: int, burst: int, rounds: int) -> list[Figure]:
    """The best of ``REPEATS`` runs of each, in turn, so that a slow moment of the machine hits none alone.

    One that does not load here is told of on standard error and left out.
    """
    from udpring._native import lib, reason, reason_text  # noqa: PLC0415

    best: dict[tuple[int, int], int] = {}
    for which, name in enumerate(names):
        why = reason()
        if lib.udpring_aead_selftest(which, why) < 0:
            print(f"udpring: {name} is left out: {reason_text(why)}", file=sys.stderr)
            continue
        best |= {(which, 1): sys.maxsize, (which, 0): sys.maxsize}
    for _ in range(REPEATS):
        for which, seal in best:
            taken = lib.udpring_aead_bench(which, seal, length, burst, rounds)
            if taken < 0:
                raise HostError(f"{names[which]} cannot be measured at {length} bytes", errno=-taken)
            best[which, seal] = min(best[which, seal], taken)
    return [
        Figure(names[which], length, round(ns / rounds, 1), round(best[which, 0] / rounds, 1))
        for (which, seal), ns in best.items()
        if seal
    ]


def as_table(figures: list[Figure], chosen: str) -> list[str]:
    """The lines to print."""
    lines = [f"{'':2}{'AEAD':<10}{'bytes':>7}{'seal ns':>10}{'open ns':>10}{'Gbit/CPU-s':>12}"]
    lines += [
        f"{'*' if each.aead == chosen else '':2}{each.aead:<10}{each.length:>7}{each.seal_ns:>10.1f}"
        f"{each.open_ns:>10.1f}{each.gigabits():>12.2f}"
        for each in figures
    ]
    return lines


def cpu_name() -> str:
    """As /proc/cpuinfo has it; empty where it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
