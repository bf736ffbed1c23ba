"""The Python side of the threads that compute handshakes (``native/tunnel/worker/handshake_threads.c``).

1. They open initiations that the plane admitted. Only those that open become events.
2. The control loop submits the jobs of its own handshakes, and goes on with each when it is done.

Everything here runs in the thread of the event loop.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Final

from udpring._native import check, ffi, lib, reason, reason_text
from udpring.errors import HostError
from udpring.tunnel.native_noise import NativeJob, NativeResponder, NativeStaticKey
from udpring.tunnel.plane import Event, Plane
from udpring.tunnel.refusals import cure_of
from udpring.wireguard.events import Outcome
from udpring.wireguard.handshake import Identity, Job

__all__ = ["THREADS_MAX", "HandshakeThreads"]

Then = Callable[[int, int], list[Outcome]]
THREADS_MAX: Final = 8
_TAKEN_AT_ONCE: Final = 64


def _threads() -> tuple[int, int]:
    """How many threads: one for each CPU that this process may use. And how many of them may open initiations
    at a time: half, so a flood of forged ones leaves the others free."""
    threads = min(len(os.sched_getaffinity(0)), THREADS_MAX)
    return threads, max(threads // 2, 1)


class HandshakeThreads:
    """Starts the threads. They end with the plane, which its owner closes first. Raises HostError where none
    can be started."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._shown: NativeStaticKey | None = None
        self._shown_number = 0
        self._numbers = itertools.count(1)
        self._pending: dict[int, tuple[NativeJob, Then]] = {}
        self._done = ffi.new("uint64_t[]", _TAKEN_AT_ONCE)
        why = reason()
        code = lib.udpring_plane_handshake_threads(plane.handle(), *_threads(), why)
        if code < 0:
            raise HostError(reason_text(why), errno=-code, cure=cure_of(-code))

    def identity(self, private_key: bytes) -> NativeStaticKey:
        """The node's key, for ``Device``."""
        return NativeStaticKey(private_key, deferred=True)

    def show(self, identity: Identity | None) -> None:
        """The threads open initiations with this key from now on. None: with none."""
        if identity is self._shown:
            return
        shown = identity if isinstance(identity, NativeStaticKey) else None
        self._shown_number += 1
        key = ffi.NULL if shown is None else shown.key
        check(
            lib.udpring_plane_handshake_key(self._plane.handle(), key, self._shown_number),
            "key of the handshake threads",
        )
        self._shown = shown

    def opened(self, event: Event) -> NativeResponder | None:
        """The handshake that came with the event. None: it is to be opened, as the key has changed since."""
        if event.handshake is None or self._shown is None or event.key_number != self._shown_number:
            return None
        return NativeResponder(self._shown, event.handshake)

    def submit(self, job: Job, then: Then) -> bool:
        """Has the job computed. False: the threads have too many, and it was computed here."""
        if not isinstance(job, NativeJob):
            return False
        number = job.computation.number = next(self._numbers)
        self._pending[number] = (job, then)
        if lib.udpring_plane_compute(self._plane.handle(), job.computation) == 0:
            return True
        del self._pending[number]
        job.run()
        return False

    def take(self) -> list[Then]:
        """How to go on with the jobs that are done, in the order in which they were. An empty list: none for
        now. The eventfd of the plane says when there may be more."""
        if not self._pending:
            return []
        count = lib.udpring_plane_computed(self._plane.handle(), self._done, _TAKEN_AT_ONCE)
        return [self._pending.pop(self._done[place])[1] for place in range(count)]

    def close(self) -> None:
        """After the plane was closed: zeroises what was not computed any more."""
        for job, _ in self._pending.values():
            job.erase()
        self._pending.clear()
