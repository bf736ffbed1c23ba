"""``RecvRing`` over many sockets: one ring and one pool of buffers, and sockets that come and go."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import select
import socket
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import Faults, build_library

from udpring import ClosedError, RingError, WrongThreadError
from udpring.udp import Packet, RecvRing

from .conftest import BOUND, cut, send_train, take

MakeSocket = Callable[..., socket.socket]


@pytest.fixture
def outside() -> Iterator[socket.socket]:
    """A socket to send from."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def by_socket(packets: list[Packet]) -> dict[socket.socket, list[bytes]]:
    found: dict[socket.socket, list[bytes]] = {}
    for packet in packets:
        found.setdefault(packet.socket, []).append(bytes(packet))
    return found


def test_each_packet_names_its_socket(tier: str, make_socket: MakeSocket, outside: socket.socket) -> None:
    sinks = [make_socket() for _ in range(40)]
    with RecvRing(sinks, tier=tier) as ring:
        assert ring.sockets == tuple(sinks)
        for number in range(3):
            for place, sink in enumerate(sinks):
                outside.sendto(b"%d to %d" % (number, place), sink.getsockname())
        packets = take(ring, 120)
        assert by_socket(packets) == {
            sink: [b"%d to %d" % (number, place) for number in range(3)] for place, sink in enumerate(sinks)
        }
        assert {packet.address for packet in packets} == {outside.getsockname()}


def test_columns_name_the_sockets(tier: str, make_socket: MakeSocket, outside: socket.socket) -> None:
    first, second = make_socket(), make_socket()
    with RecvRing([], tier=tier) as ring:
        numbers = {ring.add(sink): sink for sink in (first, second)}
        send_train(outside, second.getsockname(), b"x" * 700, 200)
        with ring.recv_batch(timeout=BOUND) as batch:
            assert batch.payloads() == cut(b"x" * 700, 200)
            assert batch.sockets == [second] * 4
            assert [numbers[number] for number in batch.socket_numbers] == [second] * 4
            assert batch[1:3].sockets == [second] * 2
        with RecvRing(make_socket(), tier=tier) as alone:
            outside.sendto(b"", alone.sockets[0].getsockname())
            with alone.recv_batch(timeout=BOUND) as batch:
                assert batch.sockets == [alone.sockets[0]]
                assert batch.socket_numbers.tolist() == [0]


def test_sockets_come_and_go_while_it_runs(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    stays, comes, goes = make_socket(), make_socket(), make_socket()
    goes.settimeout(BOUND)
    with RecvRing([stays, goes], tier=tier) as ring:
        outside.sendto(b"1", goes.getsockname())
        assert take(ring, 1)[0].socket is goes
        ring.add(comes)
        ring.remove(goes)
        assert ring.sockets == (stays, comes)
        for sink in (goes, comes, stays):
            outside.sendto(b"2", sink.getsockname())
        assert by_socket(take(ring, 2)) == {stays: [b"2"], comes: [b"2"]}
        assert not ring.recv_batch(timeout=0.05)
        assert goes.recv(10) == b"2"  # it is the program's again
        ring.add(goes)
        outside.sendto(b"3", goes.getsockname())
        assert by_socket(take(ring, 1)) == {goes: [b"3"]}


def test_what_waits_in_a_new_socket_is_received(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    sink = make_socket()
    outside.sendto(b"early", sink.getsockname())
    with RecvRing([], tier=tier) as ring:
        assert not ring.recv_batch(timeout=0)
        ring.add(sink)
        assert by_socket(take(ring, 1)) == {sink: [b"early"]}


def test_a_kept_batch_names_removed_sockets(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    with RecvRing([make_socket()], tier=tier) as ring:
        kept = []
        for turn in range(6):
            (sink,) = ring.sockets
            outside.sendto(b"%d" % turn, sink.getsockname())
            kept.append((sink, ring.recv_batch(timeout=BOUND)))
            ring.remove(sink)
            assert not ring.recv_batch(timeout=0)  # its number may be used again
            ring.add(make_socket())
        assert len({batch.socket_numbers[0] for _, batch in kept}) < 6, "numbers are used again"
        for turn, (sink, batch) in enumerate(kept):
            assert batch.sockets == [sink]
            assert batch.payloads() == [b"%d" % turn]


def test_removal_drops_and_counts_what_nobody_fetched(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    goes, stays = make_socket(), make_socket()
    with RecvRing([goes, stays], buffers=2, tier=tier, lease_limit=2) as ring:
        send_train(outside, goes.getsockname(), b"a" * 900, 100)
        part = ring.recv_batch(4, timeout=BOUND)
        assert part.payloads() == [b"a" * 100] * 4
        ring.remove(goes)
        assert ring.stats["removed"] == 5
        del part
        for number in range(20):  # the buffer of the train serves again
            outside.sendto(b"%d" % number, stays.getsockname())
            assert by_socket(take(ring, 1)) == {stays: [b"%d" % number]}
        assert ring.leased <= 1


def test_a_closed_socket_leaves_and_the_others_go_on(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    sinks = [make_socket() for _ in range(20)]
    with RecvRing(sinks, tier=tier) as ring:
        sinks[7].close()
        with pytest.raises(RingError, match="closed") as refused:
            ring.recv_batch(timeout=BOUND)
        assert refused.value.errno == errno.EBADF
        assert sinks[7] not in ring.sockets
        assert len(ring.sockets) == 19
        for sink in ring.sockets:
            outside.sendto(b"on", sink.getsockname())
        assert by_socket(take(ring, 19)) == {sink: [b"on"] for sink in ring.sockets}


def test_a_new_socket_may_reuse_a_number(tier: str, make_socket: MakeSocket, outside: socket.socket) -> None:
    old = make_socket()
    with RecvRing([old], tier=tier) as ring:
        number = old.fileno()
        old.close()
        new = make_socket()
        assert new.fileno() == number, "the kernel gives the lowest one"
        ring.add(new)
        outside.sendto(b"new", new.getsockname())
        with pytest.raises(RingError, match="closed"):
            take(ring, 2)
        assert ring.sockets == (new,)
        assert by_socket(take(ring, 1)) == {new: [b"new"]}


def test_a_duplicate_of_a_closed_socket_is_left_alone(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    sink, other = make_socket(), make_socket()
    with RecvRing([sink, other], tier=tier) as ring, sink.dup() as duplicate:
        sink.close()
        with pytest.raises(RingError, match="closed"):
            ring.recv_batch(timeout=BOUND)
        outside.sendto(b"for the duplicate", duplicate.getsockname())
        assert not ring.recv_batch(timeout=0.05)
        outside.sendto(b"for the ring", other.getsockname())
        assert by_socket(take(ring, 1)) == {other: [b"for the ring"]}
        duplicate.settimeout(BOUND)
        assert duplicate.recv(100) == b"for the duplicate"


def test_a_shutdown_ends_one_socket_after_its_datagrams(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    sink, other = make_socket(), make_socket()
    sink.connect(outside.getsockname())
    with RecvRing([sink, other], tier=tier) as ring:
        outside.sendto(b"last", sink.getsockname())
        sink.shutdown(socket.SHUT_RDWR)
        assert by_socket(take(ring, 1)) == {sink: [b"last"]}
        with pytest.raises(RingError) as refused:
            ring.recv_batch(timeout=BOUND)
        assert refused.value.errno == errno.ESHUTDOWN
        outside.sendto(b"on", other.getsockname())
        assert by_socket(take(ring, 1)) == {other: [b"on"]}


def test_a_busy_socket_leaves_turns_to_the_others(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    busy, calm = make_socket(), make_socket()
    with RecvRing([busy, calm], tier=tier, gro=False) as ring:
        for number in range(100):
            outside.sendto(b"%d" % number, busy.getsockname())
        outside.sendto(b"calm", calm.getsockname())
        packets = take_in(ring, 101, most=8)
        assert [bytes(packet) for packet in packets if packet.socket is busy] == [
            b"%d" % n for n in range(100)
        ]
        place = next(place for place, packet in enumerate(packets) if packet.socket is calm)
        assert place < 70, "before the busy one is empty"


def test_drops_of_a_socket_that_comes_back_count_once(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    sink = make_socket()
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with RecvRing([sink], tier=tier) as ring:
        for _ in range(50):
            outside.sendto(bytes(1000), sink.getsockname())
        got = 0
        while batch := ring.recv_batch(timeout=0):
            got += len(batch)
        for _ in range(2):  # the datagram behind the drops reports them
            outside.sendto(b"", sink.getsockname())
            assert len(take(ring, 1)) == 1
            ring.remove(sink)
            ring.add(sink)
        assert got + ring.stats["kernel_drops"] == 50 > got


SHORT = """
import errno, resource, socket, sys
sys.path.insert(0, sys.argv[1])
from faults import Faults
from udpring.udp import RecvRing

faults = Faults.inherited()
first, second = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
first.bind(("127.0.0.1", 0))
with RecvRing([first, second], tier=sys.argv[2]) as ring:
    faults.set("recvmmsg", errno.ENOMEM)
    second.sendto(b"x", first.getsockname())
    while not ring.recv_batch(timeout=0):
        pass
    assert faults.failed("recvmmsg") == 1
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    for _ in range(300):
        assert not ring.recv_batch(timeout=0)
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)
"""


def test_a_shortage_that_has_ended_delays_no_call(tier: str, tmp_path: Path) -> None:
    """A call that pauses sleeps, which the kernel counts."""
    faults = Faults.make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", SHORT, str(Path(__file__).resolve().parents[1]), tier],
        env=os.environ | faults.environment(build_library(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150


LOOKS = """
import errno, socket, sys, time
sys.path.insert(0, sys.argv[1])
from faults import Faults
from udpring.udp import RecvRing

faults = Faults.inherited()
sockets = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(256)]
for sock in sockets:
    sock.bind(("127.0.0.1", 0))
with RecvRing(sockets, tier=sys.argv[2]) as ring:
    faults.set("fstat", errno.EIO, times=0)  # counts only
    began = time.monotonic()
    for _ in range(100):
        assert not ring.recv_batch(timeout=0)
    print(faults.seen("fstat"), time.monotonic() - began)
"""


def test_calls_without_a_wait_look_at_few_sockets(tier: str, tmp_path: Path) -> None:
    """At one each, and at all of them every 10 ms."""
    faults = Faults.make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOOKS, str(Path(__file__).resolve().parents[1]), tier],
        env=os.environ | faults.environment(build_library(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    looks, seconds = done.stdout.split()
    assert 100 <= int(looks) <= 200 + 256 * (1 + int(float(seconds) / 0.01))


def take_in(ring: RecvRing, count: int, most: int) -> list[Packet]:
    """Receives that many in batches of at most ``most``."""
    packets: list[Packet] = []
    while len(packets) < count and (batch := ring.recv_batch(most, timeout=BOUND)):
        packets += batch
    return packets


@pytest.mark.parametrize("buffers", [1, 2, 7])
def test_sockets_share_fewer_buffers(
    tier: str, make_socket: MakeSocket, outside: socket.socket, buffers: int
) -> None:
    sinks = [make_socket() for _ in range(30)]
    with RecvRing(sinks, buffers, tier=tier) as ring:
        for place, sink in enumerate(sinks):
            send_train(outside, sink.getsockname(), b"%02d" % place * 300, 150)
        kept = take(ring, 120)  # copies, beyond half of the buffers
        assert {sink: b"".join(each) for sink, each in by_socket(kept).items()} == {
            sink: b"%02d" % place * 300 for place, sink in enumerate(sinks)
        }


def test_icmp_errors_of_one_socket_stop_none(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    refused, other = make_socket(), make_socket()
    with make_socket() as gone:
        refused.connect(gone.getsockname())
    with RecvRing([refused, other], tier=tier) as ring:
        refused.send(b"into the void")
        outside.sendto(b"on", other.getsockname())
        assert by_socket(take(ring, 1)) == {other: [b"on"]}
        while ring.stats["icmp_errors"] == 0:
            assert not ring.recv_batch(timeout=0.05)
        assert refused in ring.sockets


@pytest.mark.parametrize("wrong", ["twice", "duplicate", "family", "stream", "closed", "one", "absent"])
def test_wrong_sockets_are_refused(
    tier: str, make_socket: MakeSocket, outside: socket.socket, wrong: str
) -> None:
    sink = make_socket()
    with RecvRing([sink], tier=tier) as ring:
        if wrong == "twice":
            with pytest.raises(RingError, match="already") as refused:
                ring.add(sink)
            assert refused.value.errno == errno.EEXIST
        elif wrong == "duplicate":  # two descriptors of one socket: whoever comes first has the datagram
            with sink.dup() as duplicate:
                ring.add(duplicate)
                outside.sendto(b"once", sink.getsockname())
                assert take(ring, 1)[0].socket in (sink, duplicate)
                ring.remove(duplicate)
        elif wrong == "family":
            with pytest.raises(ValueError, match="family"):
                ring.add(make_socket(socket.AF_INET6))
        elif wrong == "stream":
            with socket.socket() as stream, pytest.raises(RingError):
                ring.add(stream)
        elif wrong == "closed":
            other = make_socket()
            other.close()
            with pytest.raises(RingError) as refused:
                ring.add(other)
            assert refused.value.errno == errno.EBADF
        elif wrong == "one":
            with RecvRing(make_socket(), tier=tier) as alone, pytest.raises(RingError, match="one socket"):
                alone.add(sink)
        else:
            with pytest.raises(ValueError, match="does not receive"):
                ring.remove(make_socket())
        outside.sendto(b"still here", sink.getsockname())
        assert by_socket(take(ring, 1)) == {sink: [b"still here"]}


def test_only_the_owner_adds_and_removes(tier: str, make_socket: MakeSocket, outside: socket.socket) -> None:
    sink, other = make_socket(), make_socket()
    ring = RecvRing([sink], tier=tier)
    caught: list[BaseException] = []

    def intrude() -> None:
        for call in (lambda: ring.add(other), lambda: ring.remove(sink)):
            try:
                call()
            except WrongThreadError as error:
                caught.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert len(caught) == 2
    outside.sendto(b"x", sink.getsockname())
    assert by_socket(take(ring, 1)) == {sink: [b"x"]}
    ring.close()
    for call in (lambda: ring.add(other), lambda: ring.remove(sink)):
        with pytest.raises(ClosedError):
            call()


def test_close_restores_the_options_of_all(tier: str, make_socket: MakeSocket) -> None:
    SOL_UDP, UDP_GRO = 17, 104
    sinks = [make_socket() for _ in range(3)]
    with RecvRing(sinks, tier=tier) as ring:
        assert ring.gro
        ring.remove(sinks[0])
        assert [sink.getsockopt(SOL_UDP, UDP_GRO) for sink in sinks] == [0, 1, 1]
    assert [sink.getsockopt(SOL_UDP, UDP_GRO) for sink in sinks] == [0, 0, 0]


def test_the_descriptor_is_readable_for_any_socket(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    sinks = [make_socket() for _ in range(5)]
    with RecvRing(sinks[:4], tier=tier) as ring:
        poll = select.poll()
        poll.register(ring.fileno(), select.POLLIN)
        assert not poll.poll(0)
        ring.add(sinks[4])
        for sink in (*sinks, *sinks):
            outside.sendto(b"1", sink.getsockname())
            outside.sendto(b"2", sink.getsockname())
            assert poll.poll(BOUND * 1000)
            assert [bytes(packet) for packet in ring.recv_batch(1, timeout=0)] == [b"1"]
            assert poll.poll(BOUND * 1000), "one is left"
            assert [bytes(packet) for packet in take(ring, 1)] == [b"2"]
            assert not ring.recv_batch(timeout=0)
            assert not poll.poll(0)


def test_a_task_waits_for_all_of_them(tier: str, make_socket: MakeSocket, outside: socket.socket) -> None:
    sinks = [make_socket() for _ in range(8)]

    async def main() -> None:
        with RecvRing(sinks, tier=tier) as ring:
            for sink in sinks:
                waiting = asyncio.ensure_future(ring.recv_batch_async(timeout=BOUND))
                await asyncio.sleep(0)
                outside.sendto(b"x", sink.getsockname())
                assert (await waiting).sockets == [sink]

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_leaves_the_ring_of_its_parent(
    tier: str, make_socket: MakeSocket, outside: socket.socket
) -> None:
    sink = make_socket()
    with RecvRing([sink], tier=tier) as ring:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                ring.remove(sink)
            except WrongThreadError:
                ring.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert ring.gro, "the child has not switched it off"
        outside.sendto(b"x", sink.getsockname())
        assert by_socket(take(ring, 1)) == {sink: [b"x"]}


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_in_any_order_of_changes(tier: str, make_socket: MakeSocket, seed: int) -> None:
    chance = random.Random(seed)
    inside, idle = [make_socket() for _ in range(6)], [make_socket() for _ in range(6)]
    waiting: Counter[socket.socket] = Counter()  # in the sockets, fetched by nobody
    with RecvRing(inside, 8, tier=tier) as ring, socket.socket(type=socket.SOCK_DGRAM) as source:
        sent = received = dropped = 0
        for _ in range(300):
            action = chance.random()
            if action < 0.5:
                sink = chance.choice(inside + idle)
                size, count = chance.choice([20, 700]), chance.randrange(1, 9)
                send_train(source, sink.getsockname(), b"%08d" % sent + bytes(size * count - 8), size)
                sent += count
                waiting[sink] += count
            elif action < 0.8:
                for packet in ring.recv_batch(chance.choice([1, 5, 256]), timeout=0):
                    assert packet.socket in inside
                    waiting[packet.socket] -= 1
                    received += 1
            elif action < 0.9 and inside:
                sink = inside.pop(chance.randrange(len(inside)))
                before = ring.stats["removed"]
                ring.remove(sink)
                dropped += ring.stats["removed"] - before
                waiting[sink] -= ring.stats["removed"] - before
                idle.append(sink)
            elif idle:
                sink = idle.pop(chance.randrange(len(idle)))
                ring.add(sink)
                inside.append(sink)
        for packet in take(ring, sum(waiting[sink] for sink in inside)):
            waiting[packet.socket] -= 1
            received += 1
        assert not ring.recv_batch(timeout=0)
        assert [waiting[sink] for sink in inside] == [0] * len(inside)
        assert received + dropped + sum(waiting[sink] for sink in idle) == sent
        assert ring.stats["removed"] == dropped


def test_a_refused_socket_is_not_kept(tier: str, make_socket: MakeSocket) -> None:
    with RecvRing([make_socket()], tier=tier) as ring:
        refused = socket.socket(type=socket.SOCK_DGRAM)
        refused.close()
        left = weakref.ref(refused)
        with pytest.raises(RingError):
            ring.add(refused)
        del refused
        gc.collect()
        assert left() is None
