"""``udpring bench aead``: the cost of sealing and opening a packet with each AEAD of the build."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from udpring.cli import Subparsers
from udpring.errors import HostError
from udpring.wireguard.cipher import Cipher
from udpring_tools.commands.measuring import Between

DEFAULT_LENGTHS = (0, 64, 512, 1424)
"""Bytes of plaintext: a keepalive, a small packet, a medium one, one that fills a path of 1500 bytes."""
LENGTH_MAX = 65535
BURST_MAX = 64
REPEATS = 9


def register(subparsers: Subparsers) -> None:
    """Adds the subject."""
    parser = subparsers.add_parser(
        "aead",
        help="measure encryption and decryption of packets with each AEAD library",
        description="Measure the CPU time in nanoseconds to encrypt (seal) and decrypt (open) one packet, "
        "with each library and cipher of this build in turn. Take the best of several runs, "
        "with 64 packets in the cache. A * marks the library in use. UDPRING_AEAD forces "
        "another one.",
    )
    parser.add_argument(
        "--length",
        type=Between(0, LENGTH_MAX),
        action="append",
        metavar="BYTES",
        help=f"length of the plaintext, may be repeated (default: {', '.join(map(str, DEFAULT_LENGTHS))})",
    )
    parser.add_argument(
        "--burst",
        type=Between(1, BURST_MAX),
        default=1,
        metavar="N",
        help=f"packets per call, up to {BURST_MAX} (default: 1)",
    )
    parser.add_argument(
        "--rounds",
        type=Between(1, 10_000_000),
        default=10_000,
        metavar="N",
        help="packets per run (default: 10000)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def run(args: argparse.Namespace) -> int:
    """Measures and prints. Raises HostError if no AEAD works."""
    # Not at the top: this loads the compiled module, which the help does not need.
    from udpring._native import ffi, lib  # noqa: PLC0415

    rows = [
        Row(
            which,
            ffi.string(lib.udpring_aead_name(which)).decode(),
            list(Cipher)[lib.udpring_aead_cipher(which)],
        )
        for which in range(lib.udpring_aead_count())
    ]
    chosen: dict[Cipher, int] = {}
    why: dict[Cipher, str] = {}
    for number, cipher in enumerate(Cipher):
        chosen[cipher] = lib.udpring_aead_chosen(number)
        why[cipher] = ffi.string(lib.udpring_aead_why(number)).decode()
    default = chosen[Cipher.CHACHA20_POLY1305]
    if default < 0:
        raise HostError(f"no AEAD works here: {why[Cipher.CHACHA20_POLY1305]}", errno=-default)
    figures = [
        figure
        for length in args.length or DEFAULT_LENGTHS
        for figure in measure(rows, length, args.burst, args.rounds)
    ]
    names = {cipher: rows[which].name if which >= 0 else "" for cipher, which in chosen.items()}
    if args.json:
        whole: dict[str, Any] = {"cpu": cpu_name(), "chosen": names, "why": why, "burst": args.burst}
        print(json.dumps(whole | {"figures": [asdict(figure) for figure in figures]}, indent=2))
    else:
        print(f"CPU: {cpu_name()}")
        print("\n".join(f"{cipher}: {text}" for cipher, text in why.items()), end="\n\n")
        print("\n".join(as_table(figures, names)))
    return 0


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the table of implementations."""

    which: int
    name: str
    cipher: Cipher


@dataclass(frozen=True, slots=True)
class Figure:
    """One implementation at one length: CPU time per packet in ns."""

    aead: str
    cipher: Cipher
    length: int
    seal_ns: float
    open_ns: float

    def gigabits(self) -> float:
        """Gbit of plaintext sealed per second of CPU time."""
        return 8 * self.length / self.seal_ns


def measure(rows: list[Row], length: int, burst: int, rounds: int) -> list[Figure]:
    """The best of ``REPEATS`` runs of each, in turn, so that a slow moment of the machine does not hit only
    one.

    One that does not load here is omitted, with a line on standard error.
    """
    from udpring._native import lib, reason, reason_text  # noqa: PLC0415
    from udpring_tools._native import lib as bench  # noqa: PLC0415

    best: dict[tuple[int, int], int] = {}
    for row in rows:
        why = reason()
        if lib.udpring_aead_selftest(row.which, why) < 0:
            print(f"udpring: {row.name} is left out of {row.cipher}: {reason_text(why)}", file=sys.stderr)
            continue
        best |= {(row.which, 1): sys.maxsize, (row.which, 0): sys.maxsize}
    for _ in range(REPEATS):
        for which, seal in best:
            taken = bench.udpring_aead_bench(which, seal, length, burst, rounds)
            if taken < 0:
                raise HostError(f"{rows[which].name} cannot be measured at {length} bytes", errno=-taken)
            best[which, seal] = min(best[which, seal], taken)
    return [
        Figure(
            rows[which].name,
            rows[which].cipher,
            length,
            round(ns / rounds, 1),
            round(best[which, 0] / rounds, 1),
        )
        for (which, seal), ns in best.items()
        if seal
    ]


def as_table(figures: list[Figure], chosen: Mapping[Cipher, str]) -> list[str]:
    """The lines to print."""
    lines = [f"{'':2}{'cipher':<20}{'AEAD':<10}{'bytes':>7}{'seal ns':>10}{'open ns':>10}{'Gbit/CPU-s':>12}"]
    lines += [
        f"{'*' if each.aead == chosen[each.cipher] else '':2}{each.cipher:<20}{each.aead:<10}{each.length:>7}"
        f"{each.seal_ns:>10.1f}{each.open_ns:>10.1f}{each.gigabits():>12.2f}"
        for each in figures
    ]
    return lines


def cpu_name() -> str:
    """From /proc/cpuinfo. Empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
