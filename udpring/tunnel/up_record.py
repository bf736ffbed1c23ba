"""The record of ``udpring up`` for ``udpring down``: /var/run/wireguard/NAME.up.

The file names the configuration of the interface. Its writer holds a lock on it as long as it runs. A file
without a lock is left over from a killed process and is ignored.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from udpring.tunnel import uapi

__all__ = ["UpRecord", "find", "write"]

_MAX_SIZE = 65536


@dataclass(slots=True)
class UpRecord:
    """``file``: the configuration. ``allow_hooks``: its commands run even if others can write it."""

    path: Path
    file: Path
    allow_hooks: bool
    _descriptor: int = -1

    def remove(self) -> None:
        """Removes the record. For its writer, when the interface ends."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def _path(interface: str) -> Path:
    return Path(uapi.SOCKET_DIRECTORY) / f"{interface}.up"


def write(interface: str, file: Path, *, allow_hooks: bool) -> UpRecord:
    """Writes and locks the record of an interface that this process serves."""
    path = _path(interface)
    # It gets its name when it is complete and locked, so nobody reads a half-written one.
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps({"file": os.fspath(file), "allow_hooks": allow_hooks}).encode())
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return UpRecord(path, file, allow_hooks, descriptor)


def find(interface: str) -> UpRecord | None:
    """The record of an interface that ``udpring up`` serves now. None: another program serves it."""
    path = _path(interface)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found = json.loads(os.read(descriptor, _MAX_SIZE))
            return UpRecord(path, Path(found["file"]), bool(found["allow_hooks"]))
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    finally:
        os.close(descriptor)
