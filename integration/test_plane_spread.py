"""One flow on several cores: workers that sleep seal and open for the one that has the flow.

The second implementation of test_plane.py is the peer. Tests hold the workers while packets gather, so that a
pass has several jobs, and repeat until helpers have done some.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import single_commands
from core_internals import lib as internals
from test_plane import AES, INNER_PEER, TIERS, UDP_SEGMENT, WIREGUARD, Bench, pytestmark, udp_packet

from udpring._native import lib

__all__ = ["pytestmark"]

SIZE, SEGMENTS, TRAINS = 1392, 40, 8  # packets of the interface's MTU
SO_RCVBUFFORCE = 33
HELPED, ABSENT = 1, 2


def pin_workers() -> None:
    """Loopback reorders the packets of a sender that moves to another CPU."""
    cpus = sorted(os.sched_getaffinity(0))
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    workers = [
        tid for tid in threads if Path(f"/proc/self/task/{tid}/comm").read_text() == "udpring-worker\n"
    ]
    for number, tid in enumerate(sorted(workers)):
        os.sched_setaffinity(tid, {cpus[number % len(cpus)]})


@contextmanager
def opened(tier: str, workers: int, suite: object = WIREGUARD) -> Iterator[Bench]:
    bench = Bench(TIERS[tier], workers, suite)  # type: ignore[arg-type]
    before = os.sched_getaffinity(0)
    try:
        for sock in (bench.app, bench.peer_socket):
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 128 << 20)
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
        pin_workers()
        os.sched_setaffinity(0, {min(before)})
        bench.key()
        yield bench
    finally:
        os.sched_setaffinity(0, before)
        bench.close()


TUN_F_USO4 = 0x20


@pytest.fixture(params=["uring-multishot x2", "uring-multishot x4", "mmsg x2", "uring-pool aes x3"])
def helped(request: pytest.FixtureRequest) -> Iterator[Bench]:
    tier, *more = request.param.split()
    with opened(tier, int(more[-1][1:]), AES if "aes" in more else WIREGUARD) as bench:
        if not bench.stats().tun_offloads & TUN_F_USO4 or bench.flags & lib.UDPRING_PLANE_NO_UDP_OFFLOAD:
            pytest.skip("without super-packets and trains there is nothing to share")
        prove_trains(bench)
        assert internals.udpring_plane_test_spread(bench.plane, HELPED) == 0
        yield bench


class Held:
    """All workers stand still within."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> None:
        self.holds, self.until = os.pipe(), os.pipe()
        arguments = (self.bench.plane, self.holds[1], self.until[0])
        self.thread = threading.Thread(target=internals.udpring_plane_test_hold, args=arguments)
        self.thread.start()
        os.read(self.holds[0], 1)

    def __exit__(self, *_: object) -> None:
        os.write(self.until[1], b"x")
        self.thread.join()
        for fd in (*self.holds, *self.until):
            os.close(fd)


numbers = itertools.count()


def payload_of(number: int) -> bytes:
    return struct.pack("!Q", number) + bytes([number * 7 % 256]) * (SIZE - 8)


def payloads() -> list[bytes]:
    """Of one super-packet."""
    return [payload_of(number) for number in itertools.islice(numbers, SEGMENTS)]


def send_out(bench: Bench) -> list[bytes]:
    sent: list[bytes] = []
    with Held(bench):
        for _ in range(TRAINS):
            more = payloads()
            bench.app.sendto(b"".join(more), (INNER_PEER, 6000))
            sent += more
    return sent


def prove_trains(bench: Bench) -> None:
    """The first train of a session leaves alone."""
    expect_out(bench, send_out(bench), 0)


def inner_payload(inner: bytes) -> bytes:
    total: int = struct.unpack_from("!H", inner, 2)[0]
    return inner[28:total]


def expect_out(bench: Bench, sent: list[bytes], first: int) -> None:
    for number, payload in enumerate(sent):
        counter, inner = bench.receive()
        assert inner_payload(inner) == payload
        assert counter == first + number


def send_in(bench: Bench, change: dict[int, bytes] | None = None) -> list[bytes]:
    """Trains of sealed messages. `change`: other messages, of the same length, in place of these."""
    sent: list[bytes] = []
    bench.peer_socket.setsockopt(
        socket.IPPROTO_UDP, UDP_SEGMENT, len(bench.suite.header(0, 0)) + sealed_length()
    )
    with Held(bench):
        for _ in range(TRAINS):
            more = payloads()
            messages = [bench.seal(udp_packet(payload)) for payload in more]
            for place, message in (change or {}).items():
                assert len(message) == len(messages[place])
                messages[place] = message
            bench.send(b"".join(messages))
            sent += [p for place, p in enumerate(more) if place not in (change or {})]
    return sent


def sealed_length() -> int:
    return (28 + SIZE + 15) // 16 * 16 + 16


def expect_in(bench: Bench, sent: list[bytes]) -> None:
    for payload in sent:
        assert bench.app.recv(2000) == payload


def help_done(bench: Bench) -> int:
    return int(bench.stats().trains_helped)


def until_helped(bench: Bench, times: int = 20) -> Iterator[None]:
    """Rounds until helpers have done so many jobs."""
    before = help_done(bench)
    for _ in range(500):
        yield
        if help_done(bench) - before >= times:
            return
    raise AssertionError(f"helped {help_done(bench) - before} times")


def test_sealed_packets_leave_in_order(helped: Bench) -> None:
    first = SEGMENTS * TRAINS
    for _ in until_helped(helped):
        expect_out(helped, send_out(helped), first)
        first += SEGMENTS * TRAINS
    assert helped.stats().tun_packets_in == first
    assert helped.state().send_counter == first
    assert not helped.drops()


def test_opened_packets_are_delivered_in_order(helped: Bench) -> None:
    total = 0
    for _ in until_helped(helped):
        expect_in(helped, send_in(helped))
        total += SEGMENTS * TRAINS
    assert helped.stats().tun_packets_out == total
    assert not helped.drops()


def test_small_packets_overtake_no_train(helped: Bench) -> None:
    """They are sealed at once, and are behind the trains of their flow."""
    first = SEGMENTS * TRAINS
    for _ in until_helped(helped):
        sent: list[bytes] = []
        with Held(helped):
            for number in range(TRAINS):
                more = payloads()
                helped.app.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
                helped.app.sendto(b"".join(more), (INNER_PEER, 6000))
                sent += more
                if number % 4 != 3:  # it would end the pass
                    continue
                helped.app.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
                helped.app.sendto(b"small", (INNER_PEER, 6000))
                sent.append(b"small")
        expect_out(helped, sent, first)
        first += len(sent)


def forged(bench: Bench) -> bytes:
    message = bench.seal(udp_packet(bytes(SIZE)))
    return message[:-1] + bytes([message[-1] ^ 1])


def test_forged_message_changes_nothing(helped: Bench) -> None:
    rounds = 0
    for _ in until_helped(helped):
        expect_in(helped, send_in(helped, {17: forged(helped)}))
        rounds += 1
    assert helped.drops() == {"unauthenticated": rounds * TRAINS}
    # A window that a forged message had moved would refuse its counter.
    helped.peer_socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    helped.send(helped.seal(udp_packet(b"last"), counter=helped.counter))
    assert helped.app.recv(100) == b"last"


def test_replayed_message_is_dropped(helped: Bench) -> None:
    """It is authentic, and is opened once more. In each train but the first it is a replay."""
    again = helped.seal(udp_packet(b"once".ljust(SIZE, b".")))
    rounds = 0
    for _ in until_helped(helped):
        sent = send_in(helped, {3: again})
        if not rounds:
            sent.insert(3, b"once".ljust(SIZE, b"."))
        expect_in(helped, sent)
        rounds += 1
    assert helped.drops() == {"replayed": rounds * TRAINS - 1}


def test_other_messages_in_train_are_left_to_owner(helped: Bench) -> None:
    """Of an earlier key, of no key, of another cipher and of an unknown type."""
    length = 16 + sealed_length()
    unknown = struct.pack("<IIQ", 4 | helped.suite.mark, helped.index ^ 1, 0) + bytes(length - 16)
    typeless = struct.pack("<I", 9) + bytes(length - 4)
    rounds = 0
    for _ in until_helped(helped):
        earlier_key, earlier_counter = helped.index, helped.counter
        helped.key(initiator=False)
        helped.events()
        helped.index, now = earlier_key, helped.index
        earlier = helped.seal(udp_packet(b"early".ljust(SIZE, b".")), counter=earlier_counter)
        helped.index = now
        marked = helped.marked_for_the_other(helped.seal(udp_packet(bytes(SIZE))))
        sent = send_in(helped, {1: unknown, 5: typeless, 9: marked, 12: earlier})
        sent.insert(12 - 3, b"early".ljust(SIZE, b"."))
        expect_in(helped, sent)
        helped.wait(lambda: any(e.kind == lib.UDPRING_EVENT_KEY_CONFIRMED for e in helped.events()))
        rounds += TRAINS
    drops = helped.drops()
    assert drops.pop("replayed") == rounds - rounds // TRAINS
    assert drops == {"unknown_index": rounds, "bad_type": rounds, "cipher_mismatch": rounds}


def all_read(bench: Bench, packets: int) -> bool:
    """The worker has so many packets of the interface, and none waits for a send or a key."""
    stats = bench.stats()
    return bool(stats.tun_packets_in == packets and stats.sends_pending == 0 and stats.staged_bytes == 0)


def subsequence(bench: Bench, *, of_app: bool = False) -> list[int]:
    """The numbers of the packets that have arrived. They are in order, and unchanged."""
    found: list[int] = []
    sock = bench.app if of_app else bench.peer_socket
    sock.setblocking(False)
    try:
        while True:
            payload = sock.recv(2000) if of_app else inner_payload(bench.receive()[1])
            found.append(struct.unpack_from("!Q", payload)[0])
            assert payload == payload_of(found[-1])
    except BlockingIOError:
        pass
    finally:
        sock.settimeout(30)
    assert found == sorted(set(found))
    return found


def test_train_with_failed_cipher_does_not_leave(helped: Bench) -> None:
    """Each datagram that leaves opens. All others are counted."""
    assert internals.udpring_plane_test_hinder(helped.plane, helped.peer, 199, 0, -1) == 0
    received = total = SEGMENTS * TRAINS
    for _ in until_helped(helped):
        send_out(helped)
        total += SEGMENTS * TRAINS
        helped.wait(lambda: all_read(helped, total))  # noqa: B023 - called before the next round
        received += len(subsequence(helped))
        assert received + helped.drops().get("send_failed", 0) == total
    assert 0 < helped.drops()["send_failed"] < total


def test_absent_helpers_hold_up_nothing(helped: Bench) -> None:
    assert internals.udpring_plane_test_spread(helped.plane, ABSENT) == 0
    for number in range(1, 4):
        expect_out(helped, send_out(helped), number * SEGMENTS * TRAINS)
        expect_in(helped, send_in(helped))
        helped.peer_socket.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    assert help_done(helped) == 0


def test_single_worker_is_never_helped() -> None:
    with opened("mmsg", 1) as bench:
        assert internals.udpring_plane_test_spread(bench.plane, HELPED) == -2  # ENOENT
        expect_out(bench, send_out(bench), 0)
        expect_in(bench, send_in(bench))
        assert help_done(bench) == 0


def during_help(bench: Bench, send: Callable[[Bench], object], work: Callable[[Bench], None]) -> None:
    """Calls ``work`` while a helper does a job: the cipher is slow, and reports its second user."""
    for _ in range(100):
        reports, second = os.pipe()
        try:
            assert internals.udpring_plane_test_hinder(bench.plane, bench.peer, 0, 100, second) == 0
            send(bench)
            if select.select([reports], [], [], 1)[0]:
                work(bench)
                return
        finally:
            assert internals.udpring_plane_test_hinder(bench.plane, bench.peer, 0, 0, -1) in (
                0,
                -errno.ENOENT,
            )
            os.close(reports)
            os.close(second)
    raise AssertionError("no worker has helped")


def change_tables(bench: Bench) -> None:
    """Each call stops all workers. The last one frees the keys that the jobs use."""
    assert bench.stats().workers
    assert single_commands.source_clear(bench.plane, bench.peer) == 0
    single_commands.keys_erase(bench.plane, bench.peer)


@pytest.mark.parametrize("back", [False, True], ids=["out", "in"])
def test_tables_change_during_help(helped: Bench, back: bool) -> None:
    for _ in range(5):
        helped.key()
        expect_out(helped, send_out(helped), 0)
        during_help(helped, send_in if back else send_out, change_tables)
        helped.wait(lambda: helped.stats().flow_packets == 0)
        subsequence(helped, of_app=back)
        subsequence(helped)
    assert set(helped.drops()) <= {"unknown_index", "staging_full"}


def remove_peer(bench: Bench) -> None:
    assert lib.udpring_plane_peer_remove(bench.plane, bench.peer) == 0


def test_peer_removed_during_help(helped: Bench) -> None:
    during_help(helped, send_out, remove_peer)
    helped.wait(lambda: helped.stats().flow_packets == 0 and helped.stats().sends_pending == 0)
    assert helped.stats().keypairs == 0
    subsequence(helped)


def test_plane_closes_during_help(helped: Bench) -> None:
    """The fixture closes it."""
    during_help(helped, send_out, lambda bench: None)
