"""Helper threads for datagrams to many destinations. They change nothing but the time."""

from __future__ import annotations

import contextlib
import errno
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from udpring import ClosedError, RecvRing, SendRing

from .conftest import BOUND, take

Make = Callable[..., socket.socket]


def hosts(count: int) -> list[str]:
    return [f"127.0.{n // 200}.{n % 200 + 1}" for n in range(count)]


def helping() -> int:
    """The threads of helpers in this process."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has just ended
            names.append((task / "comm").read_text())
    return names.count("udpring-send\n")


def until(condition: Callable[[], bool]) -> None:
    """Waits for an effect that the kernel makes shortly after a call returned."""
    give_up = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < give_up


def until_helped(tx: SendRing, step: Callable[[], None]) -> None:
    """Repeats a step until a helper was quick enough to take part."""
    give_up = time.monotonic() + BOUND
    while not tx.stats["helped"]:
        assert time.monotonic() < give_up, "no helper ever sent a datagram"
        step()


@pytest.fixture
def sinks(make_socket: Make) -> list[socket.socket]:
    """Socket buffers hold everything that one test sends before it reads."""
    made = [make_socket() for _ in range(40)]
    for sock in made:
        sock.settimeout(BOUND)
    return made


def test_one_to_each_of_many_destinations(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    to = [(host, sink.getsockname()[1]) for host in hosts(200)]
    payloads = [b"%d" % n * (1 + n % 5) for n in range(200)]
    rounds = 0
    with RecvRing(sink, tier=tier, buffers=256) as rx, SendRing(source, tier=tier, helpers=1) as tx:

        def step() -> None:
            nonlocal rounds
            rounds += 1
            report = tx.send_batch(payloads, to)
            assert (report.accepted, report.errors) == (200, [])
            packets = take(rx, 200)
            assert sorted((packet.local, bytes(packet)) for packet in packets) == sorted(
                zip(hosts(200), payloads, strict=True)
            )

        until_helped(tx, step)
        stats = tx.stats
        assert stats["packets"] == rounds * 200
        assert 2 * stats["submits"] <= stats["packets"]  # a call of sendmmsg for several
        assert stats["bytes"] == rounds * sum(map(len, payloads))
        assert 0 < stats["helped"] <= stats["packets"]
        assert tx.pending == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_options_reach_what_helpers_send(tier: str, make_socket: Make, family: int) -> None:
    made = [make_socket(family) for _ in range(8)]
    source = make_socket(family)
    to = [made[n % 8].getsockname()[:2] for n in range(160)]
    payloads = [b"%d" % n + b"." * (n % 3) for n in range(160)]
    ours = "127.0.0.1" if family == socket.AF_INET else "::1"
    level, name = (
        (socket.IPPROTO_IP, socket.IP_RECVTOS)
        if family == socket.AF_INET
        else (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS)
    )
    for sock in made:
        sock.setsockopt(level, name, 1)
    with SendRing(source, tier=tier, helpers=2) as tx:

        def step() -> None:
            assert tx.send_batch(payloads, to, tos=0xB8, ttl=3, source=ours).accepted == 160
            for sock in made:
                for _ in range(20):
                    _, control, _, sender = sock.recvmsg(100, 100)
                    assert control[0][2][0] == 0xB8
                    assert sender[:2] == source.getsockname()[:2]

        until_helped(tx, step)
        wrong, codes = (
            "192.0.2.1",
            {errno.EINVAL, errno.ENETUNREACH},
        )  # which one depends on a default route
        if family == socket.AF_INET6:
            wrong, codes = ("127.0.0.1", {errno.EAFNOSUPPORT})
        report = tx.send_batch(payloads, to, source=wrong)
        assert [at for at, _ in report.errors] == list(range(160))
        assert {error.errno for _, error in report.errors} <= codes


def test_each_has_its_own_error(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    to = [(host, sink.getsockname()[1]) for host in hosts(180)]
    payloads = [b"%d" % n for n in range(180)]
    for n in (3, 60, 61, 179):
        to[n] = ("255.255.255.255", 9)  # no SO_BROADCAST: EACCES
    payloads[100], payloads[101] = bytes(65508), bytes(70000)
    wrong = [(n, errno.EACCES) for n in (3, 60, 61)] + [(n, errno.EMSGSIZE) for n in (100, 101)]
    wrong.append((179, errno.EACCES))
    rounds = 0
    with RecvRing(sink, tier=tier, buffers=256) as rx, SendRing(source, tier=tier, helpers=1) as tx:

        def step() -> None:
            nonlocal rounds
            rounds += 1
            report = tx.send_batch(payloads, to)
            assert report.accepted == 174
            assert [(at, error.errno) for at, error in report.errors] == wrong
            right = [payload for n, payload in enumerate(payloads) if n not in dict(wrong)]
            assert sorted(bytes(packet) for packet in take(rx, 174)) == sorted(right)

        until_helped(tx, step)
        stats = tx.stats
        assert stats["packets"] == 174 * rounds
        assert stats["denied"] == 4 * rounds
        assert stats["too_big"] == rounds  # the other datagrams never reached the kernel


def test_without_trains_helpers_send_singles(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    to = [(host, sink.getsockname()[1]) for host in hosts(50) for _ in range(4)]
    with SendRing(source, tier=tier, gso=False, helpers=1) as tx:

        def step() -> None:
            assert tx.send_batch([b"x"] * 200, to).accepted == 200

        until_helped(tx, step)
        stats = tx.stats
        assert 2 * stats["submits"] <= stats["packets"]  # a call of sendmmsg for several
        assert stats["trains"] == 0


def test_a_batch_as_received_to_many_or_one(tier: str, make_socket: Make) -> None:
    """The batch lies at offsets of its buffers, with and without helpers."""
    source, middle, sink = make_socket(), make_socket(), make_socket(host="0.0.0.0")
    port = sink.getsockname()[1]
    payloads = [b"%d" % n for n in range(150)]
    many = [(host, port) for host in hosts(150)]
    with (
        SendRing(source, tier=tier) as first,
        RecvRing(middle, tier=tier, buffers=256) as between,
        SendRing(middle, tier=tier, helpers=2) as tx,
        RecvRing(sink, tier=tier, buffers=256) as rx,
    ):
        for to, ordered in ((many, False), (many, True), (("127.0.0.1", port), False)):
            first.send_batch(payloads, middle.getsockname())
            got: list[bytes] = []
            while len(got) < 150:
                batch = between.recv_batch(150 - len(got), timeout=BOUND)
                got += batch.payloads()
                here = to[: len(batch)] if isinstance(to, list) else to
                assert tx.send_batch(batch, here, ordered=ordered).accepted == len(batch)
            assert sorted(bytes(packet) for packet in take(rx, 150)) == sorted(got) == sorted(payloads)


def test_single_error_is_reported_from_any_thread(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    right = [(host, sink.getsockname()[1]) for host in hosts(200)]
    rounds = 0
    give_up = time.monotonic() + BOUND
    with SendRing(source, tier=tier, helpers=2) as tx:
        while tx.stats["helped"] < 3000:
            assert time.monotonic() < give_up, tx.stats
            to, at = right.copy(), rounds * 17 % 200
            to[at] = ("255.255.255.255", 9)  # no SO_BROADCAST: EACCES
            report = tx.send_batch([b"x"] * 200, to)
            rounds += 1
            assert report.accepted == 199
            assert [(n, error.errno) for n, error in report.errors] == [(at, errno.EACCES)]
        assert tx.stats["packets"] == rounds * 199
        assert tx.stats["denied"] == rounds


def test_window_begins_with_previous_destination(tier: str, make_socket: Make) -> None:
    """4096 datagrams are grouped and shared at a time. Helpers must not skip the first ones of the next
    window."""
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    to = [(host, sink.getsockname()[1]) for host in hosts(200)]
    order = [n % 199 for n in range(4095)] + [199] * 3 + [n % 199 for n in range(500)]
    with SendRing(source, tier=tier, helpers=2) as tx:
        tx.submit([b"x"] * len(order), [to[n] for n in order])
        (ticket,) = tx.reap(wait=1, timeout=BOUND)
        assert (ticket.report.accepted, ticket.report.errors) == (len(order), [])
        assert tx.stats["packets"] == len(order)
        assert tx.pending == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), destinations=st.integers(1, 40), gso=st.booleans())
def test_whatever_the_batch_all_of_it_arrives(
    tier: str, sinks: list[socket.socket], make_socket: Make, seed: int, destinations: int, gso: bool
) -> None:
    """Singles, trains, empty datagrams, one frequent destination, and tickets."""
    chosen = random.Random(seed)
    count = chosen.randrange(1, 400)
    where = [min(chosen.randrange(destinations), chosen.randrange(destinations)) for _ in range(count)]
    where = [n if where[:at].count(n) < 100 else -1 for at, n in enumerate(where)]
    where = [n for n in where if n >= 0]
    sizes = [0, 5, 60, 60, 60, 300]
    payloads = [
        (b"%d %d " % (n, at)).ljust(chosen.choice(sizes), b"x") if chosen.random() < 0.98 else b""
        for at, n in enumerate(where)
    ]
    to = [sinks[n].getsockname() for n in where]
    with SendRing(make_socket(), entries=16, tier=tier, gso=gso, helpers=chosen.randrange(1, 4)) as tx:
        if chosen.random() < 0.5:
            report = tx.send_batch(payloads, to)
        else:
            tx.submit(payloads, to)
            (ticket,) = tx.reap(wait=1, timeout=BOUND)
            report = ticket.report
        assert (report.accepted, report.errors) == (len(where), [])
    sent = defaultdict(list)
    for n, payload in zip(where, payloads, strict=True):
        sent[n].append(payload)
    for n, expected in sent.items():
        assert sorted(sinks[n].recv(1000) for _ in expected) == sorted(expected)


# On one CPU: loopback queues packets per CPU, so with two it may reorder them itself.
ORDER = """
    import os, socket, sys, time
    from udpring import SendRing
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sinks = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(20)]
    for sink in sinks:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(20)
    source = socket.socket(type=socket.SOCK_DGRAM)
    source.bind(("127.0.0.1", 0))
    order = [n * 7 % 20 for n in range(20)] * 50
    to = [sinks[n].getsockname() for n in order]
    sizes = [8, 8, 8, 30, 7, 200, 200, 200, 200, 9]
    payloads = [(b"%d" % at).ljust(sizes[at // 20 % 10], b".") for at in range(1000)]
    give_up = time.monotonic() + 40
    with SendRing(source, tier=sys.argv[1], helpers=3) as tx:
        while tx.stats["helped"] < 3000:
            assert time.monotonic() < give_up, tx.stats
            report = tx.send_batch(payloads, to)
            assert (report.accepted, report.errors) == (1000, [])
            for n, sink in enumerate(sinks):
                got = [sink.recv(1000) for _ in range(50)]
                assert got == [payload for payload, place in zip(payloads, order) if place == n]
        assert tx.stats["trains"]
    print("in order")
"""


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-X", "dev", "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout


def test_each_destination_keeps_its_order(tier: str) -> None:
    assert run(ORDER, tier) == "in order\n"


def test_what_has_no_use_for_helpers_goes_as_ever(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    port = sink.getsockname()[1]
    payloads = [b"%d" % n for n in range(200)]
    with RecvRing(sink, tier=tier, buffers=256) as rx, SendRing(source, tier=tier, helpers=2) as tx:
        for to, ordered in (
            (("127.0.0.1", port), False),
            ([("127.0.0.1", port)] * 200, False),
            ([(host, port) for host in hosts(200)], True),
        ):
            assert tx.send_batch(payloads, to, ordered=ordered).accepted == 200
            assert [bytes(packet) for packet in take(rx, 200)] == payloads
        few = [(host, port) for host in hosts(100)]
        assert tx.send_batch(payloads[:100], few).accepted == 100
        assert [bytes(packet) for packet in take(rx, 100)] == payloads[:100]
        assert tx.stats["helped"] == 0


def test_closed_socket_is_an_error_of_each(tier: str, make_socket: Make) -> None:
    source, sink = make_socket(), make_socket(host="0.0.0.0")
    to = [(host, sink.getsockname()[1]) for host in hosts(150)]
    with SendRing(source, tier=tier, helpers=1) as tx:
        assert tx.send_batch([b"x"] * 150, to).accepted == 150
        source.close()
        report = tx.send_batch([b"x"] * 150, to)
        assert [(at, error.errno) for at, error in report.errors] == [(n, errno.EBADF) for n in range(150)]


@pytest.mark.parametrize("helpers", [-1, 16, 1 << 40])
def test_a_number_that_cannot_be(make_socket: Make, helpers: int) -> None:
    with pytest.raises(ValueError, match=f"helpers must be 0 to 15: {helpers}"):
        SendRing(make_socket(), helpers=helpers)


def test_helpers_take_no_signals(make_socket: Make) -> None:
    with SendRing(make_socket(), helpers=2):
        until(lambda: helping() == 2)
        for task in Path("/proc/self/task").iterdir():
            if (task / "comm").read_text() == "udpring-send\n":
                (blocked,) = (
                    line for line in (task / "status").read_text().splitlines() if line[:7] == "SigBlk:"
                )
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1):
                    assert int(blocked[7:], 16) >> (number - 1) & 1
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGALRM}


def test_their_threads_end_with_the_ring(tier: str, make_socket: Make) -> None:
    for _ in range(20):
        with SendRing(make_socket(), tier=tier, helpers=15) as ring:
            until(lambda: helping() == 15)
        assert ring.closed
        until(lambda: not helping())
    ring = SendRing(make_socket(), tier=tier, helpers=3)
    with pytest.warns(ResourceWarning):
        del ring
    until(lambda: not helping())


def test_they_end_with_a_ring_that_another_thread_collects(tier: str, make_socket: Make) -> None:
    """The ring itself stays, because only its own thread could close it."""
    made = [SendRing(make_socket(), tier=tier, helpers=3)]

    def drop() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a recorded warning would keep the ring alive
            made.clear()

    dropping = threading.Thread(target=drop)
    dropping.start()
    dropping.join()
    until(lambda: not helping())


def test_closed_by_another_thread_between_batches(tier: str, make_socket: Make) -> None:
    """Another thread may close the ring once the owner has ended. The helpers end with it."""
    made: list[SendRing] = []
    owner = threading.Thread(target=lambda: made.append(SendRing(make_socket(), tier=tier, helpers=2)))
    owner.start()
    number = owner.native_id
    owner.join()
    until(
        lambda: not Path(f"/proc/self/task/{number}").exists()
    )  # Python drops the thread shortly before the kernel
    made[0].close()
    until(lambda: not helping())
    with pytest.raises(ClosedError):
        made[0].send_batch([b"x"] * 200, [("127.0.0.1", 9)] * 200)


FORKED = """
    import os, socket, sys, time
    from udpring import SendRing, WrongThreadError
    sink, source = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    sink.bind(("0.0.0.0", 0))
    to = [(f"127.0.0.{n + 1}", sink.getsockname()[1]) for n in range(150)]
    tx = SendRing(source, tier=sys.argv[1], helpers=2)
    assert tx.send_batch([b"x"] * 150, to).accepted == 150
    def helpers_sleep():
        states = [open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()[0]
                  for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
        return states == ["S"] * 2
    # A helper that still starts may hold a lock of the sanitiser's allocator, and the child would inherit it.
    while not helpers_sleep():
        time.sleep(0.001)
    child = os.fork()
    if not child:
        try:
            tx.send_batch([b"x"] * 150, to)
        except WrongThreadError:
            tx.close()
            with SendRing(source, tier=sys.argv[1], helpers=2) as own:
                assert own.send_batch([b"y"] * 150, to).accepted == 150
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert tx.send_batch([b"x"] * 150, to).accepted == 150
    tx.close()
    print("both")
"""

AT_EXIT = """
    import socket, sys, warnings
    from udpring import SendRing
    warnings.simplefilter("ignore", ResourceWarning)
    source = socket.socket(type=socket.SOCK_DGRAM)
    source.bind(("127.0.0.1", 0))
    tx = SendRing(source, tier=sys.argv[1], helpers=4)
    tx.send_batch([b"x"] * 200, [("127.0.0.%d" % (n + 1), 9) for n in range(200)])
    print("at its end")
"""

INTERRUPTED = """
    import os, signal, socket, sys, threading, time
    from udpring import SendRing
    source = socket.socket(type=socket.SOCK_DGRAM)
    source.bind(("127.0.0.1", 0))
    sink = socket.socket(type=socket.SOCK_DGRAM)
    sink.bind(("0.0.0.0", 0))
    to = [("127.0.0.%d" % (n + 1), sink.getsockname()[1]) for n in range(200)] * 20
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    caught = 0
    with SendRing(source, tier=sys.argv[1], helpers=2) as tx:
        while caught < 20:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                while True:
                    assert not tx.send_batch([b"x"] * len(to), to).errors
            except KeyboardInterrupt:
                caught += 1
                assert tx.pending == 0
        assert tx.send_batch([b"x"] * len(to), to).accepted == len(to)
    print("went on")
"""


def test_forked_child_has_no_helpers(tier: str) -> None:
    """The parent keeps its helpers."""
    assert run(FORKED, tier) == "both\n"


def test_the_interpreter_ends_with_helpers(tier: str) -> None:
    assert run(AT_EXIT, tier) == "at its end\n"


def test_signals_land_on_the_caller(tier: str) -> None:
    assert run(INTERRUPTED, tier) == "went on\n"


REFUSED = """
    import os, resource, socket, sys
    from udpring import RingError, SendRing
    source = socket.socket(type=socket.SOCK_DGRAM)
    if os.getuid() == 0:
        os.setuid(65534)  # root is not held to it
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    before = len(os.listdir("/proc/self/task"))
    try:
        SendRing(source, tier="mmsg", helpers=3)
    except RingError as error:
        print(error)
    assert len(os.listdir("/proc/self/task")) == before
"""


def test_refused_thread_is_an_error_with_reason() -> None:
    assert "helper 1 of 3 of a send ring: Resource temporarily unavailable: ask for fewer" in run(REFUSED)
