"""The weight of workers (worker_weight, session_weight, tunnel/worker/weight.c)."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_internals import ffi, lib
from packet_nodes import pair, run, until
from seccomp import run_python
from time_slices import attributes, worker_threads

from udpring.errors import ConfigError, RingError
from udpring.tunnel import worker_weight
from udpring.tunnel.capabilities import SYS_NICE, held
from udpring.tunnel.worker_weight import WorkerWeight, nice_asked

SECOND = 10**9
TENTH = SECOND // 10
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
may_raise = pytest.mark.skipif(not held() >> SYS_NICE & 1, reason="a nice value below 0 takes CAP_SYS_NICE")
sessions = pytest.mark.skipif(
    not AUTOGROUP.exists() or AUTOGROUP.read_text().strip() != "1",
    reason="the kernel does not weigh sessions",
)


# ---- the setting ----


def test_daemons_have_a_default() -> None:
    assert nice_asked({}) == nice_asked({"UDPRING_NICE": ""}) == worker_weight.DEFAULT < 0


@pytest.mark.parametrize(("text", "nice"), [("0", 0), ("-0", 0), ("-1", -1), ("-20", -20)])
def test_variable_sets_the_nice_value(text: str, nice: int) -> None:
    assert nice_asked({"UDPRING_NICE": text}) == nice


@pytest.mark.parametrize("text", ["1", "-21", "--1", "low", "-", " -5", "-1.5"])
def test_other_values_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="UDPRING_NICE"):
        nice_asked({"UDPRING_NICE": text})


@pytest.mark.parametrize(
    ("nice", "before", "after"),
    [
        (-10, (0, 0), (30, 30)),
        (-10, (0, 35), (30, 35)),
        (-10, (30, 30), None),
        (-10, (resource.RLIM_INFINITY,) * 2, None),
        (0, (0, 0), None),
    ],
)
def test_limit_permits_the_nice_value(
    monkeypatch: pytest.MonkeyPatch, nice: int, before: tuple[int, int], after: tuple[int, int] | None
) -> None:
    made: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: before)
    monkeypatch.setattr(resource, "setrlimit", lambda *words: made.append(words))
    WorkerWeight(nice).prepare()
    assert made == ([] if after is None else [(resource.RLIMIT_NICE, after)])


def test_refused_limit_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (0, 0))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    WorkerWeight(-10).prepare()


# ---- of a session ----


class Session:
    """Two workers of a session whose file is a socket. It has the nice value -10, and had ``usual``."""

    def __init__(self, usual: int = 0) -> None:
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        self.now = SECOND
        self.weight: Any = ffi.gc(
            lib.udpring_weight_new(-10, theirs.detach(), usual), lib.udpring_weight_free
        )

    def see(self, worker: int, many: bool, later: int = TENTH) -> int:
        self.now += later
        return int(lib.udpring_weight_see(self.weight, worker, many, self.now))

    def sleeps(self, worker: int) -> int:
        """Nanoseconds, negative for ever."""
        return int(lib.udpring_weight_patience(self.weight, worker))

    def written(self) -> list[bytes]:
        found = []
        while True:
            try:
                said = self.end.recv(100)
            except BlockingIOError:
                return found
            if not said:
                return found
            found.append(said)


def test_session_is_usual_while_many_datagrams_come() -> None:
    session = Session(usual=-3)
    assert session.see(0, False) == -10
    assert session.written() == []
    assert session.see(0, True) == 0
    assert session.written() == [b"-3"]
    assert session.see(0, True) == 0
    assert session.see(0, False) == -10
    assert session.written() == [b"-10"]


def test_any_busy_worker_keeps_it_usual() -> None:
    session = Session()
    session.see(0, True)
    session.see(1, True)
    session.see(0, False)
    assert session.written() == [b"0"]
    session.see(1, False)
    assert session.written() == [b"-10"]


def test_session_changes_ten_times_a_second() -> None:
    session = Session()
    session.see(0, True)
    for many in (False, True, False):
        session.see(0, many, TENTH // 10)
    assert session.written() == [b"0"]
    session.see(0, False, TENTH // 2)
    assert session.written() == []
    session.see(0, False, TENTH)
    assert session.written() == [b"-10"]


def test_no_packet_is_needed_for_a_change() -> None:
    """A worker that sleeps looks again after many datagrams, and while the change of its session waits."""
    session = Session()
    assert session.sleeps(0) == -1
    session.see(0, True)
    assert 0 < session.sleeps(0) < TENTH
    assert session.sleeps(1) == -1
    session.see(0, False, TENTH // 10)
    assert 0 < session.sleeps(0) <= TENTH
    session.see(0, False, TENTH)
    assert session.written() == [b"0", b"-10"]
    assert session.sleeps(0) == -1


def test_full_socket_is_tried_again() -> None:
    session = Session()
    writer = socket.socket(fileno=os.dup(session.end.fileno()))
    other, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    full = ffi.gc(lib.udpring_weight_new(-10, os.dup(theirs.fileno()), 0), lib.udpring_weight_free)
    with writer, other, theirs:
        filled = 0
        try:
            while True:
                theirs.send(b"x" * 1000)
                filled += 1
        except BlockingIOError:
            pass
        assert lib.udpring_weight_see(full, 0, True, SECOND) == -10
        for _ in range(filled):
            other.recv(1000)
        assert lib.udpring_weight_see(full, 0, True, 2 * SECOND) == 0
        assert other.recv(100) == b"0"


def test_lost_session_file_is_left_alone() -> None:
    session = Session()
    session.end.close()
    assert session.see(0, True) == -10
    assert session.see(0, False) == -10


def test_end_gives_the_session_its_usual_value() -> None:
    session = Session(usual=4)
    session.see(0, False)
    ffi.release(session.weight)
    assert session.written() == [b"4"]


SESSION = """
import os
from pathlib import Path
from contextlib import closing
from udpring.errors import HostError
from udpring.tunnel.capabilities import keep_only
from udpring.tunnel.session_weight import SessionWeight
def now():
    words = Path("/proc/self/autogroup").read_text().split()  # none in the session of the boot
    return int(words[-1]) if words else None
def tried(step):
    try:
        return step()
    except HostError as refused:
        return str(refused)
def printed(*words):
    print(*words, sep=", ")
session = SessionWeight(os.getpid())
"""


def said(code: str) -> str:
    done = run_python(SESSION + code)
    assert not done.stderr
    return done.stdout.strip()


@sessions
@may_raise
def test_kernel_has_the_value_of_the_session() -> None:
    code = """
os.setsid()
usual = session.permit(-5)
at_first = now()
session.set(0)
then = now()
session.set(-5)
printed(usual, at_first, then, now(), tried(lambda: session.set(-6)), now())
"""
    assert said(code) == "0, -5, 0, -5, -6 is none of the session's nice values (-5, 0), -5"


@sessions
def test_shared_session_is_left_alone() -> None:
    refusal = "process {pid} does not lead its session"
    code = f"printed(tried(lambda: session.permit(-5)) == f{refusal!r}.format(pid=os.getpid()), now())"
    before = said("printed(now())")
    assert said(code.replace("f'", "'")) == f"True, {before}"


@sessions
def test_session_of_the_boot_is_an_error() -> None:
    """The kernel made no autogroup for it, and its file is empty."""
    code = """
os.setsid()
os.dup2(os.memfd_create("autogroup"), session.fileno())
printed(tried(lambda: session.permit(-5)) == f"process {os.getpid()} has no autogroup")
"""
    assert said(code) == "True"


@sessions
def test_session_without_the_right_stays() -> None:
    code = """
os.setsid()
keep_only(())
refusal = tried(lambda: session.permit(-5))
printed("cannot have the nice value -5" in refusal, tried(lambda: session.set(0)), now())
"""
    assert said(code) == "True, 0 is none of the session's nice values (), 0"


@sessions
@may_raise
def test_broker_raises_the_session_of_a_node() -> None:
    code = """
from udpring.tunnel import daemon
from udpring.tunnel.broker import Broker
os.setsid()
with closing(Broker.start(lambda control: daemon._help(control, -5))) as broker:
    keep_only(())
    usual, raised = broker.call("weigh"), now()
    def after(notice):
        os.write(broker.fileno(), notice)
        broker.call("seal")
        return now()
    printed(usual, raised, *map(after, (b"0", b"-20", b"-7 ", b"x", b"[1]", b"-5")))
"""
    assert said(code) == "0, -5, 0, 0, 0, 0, 0, -5"


@sessions
@may_raise
def test_broker_without_a_value_raises_nothing() -> None:
    code = """
from udpring.tunnel import daemon
from udpring.tunnel.broker import Broker
os.setsid()
with closing(Broker.start(lambda control: daemon._help(control))) as broker:
    refusal = tried(lambda: broker.call("weigh"))
    os.write(broker.fileno(), b"-5")
    broker.call("seal")
    printed(refusal, now())
"""
    assert said(code) == "the session has the nice value 0 already, 0"


def test_refusals_do_not_end_a_start() -> None:
    """A host may refuse any of the calls, and a descriptor for the copy."""

    class Full:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def weigh(self, nice: int, *, group: int = -1, usual: int = 0) -> None:
            self.asked.append(group)
            if group >= 0:
                raise RingError("no descriptor", errno=errno.EMFILE)

    class Answering:
        def fileno(self) -> int:
            return 7

        def call(self, service: str) -> int:
            return 0

    plane: Any = Full()
    broker: Any = Answering()
    WorkerWeight(-5).apply(plane, broker)
    assert plane.asked == [7, -1]


def test_session_of_an_ended_process_is_an_error() -> None:
    code = """
child = os.fork()
if not child:
    os._exit(0)
gone = SessionWeight(child)
os.waitpid(child, 0)
printed("HostError" if isinstance(tried(lambda: gone.permit(-5)), str) else "none")
"""
    assert said(code) == "HostError"


# ---- of threads ----


def in_thread(body: Callable[[], None]) -> None:
    """In a thread of its own, which takes its nice value along when it ends."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            body()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def of_threads(nice: int) -> Any:
    return ffi.gc(lib.udpring_weight_new(nice, -1, 0), lib.udpring_weight_free)


@may_raise
def test_thread_is_usual_while_many_datagrams_come() -> None:
    def body() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 2)
        weight = of_threads(-5)
        for many, nice in ((False, -5), (True, 0), (True, 0), (False, -5)):
            assert lib.udpring_weight_see(weight, 0, many, SECOND) == nice
            assert own() == (nice or 2)

    in_thread(body)


@may_raise
def test_higher_weight_of_the_user_stays() -> None:
    def body() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, -7)
        assert lib.udpring_weight_see(of_threads(-5), 0, False, SECOND) == 0
        assert own() == -7

    in_thread(body)


def test_nothing_is_raised_unless_asked() -> None:
    def body() -> None:
        before, weight = own(), of_threads(0)
        for many in (False, True, False):
            assert lib.udpring_weight_see(weight, 0, many, SECOND) == 0
            assert own() == before

    in_thread(body)


def test_thread_without_the_right_stays() -> None:
    code = """
import resource
from core_internals import ffi, lib
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
keep_only(())
before = os.getpriority(os.PRIO_PROCESS, 0)
weight = ffi.gc(lib.udpring_weight_new(-5, -1, 0), lib.udpring_weight_free)
seen = [lib.udpring_weight_see(weight, 0, many, 1) for many in (False, True, False)]
printed(seen, os.getpriority(os.PRIO_PROCESS, 0) - before)
"""
    assert said(f"import sys; sys.path.insert(0, {str(Path(lib_folder()))!r})\n{code}") == "[0, 0, 0], 0"


def lib_folder() -> str:
    import core_internals  # noqa: PLC0415

    return str(Path(core_internals.__file__).parent)


# ---- of a node in a program ----


@may_raise
def test_program_raises_the_workers_of_its_node() -> None:
    async def body() -> None:
        others = worker_threads()
        async with pair("127.0.0.1", workers=2) as (first, second):
            workers = worker_threads() - others
            before = {worker: attributes(worker)[1] for worker in workers}
            for node in (first, second):
                node.weigh(-5)
            await until(lambda: {attributes(worker)[1] for worker in workers} == {-5})
            assert first.stats.plane.nice == -5
            for node in (first, second):
                node.weigh(0)
            await until(lambda: {worker: attributes(worker)[1] for worker in workers} == before)
            assert first.stats.plane.nice == 0

    run(body)


@pytest.mark.parametrize("nice", [1, -21])
def test_node_refuses_other_nice_values(nice: int) -> None:
    async def body() -> None:
        async with pair() as (first, _):
            with pytest.raises(RingError):
                first.weigh(nice)

    run(body)
