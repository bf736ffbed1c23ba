"""Net: connections whose accepting and receiving stay armed, on io_uring and on epoll."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import resource
import signal
import socket
import struct
import threading
import time
import warnings
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from udpring.errors import ClosedError, RingError, WrongThreadError
from udpring.uring import Net, Turn, graveyard

from .nets import (
    BACKENDS,
    FOUND,
    PATIENCE,
    SOCKET_BYTES,
    accepted,
    connected,
    echo,
    noise,
    pair,
    received,
    serving,
    small_listener,
    take_until,
)
from .reactors import descriptors


@pytest.fixture(params=FOUND)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def reset(sock: socket.socket) -> None:
    """Closes with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_many_connections_get_their_own_bytes_back(options: dict[str, Any]) -> None:
    net = Net(**options)
    address = net.listen("127.0.0.1", 0)

    def talk(number: int) -> bool:
        chance = random.Random(number)
        with connected(address) as sock:
            for _ in range(20):
                data = chance.randbytes(chance.choice([1, 512, 5000, 40000]))
                sock.sendall(data)
                assert received(sock, len(data)) == data
        return True

    before = descriptors()
    with serving(net, echo), ThreadPoolExecutor(16) as pool:
        assert all(pool.map(talk, range(48)))
        assert net.backend == options.get("backend", "epoll")
        assert bool(net.reason) == (net.backend == "epoll" or "backend" in options)
    assert not descriptors() - before


def test_slow_reader_holds_the_sender(options: dict[str, Any]) -> None:
    payload = noise(24 << 20)  # more than the buffers on the way hold
    net = Net(**options)
    listener = small_listener()
    net.listen_on(listener)
    with serving(net, echo), connected(listener.getsockname()) as sock:
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, buffer, SOCKET_BYTES)
        sent = threading.Event()
        sender = threading.Thread(target=lambda: (sock.sendall(payload), sent.set()))
        sender.start()
        # Nothing is read, so the sender must stop when the buffers on the way are full.
        assert not sent.wait(0.2)
        assert net.info.queued_bytes < 65536 + 128 * 16384 + 1
        assert received(sock, len(payload)) == payload
        sender.join(PATIENCE)
        assert net.info.short_sends > 0 or not options.get("known_ends", True)
        while net.info.queued_bytes:  # of the last send, which the next turn finds done
            net.wake()


def test_turn_reports_opened_data_ended_and_closed(options: dict[str, Any]) -> None:
    with Net(**options) as net:
        address = net.listen("127.0.0.1", 0)
        with connected(address) as sock:
            number = accepted(net)
            sock.sendall(b"last words")
            turn = take_until(net, lambda turn: turn.count)
            assert list(turn.items()) == [(number, b"last words")]
            assert (turn.ids[0], turn.lengths[0], turn.data(0)) == (number, 10, b"last words")
            with pytest.raises(IndexError):
                turn.data(1)
            sock.shutdown(socket.SHUT_WR)
            assert take_until(net, lambda turn: turn.ended).ended == [number]
            assert take_until(net, lambda turn: turn.closed).closed == [(number, 0)]
            assert sock.recv(1) == b""
        assert (net.info.opened, net.info.closed, net.info.connections) == (1, 1, 0)


def test_last_words_are_answered_before_the_close(options: dict[str, Any]) -> None:
    """Data and the end of the stream arrive in one turn."""
    with Net(**options) as net, pair(net) as (number, peer):
        peer.sendall(b"question")
        peer.shutdown(socket.SHUT_WR)
        ended = False
        while not ended:
            turn = net.turn(30)
            assert turn.count or turn.ended
            for row in range(turn.count):
                net.send(turn.ids[row], turn.data(row))
            ended = bool(turn.ended)
        assert take_until(net, lambda turn: turn.closed).closed == [(number, 0)]
        assert received(peer, 100) == b"question"


def test_half_open_connection_still_sends(options: dict[str, Any]) -> None:
    with Net(**options, half_open=True) as net, pair(net) as (number, peer):
        peer.sendall(b"question")
        peer.shutdown(socket.SHUT_WR)
        take_until(net, lambda turn: turn.ended)
        net.send(number, b"answer")
        assert net.shutdown(number)
        net.turn(0)
        assert received(peer, 100) == b"answer"
        with pytest.raises(RingError) as raised:
            net.send(number, b"late")
        assert raised.value.errno == errno.EPIPE
        assert net.close_connection(number)
        assert take_until(net, lambda turn: turn.closed).closed == [(number, 0)]


def test_close_sends_the_queue_first(options: dict[str, Any]) -> None:
    payload = noise(4 << 20)
    with Net(**options) as net, pair(net) as (number, peer):
        assert net.send(number, payload) == len(payload)
        assert net.close_connection(number)
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(received, peer, len(payload) + 1)
            assert take_until(net, lambda turn: turn.closed).closed == [(number, 0)]
            assert whole.result(PATIENCE) == payload


def test_abort_resets_the_connection(options: dict[str, Any]) -> None:
    with Net(**options) as net, pair(net) as (number, peer):
        net.send(number, noise(8 << 20))
        net.turn(0)
        assert net.abort(number)
        assert take_until(net, lambda turn: turn.closed).closed == [(number, 0)]
        with pytest.raises(ConnectionResetError):
            received(peer, 16 << 20)
        assert net.info.queued_bytes == 0
        assert not net.abort(number)


def test_reset_by_the_peer_is_reported(options: dict[str, Any]) -> None:
    with Net(**options) as net, pair(net) as (number, peer):
        net.turn(0)
        reset(peer)
        assert take_until(net, lambda turn: turn.closed).closed == [(number, errno.ECONNRESET)]
        assert net.info.failed == 1


def test_peer_that_leaves_amid_a_send_frees_the_queue(options: dict[str, Any]) -> None:
    with Net(**options) as net, pair(net) as (number, peer):
        net.send(number, noise(8 << 20))
        net.turn(0)
        assert peer.recv(1000)
        reset(peer)
        ((closed, code),) = take_until(net, lambda turn: turn.closed).closed
        assert closed == number
        assert code in (errno.ECONNRESET, errno.EPIPE)
        assert net.info.queued_bytes == 0


def test_few_buffers_serve_many_connections(options: dict[str, Any]) -> None:
    net = Net(**options, buffers=2, buffer_bytes=100)
    address = net.listen("127.0.0.1", 0)
    with serving(net, echo):
        socks = [connected(address) for _ in range(30)]
        data = [noise(3000)[n : n + 2900] for n in range(30)]
        for sock, each in zip(socks, data, strict=True):
            sock.sendall(each)
        for sock, each in zip(socks, data, strict=True):
            assert received(sock, len(each)) == each
            sock.close()
        assert net.info.starved > 0


def test_listener_that_could_not_be_armed_is_tried_again(options: dict[str, Any]) -> None:
    with (
        Net(**options) as net,
        socket.create_server(("127.0.0.1", 0)) as server,
        Path("/dev/null").open() as file,
    ):
        listener = server.dup()
        net.listen_on(listener)
        os.dup2(file.fileno(), listener.fileno())  # nothing to accept from, or to watch
        deadline = time.monotonic() + PATIENCE
        while not net.info.shortages and time.monotonic() < deadline:
            net.turn(0.01)
        os.dup2(server.fileno(), listener.fileno())
        with connected(server.getsockname()):
            accepted(net)


def test_kept_view_keeps_its_bytes(options: dict[str, Any]) -> None:
    with Net(**options, buffers=4, buffer_bytes=64) as net, pair(net) as (_number, peer):
        peer.sendall(b"keep this")
        turn = take_until(net, lambda turn: turn.count)
        slice_of_it = turn.view(0)[5:]
        assert slice_of_it.readonly
        for _ in range(50):
            peer.sendall(bytes(64))
            take_until(net, lambda turn: turn.count)
        assert slice_of_it == b"this"
        assert net.info.claimed == 1
        del slice_of_it
        gc.collect()
        net.turn(0)
        assert net.info.claimed == 0


def test_receiving_waits_while_views_hold_all_buffers(options: dict[str, Any]) -> None:
    with Net(**options, buffers=2, buffer_bytes=64) as net, pair(net) as (_number, peer):
        views: list[memoryview] = []
        for count in (1, 2):
            peer.sendall(bytes([count]) * 64)
            turn = take_until(net, lambda turn: turn.count)
            views.append(turn.view(0))
        peer.sendall(b"third")
        assert net.turn(0.05).count == 0
        assert [bytes(view[:1]) for view in views] == [b"\1", b"\2"]
        views.clear()
        gc.collect()
        assert take_until(net, lambda turn: turn.count).data(0) == b"third"


def test_views_outlive_the_net(options: dict[str, Any]) -> None:
    with Net(**options) as net, pair(net) as (_number, peer):
        peer.sendall(b"hello")
        turn = take_until(net, lambda turn: turn.count)
        view, ids = turn.view(0), turn.ids
    del net, turn
    gc.collect()
    assert view == b"hello"
    assert len(ids) == 1


def test_thousand_connections_leave_no_descriptor(options: dict[str, Any]) -> None:
    net = Net(**options, connections=200)
    address = net.listen("127.0.0.1", 0)
    before = descriptors()
    with serving(net, echo):
        for _ in range(10):
            socks = [connected(address) for _ in range(100)]
            for sock in socks:
                sock.sendall(b"x")
            for index, sock in enumerate(socks):
                assert sock.recv(1) == b"x"
                reset(sock) if index % 2 else sock.close()
        with connected(address) as sock:
            while net.info.opened < 1001 or net.info.connections > 1:
                sock.sendall(b"y")
                assert sock.recv(1) == b"y"
        assert net.info.opened == 1001
    assert not descriptors() - before


def test_full_net_leaves_connections_in_the_backlog(options: dict[str, Any]) -> None:
    with Net(**options, connections=2) as net:
        address = net.listen("127.0.0.1", 0)
        with connected(address) as first, connected(address), connected(address) as third:
            ids: list[int] = []
            while len(ids) < 2:
                ids += [number for number, _ in net.turn(PATIENCE).opened]
            third.sendall(b"patience")
            assert not net.turn(0.05).opened
            first.close()
            take_until(net, lambda turn: turn.closed)
            late = accepted(net)
            assert late not in ids
            assert take_until(net, lambda turn: turn.count).data(0) == b"patience"
        assert net.info.refused == 0


def test_refused_connection_keeps_its_blocking_mode(options: dict[str, Any]) -> None:
    with Net(**options, connections=1) as net, pair(net), socket.socket() as spare:
        for blocking in (True, False):
            spare.setblocking(blocking)
            with pytest.raises(RingError) as raised:
                net.add(spare)
            assert raised.value.errno == errno.ENOSPC
            assert os.get_blocking(spare.fileno()) == blocking


def test_refused_listener_keeps_its_blocking_mode(options: dict[str, Any]) -> None:
    with Net(**options) as net, socket.socket() as spare:
        for _ in range(64):
            net.listen("127.0.0.1", 0)
        for blocking in (True, False):
            spare.setblocking(blocking)
            with pytest.raises(RingError) as raised:
                net.listen_on(spare)
            assert raised.value.errno == errno.ENOSPC
            assert os.get_blocking(spare.fileno()) == blocking


def test_queue_has_a_bound(options: dict[str, Any]) -> None:
    with Net(**options, high_water=1000, queue_bytes=100_000) as net, pair(net) as (number, _peer):
        assert net.send(number, bytes(90_000)) == 90_000
        with pytest.raises(RingError) as raised:
            net.send(number, bytes(10_001))
        assert raised.value.errno == errno.ENOBUFS
        assert take_until(net, lambda turn: turn.closed).closed == [(number, errno.ENOBUFS)]
        assert (net.info.overfull, net.info.queued_bytes) == (1, 0)


def test_full_queue_pauses_receiving_until_it_is_drained(options: dict[str, Any]) -> None:
    with Net(**options, high_water=100_000, low_water=10_000) as net, pair(net) as (number, peer):
        net.turn(0)
        net.send(number, noise(8 << 20))
        net.turn(0)
        peer.sendall(b"later")
        assert net.turn(0.05).count == 0
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(received, peer, 8 << 20)
            turn = take_until(net, lambda turn: turn.drained)
            assert turn.drained == [number]
            turn = turn if turn.count else take_until(net, lambda turn: turn.count)
            assert turn.data(0) == b"later"
            while not reading.done():
                net.turn(0.01)


def test_paused_connection_receives_later(options: dict[str, Any]) -> None:
    with Net(**options) as net, pair(net) as (number, peer):
        assert net.pause(number)
        peer.sendall(b"later")
        assert net.turn(0.05).count == 0
        assert net.resume(number)
        assert take_until(net, lambda turn: turn.count).data(0) == b"later"


def test_ids_of_closed_connections_stay_dead(options: dict[str, Any]) -> None:
    with Net(**options, connections=1) as net:
        ids = set()
        for _ in range(5):
            with pair(net) as (number, peer):
                peer.sendall(b"x")
                take_until(net, lambda turn: turn.count)
                for old in ids:
                    with pytest.raises(RingError) as raised:
                        net.send(old, b"x")
                    assert raised.value.errno == errno.ENOENT
                    assert not net.close_connection(old)
                ids.add(number)
                net.abort(number)
                take_until(net, lambda turn: turn.closed)
                net.turn(0)  # frees the place
        assert len(ids) == 5
        assert net.info.unsent == 10


def test_send_many_refuses_what_it_cannot_mean(options: dict[str, Any]) -> None:
    with Net(**options) as net, pair(net) as (number, peer):
        ids, starts, lengths = array("Q", [number, number]), array("Q", [0, 3]), array("I", [3, 3])
        assert net.send_many(ids, starts, lengths, b"abcdef") == 0
        net.turn(0)
        assert received(peer, 6) == b"abcdef"
        with pytest.raises(ValueError, match="columns"):
            net.send_many(ids, starts, lengths[:1], b"abcdef")
        for wrong in ([7, 0], [2**64 - 1, 0], [0, 4]):
            with pytest.raises(RingError) as raised:
                net.send_many(ids, array("Q", wrong), lengths, b"abcdef")
            assert raised.value.errno == errno.ERANGE
        assert net.info.queued_bytes == 0
        assert net.send_many(array("Q", [5, number]), starts, lengths, b"abcdef") == 1


@pytest.mark.parametrize("options", BACKENDS)  # signals come to the main thread alone
def test_wake_and_signals_end_a_wait(options: dict[str, Any]) -> None:
    with Net(**options) as net:
        timer = threading.Timer(0.05, net.wake)
        timer.start()
        assert net.turn().count == 0
        timer.join()
        seen: list[int] = []
        former = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            while not seen:
                net.turn()
        finally:
            signal.signal(signal.SIGALRM, former)
        assert net.turn(0.01).count == 0


def test_net_belongs_to_one_thread_and_process(options: dict[str, Any]) -> None:
    with Net(**options) as net, ThreadPoolExecutor(1) as pool:
        net.listen("127.0.0.1", 0)
        net.turn(0)
        for call in (lambda: net.turn(0), lambda: net.send(1, b""), net.close):
            with pytest.raises(WrongThreadError):
                pool.submit(call).result(PATIENCE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork, from Python 3.12 on
            child = os.fork()
        if not child:
            status = 1
            try:
                net.turn(0)
            except WrongThreadError:
                net.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        with connected(next(iter(net.listeners.values()))):
            accepted(net)
    with pytest.raises(ClosedError):
        net.turn(0)


def test_close_by_another_thread_after_the_owner_ended(options: dict[str, Any]) -> None:
    before = descriptors()
    net = Net(**options)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(net.open).result(PATIENCE)
        pool.submit(net.turn, 0).result(PATIENCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # on io_uring its operations were not ended
        while not net.closed:
            with contextlib.suppress(WrongThreadError):  # the kernel ends the thread a little later
                net.close()
    assert not descriptors() - before


def test_lack_of_descriptors_only_delays_accepting(options: dict[str, Any]) -> None:
    with Net(**options) as net:
        address = net.listen("127.0.0.1", 0)
        with connected(address) as sock:
            free = os.dup(sock.fileno())
            os.close(free)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            try:
                while not net.info.shortages:
                    assert not net.turn(0.01).opened
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            accepted(net)


def test_listener_stops_and_connections_live_on(options: dict[str, Any]) -> None:
    with Net(**options) as net:
        address = net.listen("127.0.0.1", 0)
        with connected(address) as sock:
            number = accepted(net)
            net.stop_listening()
            net.turn(0)
            with pytest.raises(ConnectionRefusedError):
                connected(address)
            sock.sendall(b"alive")
            assert list(take_until(net, lambda turn: turn.count).items()) == [(number, b"alive")]
        assert net.listeners == {}
        assert net.listen("127.0.0.1", 0)


def test_drain_sends_all_queues(options: dict[str, Any]) -> None:
    payload = noise(8 << 20)  # more than the buffers of both sockets hold
    with Net(**options) as net, pair(net) as (number, peer):
        net.listen("127.0.0.1", 0)
        net.send(number, payload)
        assert net.drain(0.05) == 1
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(received, peer, len(payload) + 1)
            assert net.drain(PATIENCE) == 0
            assert whole.result(PATIENCE) == payload


def test_unix_sockets_and_their_descriptors(options: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with Net(**options) as net, socket.socket(socket.AF_UNIX) as peer:
        net.listen_unix(path)
        peer.settimeout(PATIENCE)
        peer.connect(path)
        number = accepted(net)
        assert os.path.samestat(os.fstat(net.descriptor(number)), os.fstat(net.descriptor(number)))
        peer.sendall(b"x" * 1000)
        net.send_rows(take_until(net, lambda turn: turn.count))
        net.turn(0)
        assert received(peer, 1000) == b"x" * 1000


def test_nonblocking_sockets_are_served(options: dict[str, Any]) -> None:
    """io_uring returns EAGAIN for them in place of waiting."""
    with Net(**options) as net:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        net.listen_on(listener)
        near, far = socket.socketpair()
        far.setblocking(False)
        with near, connected(listener.getsockname()):
            number = net.add(far)
            accepted(net)
            near.sendall(b"x")
            assert list(take_until(net, lambda turn: turn.count).items()) == [(number, b"x")]


def test_close_drops_everything_in_flight(options: dict[str, Any]) -> None:
    before, graves = descriptors(), graveyard()
    with Net(**options) as net:
        address = net.listen("127.0.0.1", 0)
        with pair(net) as (number, _peer), connected(address):
            net.send(number, noise(8 << 20))
            net.turn(0)
            net.send(number, b"more")
            net.close()
            net.close()
    gc.collect()
    assert not descriptors() - before
    assert graveyard() == graves


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"buffers": 3},
        {"buffers": 0},
        {"buffer_bytes": 2 << 20},
        {"low_water": 2, "high_water": 1},
        {"queue_bytes": 1},
        {"backend": "poll"},
    ],
    ids=str,
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\d|backend"):
        Net(**wrong).open()


def test_random_traffic_arrives_in_order(options: dict[str, Any]) -> None:
    """Random sizes, pauses, aborts and views, against a model of each stream."""
    chance = random.Random(7)
    with Net(**options, buffers=8, buffer_bytes=512, high_water=20_000, half_open=True) as net:
        peers: dict[int, socket.socket] = {}
        owed: dict[int, bytearray] = {}  # sent by the peer, not received by the net
        replies: dict[int, bytearray] = {}  # sent by the net, not read by the peer
        views: list[tuple[memoryview, bytes]] = []

        def check(turn: Turn) -> None:
            for row in range(turn.count):
                number, data = turn.ids[row], turn.data(row)
                if number not in owed:
                    continue
                assert owed[number].startswith(data)
                del owed[number][: len(data)]
                if chance.random() < 0.1:
                    views.append((turn.view(row), data))

        for _ in range(800):
            if len(peers) < 6:
                near, far = socket.socketpair()
                near.setblocking(False)
                number = net.add(far)
                peers[number], owed[number], replies[number] = near, bytearray(), bytearray()
            number = chance.choice(list(peers))
            match chance.randrange(7):
                case 0 | 1:
                    data = chance.randbytes(chance.choice([1, 300, 3000]))
                    try:
                        owed[number] += data[: peers[number].send(data)]
                    except BlockingIOError:
                        net.resume(number)
                case 2 | 3 if len(replies[number]) < 1 << 20:
                    data = chance.randbytes(chance.choice([1, 4000, 50_000]))
                    net.send(number, data)
                    replies[number] += data
                case 4:
                    chance.choice([net.pause, net.resume])(number)
                case 5 if chance.random() < 0.1:
                    chance.choice([net.abort, net.close_connection])(number)
                    peers.pop(number).close()
                    del owed[number], replies[number]
                case _:
                    for each, sock in peers.items():
                        try:
                            data = sock.recv(100_000)
                        except BlockingIOError:
                            continue
                        assert replies[each].startswith(data)
                        del replies[each][: len(data)]
            if len(views) > 3:
                assert all(view == data for view, data in views)
                views.clear()
            check(net.turn(0))
        views.clear()
        for number in peers:
            net.resume(number)
        while any(owed.values()) or any(replies.values()):
            for each, sock in peers.items():
                if replies[each]:
                    sock.setblocking(True)
                    sock.settimeout(PATIENCE)
                    check(net.turn(0))
                    data = sock.recv(100_000)
                    assert replies[each].startswith(data)
                    del replies[each][: len(data)]
            check(net.turn(0.01))
            views.clear()
        for sock in peers.values():
            sock.close()
