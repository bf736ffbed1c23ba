"""Handshakes have sockets of their own: a flood of them costs no data, and honest ones succeed.

The flood comes in trains over loopback, at a million messages a second or more, which floods any machine.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Program, Rig
from lab.counters import counters, watched
from test_plane import TIERS, WIREGUARD, Bench, pytestmark, udp_packet

from udpring._native import ffi, lib

__all__ = ["pytestmark"]

SECCOMP = Path(__file__).resolve().parents[1] / "tests" / "seccomp.py"
SOL_UDP, UDP_SEGMENT = 17, 103
SO_ATTACH_REUSEPORT_CBPF = 51
PUBLIC_KEY = bytes(range(32))
MAC1_KEY = hashlib.blake2s(b"mac1----" + PUBLIC_KEY).digest()
LENGTH = 148
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
ROUND = 16


@pytest.fixture(params=[*TIERS, "uring-multishot x2", "mmsg x2"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    tier, *more = request.param.split()
    with closing(Bench(TIERS[tier], 2 if more else 1, WIREGUARD)) as made:
        lib.udpring_plane_identity(made.plane, MAC1_KEY, bytes(32))
        made.key()
        yield made


def _initiation(kind: int = 1, length: int = LENGTH) -> bytes:
    """Random bytes with the length and type of a handshake message and the right mac1."""
    body = struct.pack("<I", kind) + secrets.token_bytes(length - 4 - 32)
    return body + hashlib.blake2s(body, key=MAC1_KEY, digest_size=16).digest() + bytes(16)


@contextmanager
def _flood(bench: Bench, family: int) -> Iterator[None]:
    """Initiations in trains, as fast as one thread can."""
    over = threading.Event()
    train = b"".join(_initiation() for _ in range(60))
    where = (LOOPBACK[family], bench.port)

    def run() -> None:
        while not over.is_set():
            sock.sendto(train, where)

    with bench.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, LENGTH)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            bench.wait(lambda: bench.drops().get("flooded", 0) > 0)
            yield
        finally:
            over.set()
            thread.join()


def _data(bench: Bench, sender: socket.socket, number: int) -> None:
    """Sends a round of data messages into the tunnel. All of them must come out."""
    where = (LOOPBACK[sender.family], bench.port)
    sent = {b"%d/%d" % (number, place) for place in range(ROUND)}
    for payload in sent:
        sender.sendto(bench.seal(udp_packet(payload)), where)
    assert {bench.app.recv(100) for _ in sent} == sent


@pytest.mark.parametrize("family", LOOPBACK, ids=["ipv4", "ipv6"])
def test_no_data_is_lost_under_a_flood(bench: Bench, family: int) -> None:
    with bench.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
        _data(bench, sender, 0)
        with _flood(bench, family):
            before = bench.drops()["flooded"]
            for number in range(1, 200):
                _data(bench, sender, number)
            bench.wait(lambda: bench.drops()["flooded"] > before)
    assert bench.stats().rx.kernel_drops == 0
    assert bench.state().last_received_ns > 0


@pytest.mark.parametrize("family", LOOPBACK, ids=["ipv4", "ipv6"])
def test_an_honest_sender_is_answered_under_a_flood(bench: Bench, family: int) -> None:
    """The client gets its cookie after some attempts, at its port, while data and the flood continue."""
    made = bench.inside(lambda: [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)])
    with made[0] as sender, made[1] as honest, _flood(bench, family):
        honest.connect((LOOPBACK[family], bench.port))
        honest.setblocking(False)
        give_up = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 40_000_000_000
        for number in itertools.count():
            assert time.clock_gettime_ns(time.CLOCK_BOOTTIME) < give_up, f"never answered: {bench.drops()}"
            ours = _initiation()
            honest.send(ours)
            _data(bench, sender, number)
            try:
                answer = honest.recv(200)
            except BlockingIOError:
                continue
            assert len(answer) == 64
            assert answer[:4] == struct.pack("<I", 3)
            break


@pytest.mark.parametrize("family", LOOPBACK, ids=["ipv4", "ipv6"])
def test_every_kind_of_message_is_read(bench: Bench, family: int) -> None:
    """Each is counted by its kind, on any socket."""
    assert bench.stats().handshake_sockets == 2
    assert ffi.string(lib.udpring_plane_sharing_reason(bench.plane)) == b""
    with bench.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
        where = (LOOPBACK[family], bench.port)
        for message, reason in (
            (b"", "flooded"),
            (bytes([4]) + bytes(30), "flooded"),
            (bytes([4, 1]) + bytes(61), "flooded"),
            (bytes([4, 1]) + bytes(62), "bad_type"),
            (bytes([9]) + bytes(1400), "bad_type"),
            (bytes([4]) + bytes(1400), "unknown_index"),
            (bytes([1]) + bytes(147), "bad_mac1"),
            (bytes([1]) + bytes(148), "too_short"),
            (bytes([1]) + bytes(295), "too_short"),
            (bytes([2]) + bytes(91), "unknown_index"),
            (_initiation(2, 92), "unknown_index"),
            (bytes([3]) + bytes(63), "unknown_index"),
        ):
            before = bench.drops().get(reason, 0)
            sender.sendto(message, where)
            bench.wait(lambda reason=reason, before=before: bench.drops().get(reason, 0) == before + 1)  # type: ignore[misc]
        sender.sendto(_initiation(), where)
        out = ffi.new("struct udpring_event[1]")
        bench.wait(
            lambda: (
                lib.udpring_plane_events(bench.plane, out, 1) == 1
                and out[0].kind == lib.UDPRING_EVENT_HANDSHAKE
            )
        )
        assert bytes(ffi.buffer(out[0].message, out[0].length))[:4] == struct.pack("<I", 1)
        _data(bench, sender, 0)


def test_they_move_to_another_port(bench: Bench) -> None:
    """After a change of the port, data and handshakes arrive there, and the old port is free."""
    old = bench.port
    for _ in range(3):
        port = ffi.new("uint16_t *", 0)
        assert lib.udpring_plane_bind(bench.plane, port, 0, ffi.NULL) == 0
        assert lib.udpring_plane_mark(bench.plane, 7) == 0
        bench.port = port[0]
        bench.dropped("bad_mac1", bytes([1]) + bytes(147))
        _data(bench, bench.peer_socket, 0)
        assert bench.stats().handshake_sockets == 2
        with bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind(("0.0.0.0", old))
        old = bench.port


@pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go has one socket for all")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_host_that_cannot_sort(rig: Rig, tmp_path: Path, workers: str) -> None:
    """If the kernel refuses the program, handshakes and data share sockets, and the log has the reason."""
    program = watched(tmp_path).with_env(UDPRING_WORKERS=workers)
    rule = f"setsockopt=ENOPROTOOPT:2=={SO_ATTACH_REUSEPORT_CBPF}"
    denied = Program(program.name, (sys.executable, str(SECCOMP), rule, "--", *program.argv), program.env)
    tunnel = rig.tunnel((denied, GO))
    tunnel.ping()
    tunnel.ping(back=True)
    tunnel.tcp_both_ways(1 << 18)
    assert counters(tunnel.a)["plane"]["handshake_sockets"] == 0
    line = next(line for line in tunnel.a.log_text().splitlines() if "SO_ATTACH_REUSEPORT_CBPF" in line)
    assert "handshakes" in line
