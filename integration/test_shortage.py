"""A short shortage of memory ends no worker. A lasting one ends the node with a reason."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import FOR_EVER, Faults, build_library
from lab import GO, SUBJECT, Rig, Tunnel, until
from lab.counters import counters, watched
from lab.traffic import TcpStream, tcp

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="the calls are those of our core")

#: By tier: the calls refused for lack of memory, and how often in a row.
SHORT = {
    "uring-multishot": [("io_uring_enter", errno.ENOMEM), ("io_uring_enter", errno.EAGAIN)],
    "uring-pool": [("io_uring_enter", errno.ENOBUFS), ("io_uring_enter", errno.EBUSY)],
    "mmsg": [("ppoll", errno.ENOMEM), ("recvmmsg", errno.ENOMEM), ("ppoll", errno.EAGAIN)],
}
TUN = ("read", errno.ENOMEM)
TIMES = 40

Start = Callable[[str], tuple[Tunnel, Faults]]


@pytest.fixture
def start(rig: Rig, tmp_path: Path) -> Start:
    """A pair of nodes. The calls of b can be made to fail."""

    def made(tier: str) -> tuple[Tunnel, Faults]:
        (tmp_path / "b").mkdir()
        faults = Faults.make(tmp_path / "b")
        rig.later(faults.close)
        b = watched(tmp_path / "b").with_env(UDPRING_TIER=tier, **faults.environment(build_library(tmp_path)))
        tunnel = rig.tunnel((SUBJECT, b), both_know=True)
        tunnel.ping()
        return tunnel, faults

    return made


def outlives(tunnel: Tunnel, faults: Faults, call: str, error: int) -> None:
    """A stream through b continues after the call has failed ``TIMES`` times."""
    running = TcpStream(tunnel.a.space, tunnel.b.space, tunnel.b.inner4)
    until(lambda: running.received_bytes > 1 << 20 or not running.running, "the stream flows")
    faults.set(call, error, times=TIMES)
    until(lambda: faults.failed(call) == TIMES, f"{TIMES} calls of {call} fail", timeout=60)
    faults.clear()
    so_far = running.received_bytes
    until(lambda: running.received_bytes > so_far + (4 << 20), "it flows on", timeout=60)
    running.finish()


@pytest.mark.slow
@pytest.mark.parametrize("tier", SHORT)
def test_a_shortage_that_passes_ends_nothing(start: Start, tier: str) -> None:
    tunnel, faults = start(tier)
    counted = 0
    for call, error in [*SHORT[tier], TUN]:
        outlives(tunnel, faults, call, error)
        before, counted = counted, counters(tunnel.b)["plane"]["shortages"]
        assert counted > before, (call, error)
    tunnel.ping()
    tcp(tunnel.b.space, tunnel.a.space, tunnel.a.inner4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tier", "call", "error"),
    [
        ("uring-multishot", "io_uring_enter", errno.EAGAIN),
        ("uring-pool", "io_uring_enter", errno.ENOMEM),
        ("mmsg", "ppoll", errno.ENOMEM),
    ],
)
def test_lasting_shortage_ends_the_node(start: Start, tier: str, call: str, error: int) -> None:
    """The log names the error."""
    tunnel, faults = start(tier)
    faults.set(call, error, times=FOR_EVER)
    process = tunnel.b.process
    assert process is not None
    until(lambda: process.poll() is not None, "the node ends", timeout=60)
    assert process.returncode == 1
    assert f"cannot go on: {errno.errorcode[error]}" in tunnel.b.log_text()
    assert faults.failed(call) < 100_000, "it tried again without a pause"
    until(lambda: not tunnel.b.exists(), "the kernel has closed its rings, which hold the device")
