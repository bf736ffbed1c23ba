"""Runs a seccomp filter on a system call, as the kernel does (linux/filter.h, seccomp(2))."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from udpring.tunnel.seccomp import Instruction

ALLOW = 0x7FFF0000
MASK = 0xFFFFFFFF


def run(steps: Sequence[Instruction], number: int, *arguments: int, audit: int) -> int:
    """The verdict: ALLOW, or 0x50000 | errno."""
    values = [*(each & (1 << 64) - 1 for each in arguments), *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, audit, 0, *values)
    at = accumulator = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x15:
                at += yes if accumulator == value else no
            case 0x25:
                at += yes if accumulator > value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x06:
                return value
            case _:
                raise AssertionError(f"no instruction {code:#x}")
