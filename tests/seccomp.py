"""Makes chosen system calls fail by a seccomp filter, as a container or a hardened kernel does.

A process cannot remove a filter, so use one in a process of its own:

    run_python(code, [Rule("io_uring_setup", errno.EPERM)])        # a child interpreter under the filter
    [*launcher(Rule("io_uring_setup", errno.ENOSYS)), "program"]   # a command line that filters itself first

As a program: seccomp.py RULE... -- COMMAND... A RULE is CALL=ERRNO[:ARGUMENT>=VALUE][:ARGUMENT==VALUE].
Sources: seccomp(2), prctl(2), linux/filter.h, linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The io_uring calls have these numbers on every architecture but alpha. Other calls differ.
CALLS = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
for _name, _x86, _generic in (
    ("mmap", 9, 222),
    ("openat", 257, 56),
    ("eventfd2", 290, 19),
    ("epoll_create1", 291, 20),
    ("epoll_ctl", 233, 21),
    ("epoll_wait", 232, -1),
    ("socketpair", 53, 199),
    ("bind", 49, 200),
    ("listen", 50, 201),
    ("getsockname", 51, 204),
    ("fchmod", 91, 52),
    ("pipe2", 293, 59),
    ("setsid", 112, 157),
    ("chdir", 80, 49),
    ("dup2", 33, -1),
    ("madvise", 28, 233),
    ("inotify_init1", 294, 26),
    ("setns", 308, 268),
    ("ioctl", 16, 29),
    ("setsockopt", 54, 208),
    ("getsockopt", 55, 209),
    ("socket", 41, 198),
    ("unshare", 272, 97),
    ("bpf", 321, 280),
):
    _numbers = {"x86_64": _x86, "aarch64": _generic, "riscv64": _generic}
    CALLS[_name] = _numbers.get(os.uname().machine, -1)

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
NUMBER_AT, ARGUMENTS_AT = 0, 16


@dataclass(frozen=True)
class Rule:
    """``call`` fails with ``error`` when each condition (argument index, ">=" or "==", 32 bits) holds."""

    call: str
    error: int
    conditions: tuple[tuple[int, str, int], ...] = ()

    def __str__(self) -> str:
        tests = "".join(f":{index}{operator}{value}" for index, operator, value in self.conditions)
        return f"{self.call}={errno.errorcode[self.error]}{tests}"

    @classmethod
    def parse(cls, text: str) -> Rule:
        call, _, rest = text.partition("=")
        error, *tests = rest.split(":")
        conditions = []
        for test in tests:
            parts = re.fullmatch(r"(\d)(>=|==)(\d+)", test)
            if parts is None:
                raise ValueError(f"{text!r}: a condition is ARGUMENT>=VALUE or ARGUMENT==VALUE")
            conditions.append((int(parts[1]), parts[2], int(parts[3])))
        return cls(call, getattr(errno, error), tuple(conditions))


def program(rules: Sequence[Rule]) -> list[tuple[int, int, int, int]]:
    """The filter as BPF instructions: (code, jump if true, jump if false, value)."""
    code: list[tuple[int, int, int, int]] = []
    for rule in rules:
        # Only the low words of arguments: lengths and flags fit, and on little-endian machines they come
        # first.
        steps = [(NUMBER_AT, JUMP_EQUAL, CALLS[rule.call])]
        steps += [
            (ARGUMENTS_AT + 8 * index, JUMP_EQUAL if operator == "==" else JUMP_AT_LEAST, value)
            for index, operator, value in rule.conditions
        ]
        for done, (where, jump, value) in enumerate(steps):
            beyond = 2 * (len(steps) - done - 1) + 1  # past the remaining steps and the return
            code += [(LOAD_WORD, 0, 0, where), (jump, 0, beyond, value)]
        code.append((RETURN, 0, 0, FAIL_WITH | rule.error))
    code.append((RETURN, 0, 0, ALLOW))
    return code


def install(rules: Sequence[Rule]) -> None:
    """Filters this process and its children, permanently. Needs no privileges: it sets no_new_privs."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = program(rules)
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    held = ctypes.create_string_buffer(packed, len(packed))
    filter_program = struct.pack("@HP", len(code), ctypes.addressof(held))
    for option, argument, more in (
        (PR_SET_NO_NEW_PRIVS, 1, None),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program),
    ):
        if libc.prctl(option, ctypes.c_ulong(argument), more or ctypes.c_ulong(0), ctypes.c_ulong(0), 0):
            number = ctypes.get_errno()
            raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def launcher(*rules: Rule) -> list[str]:
    """The beginning of a command line. The command after it runs under the filter."""
    return [sys.executable, str(Path(__file__).resolve()), *map(str, rules), "--"]


def run_python(
    code: str, rules: Sequence[Rule] = (), *, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a child interpreter under the filter. Output is text; the status is not checked."""
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    if rules:
        command = [*launcher(*rules), *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def main(arguments: list[str]) -> None:
    if "--" not in arguments:
        sys.exit("usage: seccomp.py RULE... -- COMMAND...")
    end = arguments.index("--")
    install([Rule.parse(text) for text in arguments[:end]])
    os.execvp(arguments[end + 1], arguments[end + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
