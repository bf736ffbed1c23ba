"""Server: workers on threads and in processes, on io_uring and on readiness."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker

import pytest
from seccomp import run_python

from udpring.errors import ClosedError
from udpring.uring import Connection, Listener, Reactor
from udpring.uring.server import Server
from udpring.uring.worker import Worker, WorkerMetrics, WorkerOptions

from .reactors import EACH_BACKEND, PATIENCE, SANITIZED, descriptors


async def echo(connection: Connection) -> None:
    while data := await connection.recv():
        await connection.send_all(data)


async def name_worker(connection: Connection) -> None:
    """Sends the process, the thread and the CPUs of the worker."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    await connection.send_all(f"{os.getpid()} {threading.get_ident()} {cpus}".encode())


async def name_thread(connection: Connection) -> None:
    await connection.send_all(threading.current_thread().name.encode())


async def name_and_echo(connection: Connection) -> None:
    await connection.send_all(str(os.getpid()).encode())
    await echo(connection)


async def fail(connection: Connection) -> None:
    await connection.recv()
    raise ValueError("the handler's mistake")


async def wait_for_ever(connection: Connection) -> None:
    await connection.send_all(b"x")
    await asyncio.Event().wait()


KINDS = [
    pytest.param({"backend": "io_uring"}, id="io_uring"),
    pytest.param({"backend": "io_uring", "receive_armed": True}, id="armed"),
    pytest.param({}, id="readiness", marks=pytest.mark.io_uring_denied),
][: 2 if SANITIZED else None]


@pytest.fixture(params=KINDS)
def options(request: pytest.FixtureRequest) -> dict[str, object]:
    found: dict[str, object] = request.param
    return found


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    resource_tracker.ensure_running()  # multiprocessing's, which stays
    before = descriptors()
    yield
    assert not descriptors() - before


def client(server: Server) -> socket.socket:
    assert isinstance(server.address, tuple)
    return socket.create_connection(server.address[:2], PATIENCE)


def everything(sock: socket.socket) -> bytes:
    with sock:
        pieces = []
        while data := sock.recv(65536):
            pieces.append(data)
        return b"".join(pieces)


def ask(sock: socket.socket, payload: bytes) -> bytes:
    sock.sendall(payload)
    found = b""
    while len(found) < len(payload):
        data = sock.recv(65536)
        if not data:
            break
        found += data
    return found


def wait_until(server: Server, **expected: int) -> WorkerMetrics:
    end = time.monotonic() + PATIENCE
    while True:
        metrics = server.metrics
        if all(getattr(metrics, name) == value for name, value in expected.items()):
            return metrics
        assert time.monotonic() < end, metrics
        time.sleep(0.005)


def test_server_echoes(options: dict[str, object]) -> None:
    with Server(echo, workers=2, **options) as server:
        assert server.backend == options.get("backend", "readiness")
        clients = [client(server) for _ in range(20)]
        for number, sock in enumerate(clients):
            payload = bytes([number]) * 10_000
            assert ask(sock, payload) == payload
        assert server.metrics == WorkerMetrics(accepted=20, active=20)
        for sock in clients:
            sock.close()
        wait_until(server, active=0)


def test_workers_share_the_connections(options: dict[str, object]) -> None:
    with Server(name_worker, workers=3, **options) as server:
        seen = set()
        end = time.monotonic() + PATIENCE
        while len(seen) < 3 and time.monotonic() < end:
            seen.add(everything(client(server)).split()[1])
    assert len(seen) == 3


def test_pinned_workers_stay_on_their_cpu(options: dict[str, object]) -> None:
    allowed = os.sched_getaffinity(0)
    with Server(name_worker, workers=1, pin=True, **options) as server:
        cpus = everything(client(server)).split()[2]
    assert cpus.decode() == str(min(allowed))
    assert os.sched_getaffinity(0) == allowed


def test_pause_refuses_clients_and_keeps_connections(options: dict[str, object]) -> None:
    with Server(echo, workers=2, **options) as server, client(server) as sock:
        assert ask(sock, b"before") == b"before"
        server.pause_accept()
        server.pause_accept()
        with pytest.raises(ConnectionRefusedError):
            client(server)
        assert ask(sock, b"during") == b"during"
        server.resume_accept()
        server.resume_accept()
        with client(server) as second:
            assert ask(second, b"after") == b"after"
        assert ask(sock, b"still") == b"still"


def test_pause_loses_no_accepted_client(options: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    """Clients connect while the server pauses and resumes. None finds an end of stream in place of its echo.

    The kernel resets a connection that it completes between the last accept and the close.
    """
    caplog.set_level(logging.DEBUG)  # a failure then shows why a connection ended
    with Server(echo, workers=2, **options) as server:
        outcomes: list[str] = []
        stop = threading.Event()

        def connect() -> None:
            while not stop.is_set():
                try:
                    with client(server) as sock:
                        answer = ask(sock, b"x")
                        outcomes.append("served" if answer == b"x" else f"{answer!r} from {sock}")
                except ConnectionRefusedError:
                    outcomes.append("refused")
                except ConnectionError:
                    outcomes.append("reset")

        thread = threading.Thread(target=connect)
        thread.start()
        try:
            end = time.monotonic() + PATIENCE
            while outcomes.count("served") < 50 and time.monotonic() < end:
                server.pause_accept()
                server.resume_accept()
        finally:
            stop.set()
            thread.join()
        assert not set(outcomes) - {"served", "refused", "reset"}
        assert outcomes.count("served") >= 50
        wait_until(server, active=0)


def test_shutdown_waits_for_handlers(options: dict[str, object]) -> None:
    with Server(echo, workers=2, **options) as server:
        sock = client(server)
        assert ask(sock, b"x") == b"x"
        result: list[int] = []
        thread = threading.Thread(target=lambda: result.append(server.shutdown(PATIENCE)))
        thread.start()
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                client(server).close()
            except ConnectionResetError:  # by the close of the listening socket
                continue
            except ConnectionRefusedError:
                break
        assert ask(sock, b"still served") == b"still served"
        sock.close()
        thread.join()
    assert result == [0]
    assert server.metrics.active == 0
    assert server.shutdown() == 0
    with pytest.raises(ClosedError, match="shut down"):
        server.pause_accept()


async def echo_until_drained(connection: Connection) -> None:
    """As protocols with several requests a connection do."""
    connection.on_drain = connection.close_soon
    await echo(connection)


def test_shutdown_tells_waiting_handlers(
    options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with Server(echo_until_drained, workers=2, **options) as server:
        clients = [client(server) for _ in range(4)]
        for sock in clients:
            assert ask(sock, b"x") == b"x"
        assert server.shutdown(PATIENCE) == 0
        for sock in clients:
            assert everything(sock) == b""
    assert (server.metrics.aborted, server.metrics.failed, caplog.text) == (4, 0, "")


def test_failing_on_drain_stops_no_other(
    options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    drained: list[bool] = []

    def fail_to_end(connection: Connection) -> None:
        drained.append(connection.draining)
        connection.close_soon()
        raise ValueError("the handler's mistake")

    async def handle(connection: Connection) -> None:
        connection.on_drain = lambda: fail_to_end(connection)
        await echo(connection)

    with Server(handle, workers=1, **options) as server:
        clients = [client(server) for _ in range(3)]
        for sock in clients:
            assert ask(sock, b"x") == b"x"
        assert server.shutdown(PATIENCE) == 0
        for sock in clients:
            assert everything(sock) == b""
    assert drained == [True] * 3
    assert caplog.text.count("on_drain of a connection failed") == 3


def test_shutdown_cancels_after_its_time(options: dict[str, object]) -> None:
    with Server(wait_for_ever, workers=2, **options) as server:
        clients = [client(server) for _ in range(4)]
        for sock in clients:
            assert sock.recv(1) == b"x"
        assert server.shutdown(0.05) == 4
        for sock in clients:
            assert everything(sock) == b""
    assert server.workers == 0


def test_failing_handler_is_logged_and_counted(
    options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with Server(fail, workers=1, **options) as server:
        with client(server) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b""
        assert wait_until(server, failed=1).aborted == 0
    assert "the handler's mistake" in caplog.text


def test_reset_connection_counts_as_aborted(options: dict[str, object]) -> None:
    with Server(echo, workers=1, **options) as server:
        with client(server) as sock:
            assert ask(sock, b"x") == b"x"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(server, aborted=1, active=0)


def test_connections_at_once_are_bounded(options: dict[str, object]) -> None:
    with Server(echo, workers=1, connections=2, **options) as server:
        clients = [client(server) for _ in range(3)]
        assert ask(clients[0], b"1") == b"1"
        assert ask(clients[1], b"2") == b"2"
        clients[2].sendall(b"3")
        assert server.metrics.active == 2
        clients[0].close()
        assert clients[2].recv(1) == b"3"
        for sock in clients[1:]:
            sock.close()
        wait_until(server, active=0, accepted=3)


def test_used_port_is_refused(options: dict[str, object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        Server(echo, port=taken.getsockname()[1], **options)


def test_port_of_another_server_is_refused_unless_shared(options: dict[str, object]) -> None:
    with Server(echo, workers=1, share_port=True, **options) as first:
        with pytest.raises(OSError, match="in use"):
            Server(echo, port=first.port, workers=1, **options)
        with Server(echo, port=first.port, workers=1, share_port=True, **options) as second:
            assert second.address == first.address
    with Server(echo, port=first.port, workers=1, **options) as third, client(third) as sock:
        assert ask(sock, b"x") == b"x"
        third.pause_accept()
        third.resume_accept()
        assert ask(sock, b"y") == b"y"


def test_server_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Server(echo, workers=0)


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize(("option", "error"), [({"backend": "x"}, ValueError), ({"entry": 8}, TypeError)])
def test_wrong_option_of_the_reactor_is_refused(
    processes: bool, option: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"backend 'x'|'entry'"):
        Server(echo, processes=processes, **option)


def test_handler_that_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(TypeError, match=r"lambda.*give a function of a module"):
        Server(lambda connection: echo(connection), processes=True)


@pytest.mark.parametrize("backend", EACH_BACKEND)
def test_worker_processes_serve(backend: str) -> None:
    with Server(name_worker, workers=2, processes=True, receive_armed=True) as server:
        assert server.backend == backend
        seen = set()
        end = time.monotonic() + PATIENCE
        while len(seen) < 2 and time.monotonic() < end:
            seen.add(int(everything(client(server)).split()[0]))
        assert len(seen) == 2
        assert os.getpid() not in seen
        server.pause_accept()
        with pytest.raises(ConnectionRefusedError):
            client(server)
        server.resume_accept()
        assert everything(client(server))
        assert server.metrics.accepted >= 3
        assert server.shutdown(PATIENCE) == 0
    for process in seen:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_worker_process_names_its_thread_by_its_number() -> None:
    with (
        Server(name_thread, workers=1, processes=True) as server,
        socket.create_connection(server.address, PATIENCE) as sock,
    ):
        assert sock.makefile().read() == "udpring-server-0"


@pytest.mark.parametrize("backend", EACH_BACKEND)
def test_ended_worker_process_is_reported(backend: str) -> None:
    with Server(name_worker, workers=1, processes=True) as server:
        assert server.backend == backend
        process = int(everything(client(server)).split()[0])
        os.kill(process, 9)
        with pytest.raises(ClosedError, match=f"{process} has ended"):
            server.pause_accept()
        with pytest.raises(ClosedError):
            server.shutdown()


@pytest.mark.parametrize("backend", EACH_BACKEND)
def test_ended_worker_process_stops_no_other(backend: str) -> None:
    """Its end is reported, after the others have drained."""
    with Server(name_and_echo, workers=2, processes=True) as server:
        assert server.backend == backend
        clients: dict[int, socket.socket] = {}
        end = time.monotonic() + PATIENCE
        while len(clients) < 2 and time.monotonic() < end:
            sock = client(server)
            if clients.setdefault(int(sock.recv(20)), sock) is not sock:
                sock.close()
        (killed, first), (_, second) = sorted(clients.items())
        os.kill(killed, 9)
        with first:
            assert first.recv(1) == b""
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(server.shutdown, PATIENCE)
            assert ask(second, b"still served") == b"still served"
            second.close()
            with pytest.raises(ClosedError, match=f"{killed} has ended"):
                ended.result(PATIENCE)


FORGETFUL = """
import asyncio, functools
from udpring.uring.server import Server

server = Server(functools.partial(asyncio.sleep, 0), workers=1, processes=True)
"""


def test_forgotten_worker_process_does_not_keep_the_program() -> None:
    done = run_python(FORGETFUL, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "")


def test_two_threads_may_shut_down(options: dict[str, object]) -> None:
    """Whichever is first, the other one waits and finds nothing left."""
    with Server(echo, workers=2, **options) as server:
        sock = client(server)
        assert ask(sock, b"x") == b"x"
        with ThreadPoolExecutor(4) as pool:
            ended = [pool.submit(server.shutdown, PATIENCE) for _ in range(4)]
            assert ask(sock, b"still served") == b"still served"
            sock.close()
            assert [each.result(PATIENCE) for each in ended] == [0] * 4
    assert (server.workers, server.metrics.active) == (0, 0)


@pytest.mark.parametrize("backend", EACH_BACKEND)
def test_lasting_error_of_accept_does_not_block_the_worker(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def broken(listener: Listener) -> Connection:
        nonlocal calls
        calls += 1
        assert calls < 1000, "the worker tries without a pause"
        raise OSError(errno.EINVAL, "shut down")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Listener, "accept", broken)
            worker = Worker(echo, WorkerOptions("127.0.0.1", 0, 8, 8, False, {}))
            async with Reactor() as reactor:
                assert reactor.backend == backend
                await worker.resume()
                while not calls:
                    await asyncio.sleep(0)
                await worker.pause()

    asyncio.run(main())
    assert calls == 1


def test_forgotten_server_ends_with_a_warning() -> None:
    known = set(threading.enumerate())
    servers = [Server(echo, workers=1)]
    address = servers[0].address
    (thread,) = set(threading.enumerate()) - known
    with pytest.warns(ResourceWarning, match="unclosed"):
        servers.clear()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, PATIENCE)
