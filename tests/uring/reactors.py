"""Runs a coroutine function in each event loop, inside a reactor on io_uring and where seccomp denies it."""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from udpring.uring import Reactor

LOOPS = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
BACKENDS = ("io_uring", "readiness")
# On a sanitised core (scripts/test) one loop on io_uring shows its faults. The rest is Python.
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")
# The first uvloop of a process opens descriptors that it keeps.
anyio.run(anyio.sleep, 0, backend_options={"use_uvloop": True})

PATIENCE = 30.0
"""Seconds within which everything here must happen."""


def chosen(backend: str) -> str | None:
    """The argument ``backend`` of a reactor, which finds "readiness" itself where io_uring is denied."""
    return None if backend == "readiness" else backend


def marks(backend: str) -> list[pytest.MarkDecorator]:
    """The marks of a test on ``backend``."""
    return [pytest.mark.io_uring_denied] if backend == "readiness" else []


@dataclass(frozen=True)
class Host:
    """A loop and a backend. ``run(main)`` awaits ``main(reactor)`` within the bound.

    "readiness" is not forced: the test must run where io_uring is denied.
    """

    loop: str
    backend: str

    def run(self, main: Callable[[Reactor], Awaitable[Any]], **options: Any) -> Any:
        async def bounded() -> Any:
            with anyio.fail_after(PATIENCE):
                async with Reactor(backend=chosen(self.backend), **options) as reactor:
                    assert reactor.backend == self.backend
                    return await main(reactor)

        return self.run_plain(bounded)

    def run_plain(self, main: Callable[[], Awaitable[Any]]) -> Any:
        backend, options = LOOPS[self.loop]
        return anyio.run(main, backend=backend, backend_options=options)


ALL = [
    (loop, backend) for loop in LOOPS for backend in BACKENDS if (loop, backend) != ("uvloop", "readiness")
]
CHOSEN = [("asyncio", "io_uring")] if SANITIZED else ALL
HOSTS = [pytest.param(Host(*each), id="-".join(each), marks=marks(each[1])) for each in CHOSEN]
ON_BACKENDS = [
    pytest.param(Host(*each), id=each[1], marks=marks(each[1])) for each in CHOSEN if each[0] == "asyncio"
]
EACH_BACKEND = [
    pytest.param(each, id=each, marks=marks(each)) for each in BACKENDS[: 1 if SANITIZED else None]
]


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop run until the condition holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


def descriptors() -> set[str]:
    """The open descriptors of this process with their targets, but not that of the listing."""
    gc.collect()  # uvloop closes its pipes late
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except OSError:
            continue
    return {each for each in found if "/proc/" not in each}
