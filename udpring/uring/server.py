"""A TCP server with a worker for each core."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import threading
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

from udpring.errors import ClosedError, UdpringError
from udpring.socket_address import SocketName
from udpring.uring.listener import BACKLOG
from udpring.uring.reactor import Reactor
from udpring.uring.worker import Handler, ThreadWorker, WorkerMetrics, WorkerOptions, placeholder
from udpring.uring.worker_process import ProcessWorker

__all__ = ["Server"]

CONNECTIONS = 10_000
"""Connections that a worker serves at once by default. More wait in the kernel's backlog."""


class Server:
    """Runs ``await handler(connection)`` for each TCP connection, and closes the connection afterwards.

    Each worker has its own thread, ring, event loop (asyncio) and listening socket, and the kernel spreads
    connections over them (SO_REUSEPORT).

    ``workers``: by default one for each CPU that the process may use.
    ``processes``: workers are processes, which run in parallel on interpreters with a global lock. The
    handler must then be importable, and the program's main module must be guarded (see multiprocessing).
    ``pin``: binds each worker to a CPU.
    ``connections``: of a worker at once.
    ``receive_armed``: receiving on each connection stays armed (``Reactor.armed_receive``).
    ``share_port``: another server may listen at the same address, and gets a part of the connections.
    ``reactor``: options of ``Reactor``.

    Any thread may call it. ``with Server(...) as server:`` shuts down without a drain at the end. Raises
    OSError if the address cannot be used, HostError if io_uring is demanded and denied, TypeError if worker
    processes cannot import the handler.
    """

    def __init__(
        self,
        handler: Handler,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        workers: int | None = None,
        processes: bool = False,
        pin: bool = False,
        backlog: int = BACKLOG,
        connections: int = CONNECTIONS,
        receive_armed: bool = False,
        share_port: bool = False,
        **reactor: Any,
    ) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        count = len(cpus) if workers is None else workers
        if count < 1:
            raise ValueError(f"workers={count}: at least 1")
        Reactor(**reactor)  # raises for a wrong option, before any worker starts
        self._process = os.getpid()
        self._lock = threading.RLock()  # a signal handler may shut down, too
        self._workers: list[ThreadWorker | ProcessWorker] = []
        self._last = WorkerMetrics()
        self._socket = placeholder(host, port, share=share_port)
        self._address: SocketName = self._socket.getsockname()
        self._port: int = self._socket.getsockname()[1]
        options = WorkerOptions(host, self._port, backlog, connections, receive_armed, reactor)
        kind = ProcessWorker if processes else ThreadWorker
        try:
            for index in range(count):
                cpu = cpus[index % len(cpus)] if pin else None
                self._workers.append(kind(handler, options, index, cpu))
            self._backends = self._all("backend")
        except BaseException:
            self._end()
            raise

    @property
    def address(self) -> SocketName:
        """The address that it listens on."""
        return self._address

    @property
    def port(self) -> int:
        """The port of ``address``."""
        return self._port

    @property
    def backend(self) -> str:
        """How its workers work: "io_uring" or "readiness"."""
        return ", ".join(sorted(set(self._backends)))

    @property
    def workers(self) -> int:
        """The number of workers. 0 after ``shutdown``."""
        return len(self._workers)

    @property
    def metrics(self) -> WorkerMetrics:
        """The counters of all workers. After ``shutdown`` the last ones."""
        if self._workers:
            self._last = functools.reduce(operator.add, self._all("metrics"))
        return self._last

    def pause_accept(self) -> None:
        """Closes the listening sockets. New clients are refused. Connections live on."""
        self._all("pause")

    def resume_accept(self) -> None:
        """Makes the listening sockets again, at the same address."""
        self._all("resume")

    def shutdown(self, timeout: float | None = None) -> int:
        """Stops listening, waits for the handlers up to ``timeout`` seconds, and cancels the rest.

        Each connection is then ``draining``, and ``Connection.on_drain`` tells a handler that waits for
        further requests to end. Without that an idle client takes the whole time.

        Returns the number of handlers that were cancelled. A second call waits for the first one and does
        nothing.
        """
        with self._lock:
            if not self._workers:
                return 0
            try:
                cut: int = sum(self._all("drain", timeout))
                if self._workers:
                    self._last = functools.reduce(operator.add, self._all("metrics"))
                return cut
            finally:
                self._end()

    def _all(self, name: str, *arguments: Any) -> Sequence[Any]:
        """Calls every worker at the same time, and waits for all. Then raises the first error."""
        with self._lock:
            if not self._workers:
                raise ClosedError("this server was shut down: start a new one")
            found: list[Any] = []
            errors: list[Exception] = []
            calls = [functools.partial(worker.begin, name, *arguments) for worker in self._workers]
            waits: list[Callable[[], Any]] = []
            for step, into in ((calls, waits), (waits, found)):
                for call in step:
                    try:
                        into.append(call())
                    except (OSError, UdpringError) as error:
                        errors.append(error)
            if errors:
                raise errors[0]
            return found

    def _end(self) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.stop()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.shutdown(0.0)

    def __del__(self) -> None:
        # The collector may run in any thread, also in a worker, so nothing is waited for.
        workers = self.__dict__.get("_workers")
        if not workers or os.getpid() != self._process:
            return
        for worker in workers:
            with contextlib.suppress(RuntimeError, ClosedError):  # it has ended
                worker.stop_soon()
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address!r}, {len(self._workers)} workers>"
