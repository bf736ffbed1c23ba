"""Namespaces for processes, mounts and the network, around one function and everything it starts.

The function runs in the first process of a new PID namespace. When that process ends, the kernel ends all
other processes in it. The mounts and the network namespaces go with them. This holds after Ctrl-C and after
``kill -9``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 16384, 1 << 18
PR_SET_PDEATHSIG = 1
INTERRUPTED = 130
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(kind: str, target: Path, options: str = "", flags: int = 0) -> None:
    """mount(2) of a file system without a source, such as tmpfs or proc."""
    target.mkdir(parents=True, exist_ok=True)
    _check(
        _libc.mount(b"none", str(target).encode(), kind.encode(), flags, options.encode()),
        f"mounting {kind} at {target}",
    )


def enclosed(work: Callable[[], int]) -> int:
    """Runs ``work`` inside and returns its exit code. SIGINT and SIGTERM reach it as KeyboardInterrupt."""
    # The caller sees them in the child's end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _check(_libc.unshare(CLONE_NEWPID), "unshare")  # for the child, not for this process
    child = os.fork()
    if child == 0:
        os._exit(_inside(work))

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _inside(work: Callable[[], int]) -> int:
    code = INTERRUPTED
    try:
        _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "making mounts private")
        mount("proc", Path("/proc"), flags=MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("tmpfs", Path("/run/netns"), "size=1m")
        code = work()
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 3
    sys.stdout.flush()
    sys.stderr.flush()
    return code
