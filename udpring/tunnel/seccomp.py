"""Makes and installs seccomp filters: a list of the system calls that a process may still make.

A rule allows one call, always or under conditions on its arguments. All others fail: with ENOSYS if the call
is newer than the table, so that the C library takes an older one, otherwise with EPERM. The process is not
killed, because a refused call of a library must not end a tunnel, and an error can be logged and handled.

The program checks the architecture first, so no number of another one passes. It binds every thread of the
process, also the ones made later. Sources: seccomp(2), linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence

from udpring.records import record
from udpring.tunnel.system_calls import NEWEST, Architecture

__all__ = ["Allow", "Instruction", "Test", "install", "program"]

_LOAD, _AND, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x35, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_SET_MODE_FILTER, _TSYNC, _SPEC_ALLOW = 1, 1, 4

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, value (struct sock_filter)"""


@record
class Test:
    """Whether an argument has a value: ``(word & mask) == value``. ``below``: whether it is less.
    ``other``: whether it is not equal. ``high``: of the upper 32 bits of the argument."""

    argument: int
    value: int
    mask: int = 0xFFFFFFFF
    below: bool = False
    other: bool = False
    high: bool = False

    def code(self, beyond: int) -> list[Instruction]:
        """Goes on where the test passes, and over ``beyond`` instructions where it fails."""
        where = _ARGUMENTS_AT + 8 * self.argument + 4 * self.high  # both machines are little-endian
        steps: list[Instruction] = [(_LOAD, 0, 0, where)]
        if self.mask != 0xFFFFFFFF:
            steps.append((_AND, 0, 0, self.mask))
        if self.below:
            steps.append((_AT_LEAST, beyond, 0, self.value))
        else:
            yes, no = (beyond, 0) if self.other else (0, beyond)
            steps.append((_EQUAL, yes, no, self.value))
        return steps


@record
class Allow:
    """Allows a call where all tests of one of the ``cases`` pass. No cases: always. ``error``: of all other
    cases."""

    call: str
    cases: tuple[tuple[Test, ...], ...] = ()
    error: int = errno.EPERM

    def code(self) -> list[Instruction]:
        """Ends with a verdict in every case."""
        if not self.cases:
            return [(_RETURN, 0, 0, _ALLOW)]
        steps: list[Instruction] = []
        for case in self.cases:
            own: list[Instruction] = [(_RETURN, 0, 0, _ALLOW)]
            for test in reversed(case):
                own = [*test.code(len(own)), *own]
            steps += own
        return [*steps, (_RETURN, 0, 0, _FAIL | self.error)]


def program(
    rules: Sequence[Allow], architecture: Architecture, *, missing: Iterable[str] = ()
) -> list[Instruction]:
    """The filter for an architecture. Calls in ``missing`` fail with ENOSYS, as if the kernel lacked them.
    A rule for a call that the architecture does not have is left out."""
    numbers = architecture.numbers
    steps: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_GREATER, 0, 1, NEWEST),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
    ]
    for call in missing:
        steps += [(_EQUAL, 0, 1, numbers[call]), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    for rule in rules:
        if rule.call in numbers:
            own = rule.code()
            steps += [(_EQUAL, 0, len(own), numbers[rule.call]), *own]
    return [*steps, (_RETURN, 0, 0, _FAIL | errno.EPERM)]


def install(steps: Sequence[Instruction], architecture: Architecture) -> None:
    """Binds all threads of this process for ever. The process must have no_new_privs. Raises OSError.

    Speculation stays as it was (SPEC_ALLOW): kernels before 5.16 would slow the whole process down, and the
    process runs no code of others.
    """
    packed = b"".join(struct.pack("=HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(packed, len(packed))
    filter_program = struct.pack("@HP", len(steps), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    number = architecture.numbers["seccomp"]
    result = libc.syscall(
        ctypes.c_long(number),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(_TSYNC | _SPEC_ALLOW),
        ctypes.c_char_p(filter_program),
    )
    if result:
        # A positive result is the thread that has another filter of its own.
        refused = ctypes.get_errno() if result < 0 else errno.ESRCH
        raise OSError(refused, f"seccomp: {os.strerror(refused)}")
