"""A change of the port applies to all workers, or to none."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from seccomp import Rule, install
from test_plane import INNER_PEER, TIERS, WIREGUARD, Bench, Suite, pytestmark
from test_plane_workers import sockets_of

from udpring._native import ffi, lib, reason, reason_text

__all__ = ["pytestmark"]

WORKERS = 3
SOL_UDP, UDP_GRO = 17, 104


class Limited(Bench):
    """Its workers cannot enable UDP_GRO on descriptors from `limit` on, so such sockets cannot receive."""

    def __init__(self, tier: int, workers: int, suite: Suite) -> None:
        with open_devnull() as lowest:
            self.limit = lowest + 200
        super().__init__(tier, workers, suite)

    def _open(self, tier: int, workers: int) -> None:
        # A filter belongs to the thread that installs it and to its new threads.
        install(
            [
                Rule(
                    "setsockopt",
                    errno.ENOMEM,
                    ((0, ">=", self.limit), (1, "==", SOL_UDP), (2, "==", UDP_GRO)),
                )
            ]
        )
        super()._open(tier, workers)


@contextmanager
def open_devnull() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def lowest_free(fd: int) -> Iterator[None]:
    """The next file opened gets this descriptor, and the one after it a higher one."""
    with open_devnull() as null:
        taken = []
        while (made := os.dup(null)) < fd:
            taken.append(made)
        os.close(made)
        try:
            yield
        finally:
            for made in taken:
                os.close(made)


@pytest.fixture(params=["uring-multishot", "mmsg"])
def limited(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Limited]:
    monkeypatch.setenv("UDPRING_OFFLOADS", "all")
    with closing(Limited(TIERS[request.param], WORKERS, WIREGUARD)) as made:
        yield made


def descriptors() -> dict[str, str]:
    found = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # it belonged to the listing
            found[entry.name] = str(entry.readlink())
    return found


def sockets(bench: Bench) -> int:
    count = 0
    for sock in sockets_of(bench):
        sock.close()
        count += 1
    return count


def both_ways(bench: Bench) -> None:
    """Any worker receives and sends on that port: the kernel chooses by the other end's port."""
    before = bench.drops().get("unknown_index", 0)
    for number in range(1, 17):
        with bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as stranger:
            stranger.sendto(bytes([4]) + bytes(1400), ("127.0.0.1", bench.port))
        bench.wait(lambda: bench.drops().get("unknown_index", 0) == before + number)  # noqa: B023
        with bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as flow:
            flow.sendto(b"out", (INNER_PEER, 6000))
        assert bench.peer_socket.recvfrom(2000)[1] == ("127.0.0.1", bench.port)


@pytest.mark.parametrize("refused", range(WORKERS))
def test_failed_rebind_keeps_every_workers_port(limited: Limited, refused: int) -> None:
    """Handshake sockets are opened first, then those of worker 0, 1, ... This worker cannot use its own."""
    separate = limited.stats().handshake_sockets
    assert sockets(limited) == separate + 2 * WORKERS
    limited.key()
    before = descriptors()
    port, why = ffi.new("uint16_t *", 0), reason()
    with lowest_free(limited.limit - separate - 2 * refused):
        assert lib.udpring_plane_bind(limited.plane, port, 0, why) == -errno.ENOMEM
    assert "UDP_GRO" in reason_text(why)
    assert lib.udpring_plane_port(limited.plane) == limited.port
    assert descriptors() == before
    both_ways(limited)
    # Without the obstacle it does move.
    assert lib.udpring_plane_bind(limited.plane, port, 0, why) == 0, reason_text(why)
    assert sockets(limited) == 0
    limited.port = port[0]
    assert sockets(limited) == separate + 2 * WORKERS
    both_ways(limited)
