"""Each operation against the plain system call: timeouts, polls, files, messages, other rings."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring.uring import Completion, Flag, Ring

IP_PKTINFO = 8  # linux/in.h; the socket module names it from Python 3.14 on


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(32) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost) == (0, 0)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


def reap(ring: Ring, count: int = 1) -> list[Completion]:
    found: list[Completion] = []
    end = time.monotonic() + 10
    while len(found) < count and time.monotonic() < end:
        found += ring.reap(1, 1)
    assert len(found) == count
    return found


def results(ring: Ring, *tickets: int) -> list[int]:
    done = {completion.ticket: completion.result for completion in reap(ring, len(tickets))}
    return [done[ticket] for ticket in tickets]


# -- times --


def test_time_outs_end_in_order_of_time(ring: Ring) -> None:
    late, soon = ring.timeout(0.06), ring.timeout(0.02)
    absolute = ring.timeout(time.monotonic() + 0.04, absolute=True)
    begin = time.monotonic()
    done = reap(ring, 3)
    assert [completion.ticket for completion in done] == [soon, absolute, late]
    assert {completion.result for completion in done} == {-errno.ETIME}
    assert time.monotonic() - begin >= 0.05


def test_a_time_out_may_count_completions_instead(ring: Ring) -> None:
    ticket = ring.timeout(60, count=2)
    others = [ring.nop(), ring.nop()]
    assert results(ring, ticket, *others) == [0, 0, 0]


def test_expired_timer_is_no_failure(ring: Ring, pipe: tuple[int, int]) -> None:
    """Nor is one that cancelled an operation by a link. A removed timer is a failure."""
    alone = ring.timeout(0.001)
    read = ring.read(pipe[0], 1, flags=Flag.LINK)
    linked = ring.link_timeout(0.001)
    removed = ring.timeout(100)
    done = {each.ticket: each for each in reap(ring, 3)}
    for ticket in (alone, linked):
        assert (done[ticket].result, done[ticket].expired, done[ticket].check()) == (-errno.ETIME, True, 0)
    with pytest.raises(OSError, match="cancel"):
        done[read].check()
    ring.timeout_remove(removed)
    ended = {each.ticket: each for each in reap(ring, 2)}
    with pytest.raises(OSError, match="cancel"):
        ended[removed].check()
    ring.nop(result=-errno.ETIME)
    (other,) = reap(ring)
    with pytest.raises(OSError, match="Timer expired"):
        other.check()


def test_a_time_out_can_be_removed(ring: Ring) -> None:
    ticket = ring.timeout(60)
    assert results(ring, ring.timeout_remove(ticket), ticket) == [0, -errno.ECANCELED]
    assert results(ring, ring.timeout_remove(ticket)) == [-errno.ENOENT]


def test_a_time_out_repeats(ring: Ring) -> None:
    ticket = ring.timeout(0.005, count=3, multishot=True)
    done = reap(ring, 3)
    assert {completion.ticket for completion in done} == {ticket}
    assert [completion.more for completion in done] == [True, True, False]
    assert ring.info.in_flight == 0


def test_a_time_out_need_not_break_its_chain(ring: Ring) -> None:
    assert results(ring, ring.timeout(0.01, flags=Flag.LINK), ring.nop()) == [-errno.ETIME, -errno.ECANCELED]
    assert results(ring, ring.timeout(0.01, success=True, flags=Flag.LINK), ring.nop()) == [-errno.ETIME, 0]


def test_a_time_beyond_what_there_is(ring: Ring) -> None:
    with pytest.raises(ValueError, match="time"):
        ring.timeout(-1)
    ticket = ring.timeout(2**33)
    assert results(ring, ring.timeout_remove(ticket), ticket) == [0, -errno.ECANCELED]


# -- polls --


def test_poll_reports_what_is_ready(ring: Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    assert results(ring, ring.poll_add(writer, select.POLLOUT)) == [select.POLLOUT]
    ticket = ring.poll_add(reader)
    assert ring.reap(1, 0) == []
    os.write(writer, b"x")
    assert results(ring, ticket) == [select.POLLIN]


def test_a_poll_goes_on(ring: Ring, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    ticket = ring.poll_add(reader, multishot=True)
    for _ in range(3):
        os.write(writer, b"x")
        (done,) = reap(ring)
        assert (done.ticket, done.more) == (ticket, True)
        assert done.result & select.POLLIN
        os.read(reader, 10)
    assert results(ring, ring.poll_remove(ticket), ticket) == [0, -errno.ECANCELED]
    assert results(ring, ring.poll_remove(ticket)) == [-errno.ENOENT]


# -- files --


def test_reads_and_writes_at_offsets(ring: Ring, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        assert results(ring, ring.write(file, b"hello world", offset=0)) == [11]
        assert results(ring, ring.write(file, memoryview(b"W"), offset=6)) == [1]
        ring.read(file, 100, offset=6)
        assert reap(ring)[0].data == b"World"
        ring.read(file, 100, offset=1000)
        (done,) = reap(ring)
        assert (done.result, done.data) == (0, b"")


def test_reads_and_writes_at_the_current_position(ring: Ring, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        for word in (b"one ", b"two"):
            assert results(ring, ring.write(file, word)) == [len(word)]
        file.seek(1)
        ring.read(file, 100)
        assert reap(ring)[0].data == b"ne two"


def test_payloads_are_copied_when_queued(ring: Ring, pipe: tuple[int, int]) -> None:
    """Behaviour 9: the caller may change or drop its bytes before the operation starts."""
    reader, writer = pipe
    payload = bytearray(b"before")
    ring.write(writer, payload)
    payload[:] = b"after!"
    payload.extend(b"resized: nothing of it is held")
    del payload
    assert results_of(ring) == [6]
    assert os.read(reader, 100) == b"before"


def results_of(ring: Ring) -> list[int]:
    return [completion.result for completion in reap(ring)]


def test_an_empty_payload(ring: Ring, pipe: tuple[int, int]) -> None:
    assert results(ring, ring.write(pipe[1], b"")) == [0]
    assert results(ring, ring.read(pipe[0], 0)) == [0]


def test_a_big_payload_is_whole(ring: Ring, tmp_path: Path) -> None:
    payload = os.urandom(3 * 2**20)
    with (tmp_path / "file").open("w+b") as file:
        assert results(ring, ring.write(file, payload, offset=0)) == [len(payload)]
        ring.read(file, len(payload) + 10, offset=0)
        assert reap(ring)[0].data == payload


# -- messages --


def udp(family: int = socket.AF_INET, host: str = "127.0.0.1") -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((host, 0))
    return made


def test_a_datagram_and_where_it_came_from(ring: Ring) -> None:
    with udp() as one, udp() as two:
        received = ring.recvmsg(two, 100)
        sent = ring.sendmsg(one, b"payload", two.getsockname())
        done = {completion.ticket: completion for completion in reap(ring, 2)}
        assert done[sent].result == 7
        assert (done[received].data, done[received].address) == (b"payload", one.getsockname())
        assert (done[received].control, done[received].message_flags) == ((), 0)


def test_ipv6_and_its_control_messages(ring: Ring) -> None:
    with udp(socket.AF_INET6, "::1") as one, udp(socket.AF_INET6, "::1") as two:
        two.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        two.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        received = ring.recvmsg(two, 100, control_length=256)
        ring.sendmsg(
            one,
            b"x",
            two.getsockname(),
            control=[(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("@i", 0x2E))],
        )
        done = {completion.ticket: completion for completion in reap(ring, 2)}[received]
        assert done.address == one.getsockname()
        control = {kind: data for level, kind, data in done.control if level == socket.IPPROTO_IPV6}
        assert control[socket.IPV6_PKTINFO][:16] == socket.inet_pton(socket.AF_INET6, "::1")
        assert struct.unpack("@i", control[socket.IPV6_TCLASS]) == (0x2E,)


def test_truncation_of_data_and_control_is_flagged(ring: Ring) -> None:
    """B22: the flags are the message's, not the completion's."""
    with udp() as one, udp() as two:
        two.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        one.sendto(b"0123456789", two.getsockname())
        ring.recvmsg(two, 4, control_length=8)
        (done,) = reap(ring)
        assert (done.result, done.data) == (4, b"0123")
        assert done.message_flags & socket.MSG_TRUNC
        assert done.message_flags & socket.MSG_CTRUNC
        one.sendto(b"0123456789", two.getsockname())
        ring.recvmsg(two, 4, message_flags=socket.MSG_TRUNC)
        (done,) = reap(ring)
        assert (done.result, done.data) == (10, b"0123")


def test_an_empty_datagram_is_one(ring: Ring) -> None:
    with udp() as one, udp() as two:
        ring.recvmsg(two, 10)
        ring.sendmsg(one, b"", two.getsockname())
        done = reap(ring, 2)
        assert [completion.result for completion in done] == [0, 0]
        assert one.getsockname() in [completion.address for completion in done]


def test_sends_fail_one_by_one(ring: Ring) -> None:
    """Behaviour 13: each operation of a batch has a result. One that is too long hides no other."""
    with udp() as one, udp() as two:
        good = [ring.sendmsg(one, bytes([number]), two.getsockname()) for number in range(5)]
        long = ring.sendmsg(one, bytes(70000), two.getsockname())
        good += [ring.sendmsg(one, bytes([number]), two.getsockname()) for number in range(5, 10)]
        assert results(ring, *good, long) == [1] * 10 + [-errno.EMSGSIZE]
        assert [two.recv(10) for _ in range(10)] == [bytes([number]) for number in range(10)]


def test_refused_port_is_reported_and_receiving_continues(ring: Ring) -> None:
    with udp() as one, udp() as gone:
        address = gone.getsockname()
        gone.close()
        one.connect(address)
        received = ring.recvmsg(one, 10)
        ring.submit()
        one.send(b"x")
        assert results(ring, received) == [-errno.ECONNREFUSED]
        with udp() as two:
            one.connect(two.getsockname())
            received = ring.recvmsg(one, 10)
            ring.submit()
            two.sendto(b"y", one.getsockname())
            assert results(ring, received) == [1]


def test_many_receives_take_each_a_datagram(ring: Ring) -> None:
    with udp() as one, udp() as two:
        tickets = [ring.recvmsg(two, 10) for _ in range(64)]
        ring.submit()
        for number in range(64):
            one.sendto(bytes([number]), two.getsockname())
        done = reap(ring, 64)
        assert sorted(completion.ticket for completion in done) == sorted(tickets)
        assert sorted(completion.data for completion in done) == [bytes([number]) for number in range(64)]


def test_unix_sockets_with_names(ring: Ring, tmp_path: Path) -> None:
    one, two = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    with one, two:
        one.bind(str(tmp_path / "one"))
        two.bind(str(tmp_path / "two"))
        received = ring.recvmsg(two, 10)
        ring.sendmsg(one, b"x", str(tmp_path / "two"))
        done = {completion.ticket: completion for completion in reap(ring, 2)}[received]
        assert (done.data, done.address) == (b"x", str(tmp_path / "one"))


def test_abstract_name_reaches_its_socket(ring: Ring) -> None:
    """Abstract names are their bytes (unix(7)): one more NUL is the name of another socket."""
    name = b"\0udpring-%d" % os.getpid()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(name)
        assert results(ring, ring.sendmsg(sender, b"hello", name)) == [5]
        assert receiver.recv(10) == b"hello"


def test_send_to_an_address_with_a_zone(ring: Ring) -> None:
    """The zone may be a name or a number."""
    loopback = socket.if_nametoindex("lo")
    with udp(socket.AF_INET6, "::1") as receiver, udp(socket.AF_INET6, "::1") as sender:
        port = receiver.getsockname()[1]
        for host in ("::1%lo", f"::1%{loopback}"):
            assert results(ring, ring.sendmsg(sender, b"zone", (host, port))) == [4]
            assert receiver.recv(10) == b"zone"


def test_sends_on_a_full_socket_keep_their_bytes(ring: Ring) -> None:
    """Sends that wait for room send the original bytes, even if the caller dropped them long ago."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, two:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        tickets = [ring.sendmsg(one, bytes([number]) * 1000) for number in range(64)]
        ring.submit()
        assert ring.info.in_flight > 0
        got = [two.recv(2000)]
        done: list[int] = []
        while len(done) < 64:
            done += [completion.ticket for completion in ring.reap(1, 0.01)]
            with contextlib.suppress(BlockingIOError):
                got.append(two.recv(2000, socket.MSG_DONTWAIT))
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(two.recv(2000, socket.MSG_DONTWAIT))
        assert sorted(done) == sorted(tickets)
        assert sorted(got) == [bytes([number]) * 1000 for number in range(64)]


# -- cancelling --


def test_cancel_one(ring: Ring, pipe: tuple[int, int]) -> None:
    ticket = ring.read(pipe[0], 10)
    assert results(ring, ring.cancel(ticket), ticket) == [0, -errno.ECANCELED]
    assert results(ring, ring.cancel(ticket)) == [-errno.ENOENT]


def test_cancel_all_of_a_file_and_all_of_all(ring: Ring, pipe: tuple[int, int]) -> None:
    reader, _ = pipe
    reads = [ring.read(reader, 10) for _ in range(5)]
    other = ring.timeout(60)
    ring.submit()
    done = results(ring, ring.cancel_file(reader), *reads)
    assert done == [5] + [-errno.ECANCELED] * 5
    reads = [ring.read(reader, 10) for _ in range(3)]
    assert results(ring, ring.cancel_all(), other, *reads) == [4] + [-errno.ECANCELED] * 4
    assert results(ring, ring.cancel_all())[0] in (0, -errno.ENOENT)


def test_cancel_against_a_worker_thread(ring: Ring, pipe: tuple[int, int]) -> None:
    """The result is 0, -EALREADY or -ENOENT, and the operation itself ends exactly once.

    -EALREADY: the thread was signalled. A thread that was not yet asleep misses the signal and gets another.
    """
    for _ in range(50):
        ticket = ring.read(pipe[0], 10, flags=Flag.ASYNC)
        ring.submit()
        cancels: set[int] = set()
        ends: list[int] = []
        deadline = time.monotonic() + 10
        while (not ends or cancels) and time.monotonic() < deadline:
            if not ends:
                cancels.add(ring.cancel(ticket))
            for completion in ring.reap(1, 0.1):
                if completion.ticket == ticket:
                    ends.append(completion.result)
                else:
                    cancels.remove(completion.ticket)
                    assert completion.result in (0, -errno.EALREADY, -errno.ENOENT)
        assert not cancels
        assert len(ends) == 1
        assert ends[0] in (-errno.ECANCELED, -errno.EINTR)


def test_cancel_races_completion(ring: Ring, pipe: tuple[int, int]) -> None:
    """Each operation ends exactly once, whether the cancel or the completion is first."""
    reader, writer = pipe
    for turn in range(300):
        ticket = ring.read(reader, 1)
        ring.submit()
        if turn % 2:
            os.write(writer, b"x")
        request = ring.cancel(ticket)
        if not turn % 2:
            os.write(writer, b"x")
        cancelled, result = results(ring, request, ticket)
        assert (cancelled, result) in {
            (0, -errno.ECANCELED),
            (-errno.ENOENT, 1),
            (-errno.EALREADY, 1),
            (0, 1),
        }
        if result != 1:
            os.read(reader, 1)
    assert ring.info.in_flight == ring.info.busy_slots == 0


# -- other rings --


def test_a_ring_sends_to_itself(ring: Ring) -> None:
    ticket = ring.msg_ring(ring, 2**56 - 1, result=-5)
    done = reap(ring, 2)
    assert {(completion.ticket, completion.message, completion.result) for completion in done} == {
        (ticket, None, 0),
        (0, 2**56 - 1, -5),
    }
    assert ring.info.in_flight == 0


def test_a_ring_wakes_another_thread(ring: Ring) -> None:
    got: list[list[Completion]] = []
    opened = threading.Event()
    target: list[Ring] = []

    def wait() -> None:
        with Ring(8) as mine:
            target.append(mine)
            opened.set()
            got.append(mine.reap(1, 10))

    thread = threading.Thread(target=wait)
    thread.start()
    assert opened.wait(10)
    assert results(ring, ring.msg_ring(target[0], 7, result=9)) == [0]
    thread.join(10)
    assert [(done.message, done.result) for done in got[0]] == [(7, 9)]


def test_messages_to_a_full_ring_are_kept(ring: Ring) -> None:
    """More messages arrive than the target's queue holds."""
    with Ring(8, cq_entries=8) as target:
        for number in range(100):
            ring.msg_ring(target, number)
            (done,) = reap(ring)
            assert done.result == 0
        assert [done.message for done in reap(target, 100)] == list(range(100))


def test_messages_to_what_is_no_ring(ring: Ring, pipe: tuple[int, int]) -> None:
    assert results(ring, ring.msg_ring(pipe[0], 1)) == [-errno.EBADFD]


# -- registered files and eventfd --


def test_registered_files(ring: Ring) -> None:
    reader, writer = os.pipe()
    ring.register_files(4)
    assert results(ring, ring.write(0, b"x", flags=Flag.FIXED_FILE)) == [-errno.EBADF]
    assert ring.update_files(1, [writer, reader]) == 2
    os.close(writer)
    os.close(reader)  # the ring's own references keep the pipe
    assert results(ring, ring.write(1, b"word", flags=Flag.FIXED_FILE)) == [4]
    ring.read(2, 10, flags=Flag.FIXED_FILE)
    assert reap(ring)[0].data == b"word"
    waiting = ring.read(2, 10, flags=Flag.FIXED_FILE)
    ring.submit()
    assert ring.update_files(2, [None]) == 1  # the operation in flight keeps the old file
    assert results(ring, ring.read(2, 10, flags=Flag.FIXED_FILE)) == [-errno.EBADF]
    assert results(ring, ring.write(1, b"late", flags=Flag.FIXED_FILE), waiting) == [4, 4]
    ring.unregister_files()
    assert results(ring, ring.write(1, b"x", flags=Flag.FIXED_FILE)) == [-errno.EBADF]


def test_an_eventfd_counts(ring: Ring) -> None:
    counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        ring.register_eventfd(counter)
        ring.nop()
        ring.submit()
        assert select.select([counter], [], [], 30)[0] == [counter]
        assert os.eventfd_read(counter) >= 1
        assert len(ring.reap(1, 30)) == 1
        ring.register_eventfd(None)
        ring.nop()
        assert len(ring.reap(1, 30)) == 1
        with pytest.raises(BlockingIOError):
            os.eventfd_read(counter)
    finally:
        os.close(counter)
