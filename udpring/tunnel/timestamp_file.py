"""The last TAI64N timestamp of each peer, kept across restarts: a captured initiation stays a replay.

A restarted node knows no timestamps. It accepts an initiation that was captured before the restart, and sends
to its source until the peer sends again. This module prevents that where a directory is given
(``UDPRING_TIMESTAMPS`` or ``timestamps=``; off by default):
1. The node reads the file of its interface when it starts. A damaged file, or one that others can write, is
   reported and ignored.
2. An added peer gets the timestamp that the file has for its key.
3. After an authentic initiation a thread writes the file, at most once in ``SAVE_SECONDS``, and once at the
   end. A new file (mode 0600) is synced and renamed over the old one.

A killed node forgets the initiations that it has not written yet, at most ``SAVE_SECONDS`` of them. The file
is off by default because a peer whose clock was set back stays locked out until its clock has caught up, or
until the peer is removed and added again. Without the file a restart of the node is enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import stat
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from udpring._native import lib
from udpring.errors import HostError
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.flood_gate import FloodGate

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SAVE_SECONDS", "TimestampFile", "timestamp_path"]

SAVE_SECONDS = 5.0
ENTRIES_MAX: int = lib.UDPRING_PEERS_MAX
HEAD = "udpring timestamps 1"
_LINE = r"([0-9a-f]{64}) ([0-9a-f]{24})"
_BYTES_MAX = (ENTRIES_MAX + 2) * 90

log = logging.getLogger("udpring.node")

Timestamps = dict[bytes, bytes]


def timestamp_path(directory: str | os.PathLike[str] | None, interface: str) -> Path | None:
    """The file of an interface. ``directory`` None: that of ``UDPRING_TIMESTAMPS``, if it is set."""
    folder = os.environ.get("UDPRING_TIMESTAMPS", "") if directory is None else os.fspath(directory)
    if not folder:
        return None
    from pathlib import Path  # noqa: PLC0415 - few nodes keep timestamps

    return Path(folder).absolute() / f"{interface}.timestamps"


class TimestampFile:
    """Timestamps by public key. ``current`` gives those of the live peers.

    The constructor reads the file and raises HostError where it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        current: Callable[[], Mapping[bytes, bytes]],
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.path = path
        self._loop = loop
        self._current = current
        self._gate = FloodGate()
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._changed = False
        self._closed = False
        self._writing = threading.Lock()
        self._known = _read(path)
        self._written = dict(self._known)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _write(path, self._known)
        except OSError as failed:
            raise HostError(
                f"timestamps cannot be kept in {path}: {failed.strerror or failed}",
                errno=failed.errno or errno.EIO,
                cure="name a directory that this process can write: UDPRING_TIMESTAMPS=/var/lib/udpring",
            ) from failed

    def of(self, public_key: bytes) -> bytes:
        """The last timestamp of a peer; empty if none is known."""
        return self._known.get(public_key, b"")

    def forget(self, public_key: bytes) -> None:
        """The peer was removed: the file forgets it too."""
        if self._known.pop(public_key, None) is not None:
            self.changed()

    def changed(self) -> None:
        """A timestamp changed: the file is written soon. Call it in the event loop."""
        self._changed = True
        if self._timer is None and self._saving is None and not self._closed:
            self._timer = self._loop.call_later(SAVE_SECONDS, self._save)

    def close(self) -> None:
        """Writes all changes now. May be called again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._changed:
            self._write(self._collect())

    def _save(self) -> None:
        self._timer = None
        self._saving = self._loop.create_task(self._save_in_thread(self._collect()))

    async def _save_in_thread(self, timestamps: Timestamps) -> None:
        try:
            await run_blocking(lambda: self._write(timestamps), name="udpring-timestamps")
        finally:
            self._saving = None
            if self._changed:
                self.changed()

    def _collect(self) -> Timestamps:
        """The live peers' timestamps first, then those of the file whose peers were not added (yet)."""
        self._changed = False
        live = {key: timestamp for key, timestamp in self._current().items() if timestamp}
        self._known = dict(
            [*live.items(), *(each for each in self._known.items() if each[0] not in live)][:ENTRIES_MAX]
        )
        return dict(self._known)  # a thread reads it

    def _write(self, timestamps: Timestamps) -> None:
        try:
            with self._writing:
                if timestamps != self._written:
                    _write(self.path, timestamps)
                    self._written = timestamps
        except OSError as failed:
            passes, _ = self._gate.passes("save")
            if passes:
                log.warning("timestamps were not saved to %s: %s", self.path, failed.strerror or failed)


def _read(path: Path) -> Timestamps:
    """The timestamps in the file. None, with a warning, if it cannot be trusted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if (
                not stat.S_ISREG(facts.st_mode)
                or facts.st_uid not in (0, os.geteuid())
                or facts.st_mode & 0o022
            ):
                raise ValueError("users other than its owner and root can write it")
            return _parse(file.read(_BYTES_MAX + 1))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as wrong:
        log.warning("%s is ignored: %s. Initiations captured before may be accepted once", path, wrong)
        return {}


def _parse(data: bytes) -> Timestamps:
    if len(data) > _BYTES_MAX:
        raise ValueError("it is too long")
    lines = data.decode("ascii").split("\n")
    if len(lines) < 3 or lines[0] != HEAD or lines[-1] or lines[-2] != f"end {len(lines) - 3}":
        raise ValueError("its first or last line is damaged")
    timestamps: Timestamps = {}
    for number, line in enumerate(lines[1:-2], 2):
        found = re.fullmatch(_LINE, line)
        if found is None:
            raise ValueError(f"line {number} is damaged")
        timestamps[bytes.fromhex(found[1])] = bytes.fromhex(found[2])
    return timestamps


def _write(path: Path, timestamps: Timestamps) -> None:
    """Replaces the file. A crash leaves the old one or the new one."""
    lines = [
        HEAD,
        *(f"{key.hex()} {stamp.hex()}" for key, stamp in timestamps.items()),
        f"end {len(timestamps)}",
        "",
    ]
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write("\n".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
