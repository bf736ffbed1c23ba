"""Each system call of the data path fails under traffic: once, now and then, for ever.

Once or now and then: streams through the node continue. For ever: either packets are dropped and counted, and
the node recovers when it ends, or the node ends cleanly with a reason. UDPRING_FAULTS=all: also with two
workers, and more often.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import FOR_EVER, Faults, build_library
from lab import GO, SUBJECT, Rig, Tunnel, until
from lab.counters import drops, watched
from lab.traffic import TcpStream

pytestmark = [
    pytest.mark.skipif(SUBJECT.name == GO.name, reason="the calls are those of our core"),
    pytest.mark.traffic,
]

E = errno
TIERS = ("uring-multishot", "uring-pool", "mmsg")
#: Temporary errors of each call. The first one is tried for ever, too.
TUN = {
    "read": (E.ENOMEM, E.EINTR, E.EAGAIN, E.EIO),
    "writev": (E.EIO, E.EINTR, E.EAGAIN, E.ENOMEM, E.ENOBUFS, E.EINVAL),
    "write": (E.EINTR,),
    "ioctl": (E.EIO, E.ENODEV, E.ENOMEM),
}
RING = {"io_uring_enter": (E.EINTR, E.EAGAIN, E.EBUSY, E.ENOMEM, E.ENOBUFS)}
SOCKETS = {
    "ppoll": (E.EINTR, E.EAGAIN, E.ENOMEM),
    "recvmmsg": (E.ENOMEM, E.EINTR, E.EAGAIN, E.ENOBUFS, E.ECONNREFUSED, E.EHOSTUNREACH),
    "sendmmsg": (E.EPERM, E.EINTR, E.EAGAIN, E.ENOBUFS, E.ENOMEM, E.ENETUNREACH, E.EMSGSIZE, E.EIO, E.EINVAL),
}
#: For ever, and the node lives. It drops the packets concerned.
LASTING = [
    ("uring-multishot", "writev", E.EIO),
    ("uring-pool", "writev", E.EINVAL),
    ("mmsg", "sendmmsg", E.EPERM),
    ("mmsg", "sendmmsg", E.ENOMEM),
    ("mmsg", "sendmmsg", E.ENOBUFS),
]
#: For ever, and the node ends with this message.
FATAL = [
    ("uring-multishot", "io_uring_enter", E.EBADF, "cannot go on: EBADF"),
    ("uring-pool", "io_uring_enter", E.EINVAL, "cannot go on: EINVAL"),
    ("mmsg", "ppoll", E.EINVAL, "cannot go on: EINVAL"),
    ("mmsg", "recvmmsg", E.EBADF, "cannot go on: EBADF"),
    ("mmsg", "sendmmsg", E.EBADF, "cannot go on: EBADF"),
    ("mmsg", "read", E.EBADFD, "the interface was deleted"),
]
ALL = os.environ.get("UDPRING_FAULTS") == "all"

Pair = tuple[Tunnel, Faults]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def start(rig: Rig, tmp_path: Path, library: Path) -> Callable[..., Pair]:
    """A pair of nodes. The calls of b can be made to fail."""

    def made(tier: str, workers: int = 1) -> Pair:
        (tmp_path / "b").mkdir()
        faults = Faults.make(tmp_path / "b")
        rig.later(faults.close)
        b = watched(tmp_path / "b").with_env(
            UDPRING_TIER=tier,
            UDPRING_WORKERS=str(workers),
            UDPRING_OFFLOADS="all",
            **faults.environment(library),
        )
        tunnel = rig.tunnel((SUBJECT, b), both_know=True)
        tunnel.ping()
        return tunnel, faults

    return made


class Traffic:
    """TCP through b in both directions, until the end of a test."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._streams = [
            TcpStream(tunnel.a.space, tunnel.b.space, tunnel.b.inner4, timeout=60),
            TcpStream(tunnel.b.space, tunnel.a.space, tunnel.a.inner4, timeout=60),
        ]
        self.flows("the streams begin")

    def flows(self, what: str, size: int = 1 << 18) -> None:
        """Waits until both have moved this much more."""
        before = [stream.received_bytes for stream in self._streams]

        def moved() -> bool:
            assert self._tunnel.b.process is not None
            assert self._tunnel.b.process.poll() is None, f"{what}: the node ended"
            for stream in self._streams:
                assert not stream.failures, f"{what}: {stream.failures}"
            return all(
                stream.received_bytes >= start + size
                for stream, start in zip(self._streams, before, strict=True)
            )

        until(moved, f"{what}: both streams flow", timeout=60)

    def finish(self) -> None:
        for stream in self._streams:
            stream.finish()


@contextlib.contextmanager
def pings(tunnel: Tunnel) -> Iterator[None]:
    """Sends packets from a to b, whether they arrive or not."""
    command = tunnel.a.space.argv("ping", "-q", "-i", "0.02", "-w", "120", tunnel.b.inner4)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pinging:
        try:
            yield
        finally:
            pinging.terminate()


def dropped(tunnel: Tunnel) -> int:
    """Dropped by b, because the interface or the socket refused them."""
    counted = drops(tunnel.b)
    return counted["tun_full"] + counted["send_failed"]


def cases(tier: str) -> Iterator[tuple[str, int]]:
    for call, errors in {**(SOCKETS if tier == "mmsg" else RING), **TUN}.items():
        for error in errors:
            yield call, error


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2] if ALL else [1])
@pytest.mark.parametrize("tier", TIERS)
def test_a_call_that_fails_now_and_then_stops_nothing(
    start: Callable[..., Pair], tier: str, workers: int
) -> None:
    tunnel, faults = start(tier, workers)
    traffic = Traffic(tunnel)
    for call, error in cases(tier):
        what = f"{call}: {errno.errorcode[error]}"
        for times, every in ((1, 1), (10, 7), *(((50, 5),) if ALL else ())):
            faults.set(call, error, times=times, every=every)
            # Some calls are made once a second or less (the MTU look-up). They fail when they come.
            rare = call in ("ioctl", "write")
            traffic.flows(f"{what} {times} times")
            if not rare or ALL:
                until(lambda: faults.failed(call) >= 1, f"{what} comes", timeout=60)  # noqa: B023
            faults.clear()
            traffic.flows(f"after {what} {times} times", 1 << 16)
    traffic.finish()
    tunnel.ping()
    tunnel.ping(back=True)


@pytest.mark.parametrize(("tier", "call", "error"), LASTING)
def test_what_fails_for_ever_is_dropped_and_counted(
    start: Callable[..., Pair], tier: str, call: str, error: int
) -> None:
    tunnel, faults = start(tier)
    before = dropped(tunnel)
    faults.set(call, error, times=FOR_EVER)
    with pings(tunnel):
        until(lambda: dropped(tunnel) >= before + 20, "drops are counted", timeout=60)
    assert tunnel.b.process is not None
    assert tunnel.b.process.poll() is None
    faults.clear()
    tunnel.ping()
    Traffic(tunnel).finish()


@pytest.mark.parametrize(("tier", "call", "error", "words"), FATAL)
def test_what_cannot_go_on_ends_and_says_why(
    start: Callable[..., Pair], tier: str, call: str, error: int, words: str
) -> None:
    tunnel, faults = start(tier)
    process = tunnel.b.process
    assert process is not None
    faults.set(call, error, times=FOR_EVER)
    with pings(tunnel):
        until(lambda: process.poll() is not None, "the node ends", timeout=60)
    assert process.returncode in (0, 1), process.returncode
    assert words in tunnel.b.log_text()
    faults.clear()
    assert not tunnel.b.uapi.exists()
