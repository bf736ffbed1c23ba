"""Coordination of several workers, and how worker 0 learns of it."""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import single_commands
from core_internals import lib as internals
from test_plane import INNER_PEER, TIERS, WIREGUARD, Bench, pytestmark, udp_packet

from udpring._native import ffi, lib

__all__ = ["pytestmark"]


def on_one_processor(tier: str, workers: int) -> Iterator[Bench]:
    """Loopback queues packets per CPU, so with two CPUs it reorders them itself."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        made = Bench(TIERS[tier], workers, WIREGUARD)
        yield made
        made.close()
    finally:
        os.sched_setaffinity(0, processors)


@pytest.fixture(params=["uring-multishot", "mmsg"])
def many(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from on_one_processor(request.param, 8)


@pytest.fixture(params=["uring-multishot", "mmsg"])
def alone(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from on_one_processor(request.param, 1)


def address(host: str, port: int) -> object:
    made = ffi.new("struct udpring_address *", {"family": socket.AF_INET, "port": port})
    ffi.memmove(made.ip, socket.inet_aton(host), 4)
    return made


def test_change_of_worker_0_delays_no_other(many: Bench) -> None:
    """Worker 0 sends last in its pass, and then learns that the source address is gone. The change waits."""
    endpoint = address("127.0.0.1", many.peer_socket.getsockname()[1])
    for _ in range(6):  # the kernel picks the worker by the sender's port: seven of eight are not worker 0
        many.key(initiator=False)
        many.events()
        gone = address("192.0.2.77", 0)
        assert single_commands.authenticated(many.plane, many.peer, 0, endpoint, gone, 0) == 0
        assert (
            single_commands.send(many.plane, many.peer, b"hello", 5, 0, ffi.NULL, ffi.NULL, 0, ffi.NULL) == 0
        )
        assert many.peer_socket.recv(100) == b"hello"
        with many.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
            other.sendto(many.seal(b""), ("127.0.0.1", many.port))
            many.wait(lambda: any(e.kind == lib.UDPRING_EVENT_KEY_CONFIRMED for e in many.events()))


def test_what_was_staged_leaves_before_what_follows_it(many: Bench) -> None:
    """Packets that waited for a key leave by worker 0. Later ones of their flow leave by its own worker."""
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
            single_commands.keys_erase(many.plane, many.peer)
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


ECT_0 = 2
STUCK = ("tbf", "rate", "8bit", "burst", "3000", "limit", "100000000")


def sockets_of(bench: Bench) -> Iterator[socket.socket]:
    """The plane's sockets. The caller closes them."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        if not (entry.is_socket() and int(entry.name) > 2):
            continue
        sock = socket.socket(fileno=os.dup(int(entry.name)))
        if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] == bench.port:
            yield sock
        else:
            sock.close()


def narrow(bench: Bench) -> None:
    """From now on a socket of the plane takes next to nothing, and sends it slowly. The application's
    packets are ECT(0), so that CoDel marks them instead of dropping them."""
    bench.app.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, ECT_0)
    command = "tc qdisc replace dev lo root tbf rate 2mbit burst 3000 limit 100000000"
    bench.inside(lambda: subprocess.run(command.split(), check=True))
    narrowed = 0
    for sock in sockets_of(bench):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sock.close()
        narrowed += 1
    assert narrowed >= 2 * bench.stats().workers


def read_from_device(bench: Bench) -> int:
    """Packets that are sealed, and those that wait in the queues of their flows."""
    stats = bench.stats()
    return int(stats.tun_packets_in + stats.flow_packets)


def send_numbered(bench: Bench, numbers: range) -> None:
    """Each is longer than the one before, which ends a train. They are sent one by one."""
    for number in numbers:
        before = read_from_device(bench)
        bench.app.sendto(struct.pack("!I", number) + bytes(500 + 20 * number), (INNER_PEER, 6000))
        bench.wait(lambda: read_from_device(bench) > before)  # noqa: B023 - called before the next round


@pytest.mark.parametrize("sent_before", [0, 10])
def test_full_socket_of_a_worker_keeps_order(many: Bench, sent_before: int) -> None:
    """Staged packets overtake none of the last session. Later packets do not overtake the staged ones."""
    narrow(many)
    many.key()
    send_numbered(many, range(sent_before))
    single_commands.keys_erase(many.plane, many.peer)
    send_numbered(many, range(sent_before, sent_before + 20))
    many.wait(lambda: many.state().staged + many.stats().flow_packets >= 20)
    many.key()
    send_numbered(many, range(sent_before + 20, sent_before + 30))
    seen = [struct.unpack_from("!I", many.receive()[1], 28)[0] for _ in range(sent_before + 30)]
    assert seen == list(range(sent_before + 30))


def test_all_peers_waiting_for_slots_are_served(alone: Bench) -> None:
    """Each has one packet staged, and a key, while the socket takes next to nothing. No other packet comes.
    One in five peers is removed before its turn."""
    narrow(alone)
    name = ffi.string(lib.udpring_plane_name(alone.plane)).decode()
    alone.inside(lambda: subprocess.run(["ip", "route", "add", "10.78.0.0/16", "dev", name], check=True))
    waiting = []
    for number in range(500):
        made = ffi.new("uint32_t *")
        assert lib.udpring_plane_peer_add(alone.plane, made) == 0
        alone.peer = made[0]
        host = f"10.78.{number // 250}.{number % 250 + 1}"
        alone.set_endpoint(alone.peer_socket)
        alone.allow(alone.peer, host, 32)
        alone.app.sendto(struct.pack("!I", number) + bytes(300), (host, 6000))
        waiting.append(alone.peer)
    for peer in waiting:
        alone.peer = peer
        alone.wait(lambda: alone.state().staged == 1)
    for peer in waiting:
        alone.peer = peer
        alone.key()
    before = alone.drops().get("no_peer", 0)
    gone = set(range(0, len(waiting), 5))
    for number in gone:
        assert lib.udpring_plane_peer_remove(alone.plane, waiting[number]) == 0
    dropped = alone.drops().get("no_peer", 0) - before
    seen = [struct.unpack_from("!I", alone.receive()[1], 28)[0] for _ in range(len(waiting) - dropped)]
    assert set(seen) | gone == set(range(len(waiting)))
    assert len(set(seen)) == len(seen)


@pytest.fixture(params=["uring-multishot x1", "mmsg x1", "mmsg x8"])
def crowded(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Its mailbox has the smallest size."""
    tier, workers = request.param.split(" x")
    with closing(Bench(TIERS[tier], int(workers), WIREGUARD, mailbox=8)) as made:
        yield made


def ask_for_keys(bench: Bench, count: int) -> set[int]:
    """Adds more new peers than the mailbox holds, each with one packet that is not sent again."""
    name = ffi.string(lib.udpring_plane_name(bench.plane)).decode()
    bench.inside(lambda: subprocess.run(["ip", "route", "add", "10.78.0.0/16", "dev", name], check=True))
    asking = set()
    for number in range(count):
        made = ffi.new("uint32_t *")
        assert lib.udpring_plane_peer_add(bench.plane, made) == 0
        bench.peer = made[0]
        bench.set_endpoint(bench.peer_socket)
        bench.allow(bench.peer, f"10.78.0.{number + 1}", 32)
        bench.app.sendto(b"once", (f"10.78.0.{number + 1}", 6000))
        bench.wait(lambda: bench.state().staged == 1)
        asking.add(bench.peer)
    assert bench.stats().events_lost
    return asking


def test_request_lost_to_full_mailbox_is_repeated(crowded: Bench) -> None:
    asking = ask_for_keys(crowded, 100)

    def all_heard() -> bool:
        asking.difference_update(
            e.peer for e in crowded.events() if e.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED
        )
        return not asking

    crowded.wait(all_heard)


def use_the_key_first(bench: Bench) -> None:
    bench.key(initiator=False)
    bench.send(bench.seal(b""))


def send_data(bench: Bench) -> None:
    bench.key()
    bench.app.sendto(b"x", (INNER_PEER, 6000))


def receive_data(bench: Bench) -> None:
    bench.key()
    bench.send(bench.seal(udp_packet(b"x")))


def come_from_elsewhere(bench: Bench) -> None:
    bench.key()
    assert lib.udpring_plane_watch_roaming(bench.plane, 1) == 0
    moved = bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with moved:
        moved.sendto(bench.seal(b""), ("127.0.0.1", bench.port))
        bench.wait(lambda: bench.state().endpoint.port == moved.getsockname()[1])


@pytest.mark.parametrize(
    ("happen", "kind"),
    [
        (come_from_elsewhere, lib.UDPRING_EVENT_ROAMED),
        (use_the_key_first, lib.UDPRING_EVENT_KEY_CONFIRMED),
        (send_data, lib.UDPRING_EVENT_ACTIVITY),
        (receive_data, lib.UDPRING_EVENT_ACTIVITY),
    ],
)
def test_deferred_events_follow_when_mailbox_has_room(
    crowded: Bench, happen: Callable[[Bench], None], kind: int
) -> None:
    """Each event is posted once. No later packet repeats it."""
    peer = crowded.peer
    waiting = {(asking, lib.UDPRING_EVENT_HANDSHAKE_WANTED) for asking in ask_for_keys(crowded, 20)}
    waiting.add((peer, kind))
    crowded.peer = peer
    lost = crowded.stats().events_lost
    happen(crowded)
    crowded.wait(lambda: crowded.stats().events_lost > lost)
    heard: list[tuple[int, int]] = []

    def all_heard() -> bool:
        heard.extend((event.peer, event.kind) for event in crowded.events())
        return waiting <= set(heard)

    crowded.wait(all_heard)
    assert heard.count((peer, kind)) == 1


def test_rekey_request_survives_full_mailbox(
    crowded: Bench,
) -> None:
    """A received packet requests a rekey, and the mailbox is full. The next packet requests it again."""
    peer = crowded.peer
    asking = ask_for_keys(crowded, 20)
    crowded.peer = peer
    crowded.key()
    assert internals.udpring_plane_test_age(crowded.plane, peer, 166 * 10**9) == 0
    lost = crowded.stats().events_lost
    crowded.send(crowded.seal(b""))
    crowded.wait(lambda: crowded.stats().events_lost > lost)

    def heard() -> set[int]:
        return {e.peer for e in crowded.events() if e.kind == lib.UDPRING_EVENT_HANDSHAKE_WANTED}

    def all_heard() -> bool:
        asking.difference_update(heard())
        return not asking

    crowded.wait(all_heard)
    crowded.send(crowded.seal(b""))
    crowded.wait(lambda: peer in heard())


def delete_interface(bench: Bench) -> None:
    name = ffi.string(lib.udpring_plane_name(bench.plane)).decode()
    bench.inside(lambda: subprocess.run(["ip", "link", "del", name], check=True))


def shut_sockets(bench: Bench) -> None:
    """No worker can receive any more."""
    for sock in sockets_of(bench):
        with pytest.raises(OSError, match="not connected"):  # it is done anyway
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


@pytest.mark.parametrize(
    ("end", "kind", "of_each"),
    [
        (delete_interface, lib.UDPRING_EVENT_TUN_GONE, False),
        (shut_sockets, lib.UDPRING_EVENT_FATAL, True),
    ],
)
def test_end_of_device_passes_a_full_mailbox(
    crowded: Bench, end: Callable[[Bench], None], kind: int, of_each: bool
) -> None:
    """The event is posted once. A program that missed it would wait for ever."""
    expected = crowded.stats().workers if of_each else 1
    ask_for_keys(crowded, 20)
    reported = crowded.stats().events + crowded.stats().events_lost
    end(crowded)
    crowded.wait(lambda: crowded.stats().events + crowded.stats().events_lost == reported + expected)
    poll = select.poll()
    poll.register(lib.udpring_plane_eventfd(crowded.plane), select.POLLIN)
    out, ends = ffi.new("struct udpring_event *"), 0
    while poll.poll(0):
        ends += lib.udpring_plane_events(crowded.plane, out, 1) == 1 and out.kind == kind
    assert ends == expected


def test_what_a_bind_finds_unsent_is_counted(alone: Bench) -> None:
    """A socket that takes nothing is kept for half a second, then it is closed with its pending packets."""
    narrow(alone)
    alone.inside(lambda: subprocess.run(["tc", "qdisc", "replace", "dev", "lo", "root", *STUCK], check=True))
    alone.key()
    send_numbered(alone, range(20))
    port = ffi.new("uint16_t *", 0)
    assert lib.udpring_plane_bind(alone.plane, port, 0, ffi.NULL) == 0
    assert alone.stats().tx.packets < 20
    assert alone.drops()["send_failed"] > 0
    alone.inside(lambda: subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True))
    alone.wait(lambda: alone.stats().tx.packets + alone.drops()["send_failed"] == 20)


def test_each_socket_is_waited_for_by_itself(alone: Bench) -> None:
    """The IPv4 socket is full for good. The IPv6 socket is full too, but soon has room, which must be
    noticed."""
    narrow(alone)
    for command in (
        "ip link add stuck type veth peer name other",
        "ip addr add 192.0.2.1/24 dev stuck",
        "ip link set stuck up",
        "ip link set other up",
        "ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:01 dev stuck",
        f"tc qdisc replace dev stuck root {' '.join(STUCK)}",
    ):
        alone.inside(lambda command=command: subprocess.run(command.split(), check=True))
    alone.key()
    gone = address("192.0.2.2", 9)
    assert lib.udpring_plane_endpoint(alone.plane, alone.peer, gone) == 0
    send_numbered(alone, range(20))
    with alone.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as six:
        six.bind(("::1", 0))
        six.settimeout(30)
        there = ffi.new("struct udpring_address *", {"family": socket.AF_INET6, "port": six.getsockname()[1]})
        ffi.memmove(there.ip, socket.inet_pton(socket.AF_INET6, "::1"), 16)
        assert lib.udpring_plane_endpoint(alone.plane, alone.peer, there) == 0
        before = alone.stats().tun_packets_in
        for number in range(20):
            alone.app.sendto(bytes(500 + 20 * number), (INNER_PEER, 6000))
        alone.wait(lambda: alone.stats().tun_packets_in == before + 20)
        for _ in range(20):
            six.recv(2000)
