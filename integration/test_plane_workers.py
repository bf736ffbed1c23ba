"""What several workers have to agree on, and how worker 0 hears of it."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from test_plane import INNER_PEER, TIERS, WIREGUARD, Bench, pytestmark

from udpring._native import ffi, lib

__all__ = ["pytestmark"]


@pytest.fixture(params=["uring-multishot", "mmsg"])
def many(request: pytest.FixtureRequest) -> Iterator[Bench]:
    # Loopback hands packets over by processor: on two of them it reorders all by itself.
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        made = Bench(TIERS[request.param], 8, WIREGUARD)
        yield made
        made.close()
    finally:
        os.sched_setaffinity(0, processors)


def address(host: str, port: int) -> object:
    made = ffi.new("struct udpring_address *", {"family": socket.AF_INET, "port": port})
    ffi.memmove(made.ip, socket.inet_aton(host), 4)
    return made


def test_a_change_of_worker_0_keeps_no_other_from_being_made(many: Bench) -> None:
    """Worker 0 sends last in its pass; that the source address is none of ours is known then, and waits."""
    endpoint = address("127.0.0.1", many.peer_socket.getsockname()[1])
    for _ in range(6):  # the kernel picks the worker by the sender's port: seven of eight are not worker 0
        many.key(initiator=False)
        many.events()
        gone = address("192.0.2.77", 0)
        assert lib.udpring_plane_authenticated(many.plane, many.peer, 0, endpoint, gone, 0) == 0
        assert lib.udpring_plane_send(many.plane, many.peer, b"hello", 5, 0, ffi.NULL, ffi.NULL, 0) == 0
        assert many.peer_socket.recv(100) == b"hello"
        with many.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
            other.sendto(many.seal(b""), ("127.0.0.1", many.port))
            many.wait(lambda: any(e.kind == lib.UDPRING_EVENT_KEY_CONFIRMED for e in many.events()))


def test_what_was_staged_leaves_before_what_follows_it(many: Bench) -> None:
    """Packets that waited for a key leave by worker 0, those that follow in their flow by its own worker."""
    flows = many.inside(lambda: [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)])
    stop = threading.Event()

    def flood() -> None:
        for number in itertools.count():
            for flow, sock in enumerate(flows):
                sock.sendto(struct.pack("!II", flow, number), (INNER_PEER, 6000))
            if stop.is_set():
                return

    last = [-1] * len(flows)
    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        for _ in range(60):
            lib.udpring_plane_keys_erase(many.plane, many.peer)
            many.wait(lambda: many.state().staged > 100)
            many.key()
            for _ in range(400):
                _, inner = many.receive()
                flow, number = struct.unpack_from("!II", inner, 28)
                assert number > last[flow], f"flow {flow}: {number} after {last[flow]}"
                last[flow] = number
    finally:
        stop.set()
        flooding.join()
        for sock in flows:
            sock.close()
