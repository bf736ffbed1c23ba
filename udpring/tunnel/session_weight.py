"""The nice value of a process's session, where the kernel weighs sessions against each other (autogroup,
sched(7)).

The nice value of a thread then counts only within its session. ``/proc/PID/autogroup`` sets that of the
session. A value below 0 needs CAP_SYS_NICE or RLIMIT_NICE.
"""

from __future__ import annotations

import errno
import os
import time

from udpring.errors import HostError

__all__ = ["SessionWeight"]

_ENABLED = "/proc/sys/kernel/sched_autogroup_enabled"
_AGAIN_SECONDS = 0.1
"""The kernel accepts ten changes of sessions a second, of all processes without CAP_SYS_ADMIN."""
_ATTEMPTS = 3


class SessionWeight:
    """The session of ``process``, which may make a session of its own after this object exists."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._values: tuple[int, ...] = ()
        self._file = -1
        if _enabled():
            try:
                self._file = os.open(f"/proc/{process}/autogroup", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                self._file = -1

    def fileno(self) -> int:
        """The file, or -1: the kernel does not weigh sessions."""
        return self._file

    def permit(self, nice: int) -> int:
        """Gives the session this nice value and returns the usual one. From now on ``set`` changes between
        the two. Raises HostError. Nothing is changed then."""
        usual = self._read()
        if nice >= usual:
            raise HostError(f"the session has the nice value {usual} already")
        self._write(nice)
        self._values = (nice, usual)
        return usual

    def set(self, nice: int) -> None:
        """Gives the session one of the two values. Raises HostError."""
        if nice not in self._values:
            raise HostError(f"{nice} is none of the session's nice values {self._values}")
        self._write(nice)

    def close(self) -> None:
        """May be called again."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _read(self) -> int:
        """Raises HostError if the process does not lead its session: others are in it, too."""
        if self._file < 0:
            raise HostError("the kernel does not weigh sessions")
        try:
            leads = os.getsid(self._process) == self._process
            words = os.pread(self._file, 100, 0).split()  # b"/autogroup-7 nice 0"
        except OSError as refused:
            number = refused.errno or 0
            text = f"the session of process {self._process} cannot be read: {refused.strerror}"
            raise HostError(text, errno=number) from None
        if not leads:
            raise HostError(f"process {self._process} does not lead its session")
        if not words:
            raise HostError(f"process {self._process} has no autogroup")
        return int(words[-1])

    def _write(self, nice: int) -> None:
        for _ in range(_ATTEMPTS):
            try:
                os.write(self._file, b"%d" % nice)
                return
            except OSError as refused:
                if refused.errno != errno.EAGAIN:
                    raise HostError(
                        f"the session cannot have the nice value {nice}: {refused.strerror}",
                        errno=refused.errno or 0,
                    ) from None
                time.sleep(_AGAIN_SECONDS)
        raise HostError("other processes change the nice values of sessions too often", errno=errno.EAGAIN)


def _enabled() -> bool:
    try:
        with open(_ENABLED, encoding="ascii") as file:  # noqa: PTH123 - without pathlib
            return file.read().strip() == "1"
    except OSError:  # the kernel has none, or no /proc is mounted
        return False
