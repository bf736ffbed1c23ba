"""Several workers under traffic both ways while other threads command and read the plane.

`scripts/test --stage tsan` runs this on a core built with the thread sanitiser, which reports races between
workers.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
import single_commands
from core_internals import lib as internals
from test_plane import APP, INNER_PEER, TIERS, WIREGUARD, Bench, pytestmark, udp_packet

from udpring._native import ffi, lib

__all__ = ["pytestmark"]

FLOWS, PACKETS, ROUNDS = 8, 40, 5


@pytest.fixture(params=["uring-multishot x2", "uring-multishot x4", "uring-pool x2", "mmsg x2", "mmsg x4"])
def many(request: pytest.FixtureRequest) -> Iterator[Bench]:
    tier, workers = request.param.split(" x")
    made = Bench(TIERS[tier], int(workers), WIREGUARD)
    yield made
    made.close()


def read_everything(bench: Bench) -> None:
    states, following = ffi.new("struct udpring_peer_state[8]"), ffi.new("uint32_t *")
    bench.stats()
    bench.state()
    bench.events()
    assert lib.udpring_plane_peer_states(bench.plane, 0, states, 8, following) >= 1


def change_tables(bench: Bench) -> None:
    """Adds and removes another peer. Requests keepalives from the one with traffic."""
    other = ffi.new("uint32_t *")
    assert lib.udpring_plane_peer_add(bench.plane, other) == 0
    bench.allow(other[0], "10.99.0.0", 16)
    assert single_commands.keepalive(bench.plane, bench.peer) in (0, -126)  # ENOKEY
    assert single_commands.source_clear(bench.plane, bench.peer) == 0
    assert internals.udpring_plane_test_cookie_age(bench.plane, 120 * 10**9) == 0
    assert lib.udpring_plane_peer_remove(bench.plane, other[0]) == 0


def repeat(
    work: Callable[[Bench], None], bench: Bench, stop: threading.Event, failed: list[Exception]
) -> None:
    while not stop.is_set():
        try:
            work(bench)
        except Exception as error:
            failed.append(error)
            return


def sources(bench: Bench) -> list[socket.socket]:
    """One socket per address of the interface. The device steers by address, so all queues get packets."""
    name = ffi.string(lib.udpring_plane_name(bench.plane)).decode()
    made = []
    for flow in range(FLOWS):
        address = f"10.77.0.{11 + flow}"
        bench.inside(
            lambda a=address: subprocess.run(["ip", "addr", "add", f"{a}/24", "dev", name], check=True)
        )
        made.append(bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        made[-1].bind((address, 0))
    return made


def one_round(bench: Bench, out: list[socket.socket], outer: list[socket.socket]) -> None:
    """A new key, and packets of all flows in both directions with it."""
    bench.key()
    before = bench.stats()
    delivered, read = before.tun_packets_out, before.tun_packets_in
    for number in range(PACKETS):
        for flow in range(FLOWS):
            out[flow].sendto(bytes(100 + number), (INNER_PEER, 6000))
            outer[flow].sendto(
                bench.seal(udp_packet(b"in", destination=APP, port=9)), ("127.0.0.1", bench.port)
            )
    bench.wait(lambda: bench.stats().tun_packets_out - delivered >= FLOWS * PACKETS)
    bench.wait(lambda: bench.stats().tun_packets_in - read >= FLOWS)


def test_traffic_commands_and_state_reads_at_once(many: Bench) -> None:
    stop = threading.Event()
    failed: list[Exception] = []
    outer = many.inside(lambda: [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(FLOWS)])
    out = sources(many)
    threads = [
        threading.Thread(target=repeat, args=(work, many, stop, failed))
        for work in (read_everything, change_tables)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            one_round(many, out, outer)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for sock in (*out, *outer):
            sock.close()
    assert not failed, failed
