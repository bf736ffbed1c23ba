"""The way into the namespaces of a rootless node. Started by path, with ``python -I -S``:

``USER NET MOUNT RIGHTS -- PROGRAM...`` enters namespaces by their descriptors and becomes the program:
without rights, or (RIGHTS ``keep``) with those of the user namespace, for ip(8).

Each start and stop of a node runs this several times. So it imports only what starts fast.

Sources: user_namespaces(7), capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
PR_SET_SECUREBITS, SECBIT_NOROOT, SECBIT_NOROOT_LOCKED = 28, 1, 2
CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A step that the host refused: its name and errno, for the program to explain."""

    def __init__(self, step: str, number: int, text: str = "") -> None:
        super().__init__(text or os.strerror(number))
        self.step = step
        self.number = number


def call(step: str, result: int) -> None:
    """Raises Refused where a call of libc has failed."""
    if result != 0:
        raise Refused(step, ctypes.get_errno())


def keep_rights() -> None:
    """So that programs that this process starts have the rights of the user namespace: ambient(7)."""
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    call("capget", libc.capget(header, data))
    words = list(struct.unpack("=6I", data.raw))
    words[2], words[5] = words[1], words[4]  # inheritable: the permitted ones
    call("capset", libc.capset(header, struct.pack("=6I", *words)))
    held = words[1] | words[4] << 32
    for right in range(64):
        if held >> right & 1:
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, right, 0, 0)


def environment() -> dict[str, str]:
    """As this program got it. Python may have added LC_CTYPE to its own."""
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib starts slowly
            given = file.read().split(b"\0")
    except OSError:
        return dict(os.environ)
    return dict(os.fsdecode(entry).split("=", 1) for entry in given if b"=" in entry)


def default_signals() -> None:
    """Python ignores two signals, and programs would inherit that."""
    import signal  # noqa: PLC0415

    for changed in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(changed, signal.SIG_DFL)


def enter(user: str, net: str, space: str, rights: str, dashes: str, *program: str) -> None:
    """Becomes a program of the inside. See the module."""
    inherited = environment()
    try:
        here = os.getcwd()  # noqa: PTH109
        for descriptor, kind in ((user, CLONE_NEWUSER), (net, CLONE_NEWNET), (space, CLONE_NEWNS)):
            call("setns", libc.setns(int(descriptor), kind))
            os.close(int(descriptor))
        try:  # noqa: SIM105 - contextlib starts slowly
            os.chdir(here)
        except OSError:
            pass
        if rights == "keep":
            keep_rights()
        else:
            # Else a program of root would have all rights of the user namespace again.
            libc.prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED, 0, 0, 0)
            default_signals()
    except (Refused, OSError) as refused:
        print(f"udpring: the namespaces of the node cannot be entered: {refused}", file=sys.stderr)
        sys.exit(126)
    try:
        os.execvpe(program[0], program, inherited)
    except OSError as refused:
        print(f"udpring: {program[0]}: {refused.strerror}", file=sys.stderr)
        sys.exit(127 if isinstance(refused, FileNotFoundError) else 126)


if __name__ == "__main__":
    enter(*sys.argv[1:])
