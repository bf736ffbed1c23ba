"""One worker of a server: a reactor that accepts connections and runs a handler for each."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from udpring.errors import ClosedError
from udpring.uring.listener import Listener, listening_socket
from udpring.uring.reactor import Reactor
from udpring.uring.streams import Connection
from udpring.uring.thread import ReactorThread

__all__ = ["Handler", "ThreadWorker", "WorkerMetrics", "WorkerOptions"]

Handler = Callable[[Connection], Awaitable[object]]

PAUSE_SECONDS = 0.1
"""Pause after accept(2) failed, mostly for lack of descriptors or memory."""

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_log = logging.getLogger("udpring.uring.server")


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """Counters of a worker, or their sums over all workers of a server."""

    accepted: int = 0
    """Connections since the start."""
    active: int = 0
    """Connections whose handler runs."""
    failed: int = 0
    """Handlers that raised an exception other than OSError."""
    aborted: int = 0
    """Handlers that ended with an error of their connection (OSError), or because it was closed here."""
    shortages: int = 0
    """Calls of accept(2) that failed for lack of descriptors or memory."""

    def __add__(self, other: WorkerMetrics) -> WorkerMetrics:
        names = self.__dataclass_fields__
        return WorkerMetrics(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How the workers of a server work."""

    host: str
    port: int
    backlog: int
    connections: int
    receive_armed: bool
    reactor: dict[str, Any]


class Worker:
    """The coroutines of a worker. They run inside its reactor."""

    def __init__(self, handler: Handler, options: WorkerOptions) -> None:
        self._handler, self._options = handler, options
        self._room = asyncio.Semaphore(options.connections)
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._listener: Listener | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._counts = dict.fromkeys(("accepted", "failed", "aborted", "shortages"), 0)

    async def resume(self) -> None:
        """Listens, unless it does so already."""
        if self._listener is not None:
            return
        options = self._options
        sock = listening_socket(options.host, options.port, backlog=options.backlog, reuse_port=True)
        self._listener = Listener(sock, armed=True, receive_armed=options.receive_armed)
        self._accepting = asyncio.ensure_future(self._accept(self._listener))

    async def pause(self) -> None:
        """Stops listening. Connections that were made are served."""
        listener, self._listener = self._listener, None
        accepting, self._accepting = self._accepting, None
        if listener is None or accepting is None:
            return
        accepting.cancel()
        await asyncio.wait([accepting])
        for connection in await listener.drain():
            self._serve(connection)

    async def drain(self, timeout: float | None) -> int:
        """Stops listening, tells the handlers, waits for them, and cancels those that are left. Returns their
        number."""
        await self.pause()
        for connection in list(self._tasks.values()):
            try:
                connection.begin_drain()
            except Exception:
                _log.exception("on_drain of a connection failed")
        tasks = set(self._tasks)
        if tasks:
            _ended, tasks = await asyncio.wait(tasks, timeout=timeout)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        return len(tasks)

    async def metrics(self) -> WorkerMetrics:
        """The counters."""
        return WorkerMetrics(active=len(self._tasks), **self._counts)

    async def backend(self) -> str:
        """The backend of its reactor."""
        return Reactor.current().backend

    async def _accept(self, listener: Listener) -> None:
        while True:
            await self._room.acquire()
            try:
                connection = await listener.accept()
            except ClosedError:
                self._room.release()
                return
            except OSError as error:
                self._room.release()
                if error.errno in _SHORTAGES:
                    self._counts["shortages"] += 1
                if error.errno != errno.ECONNABORTED:  # that client is gone, the next one is not
                    await asyncio.sleep(PAUSE_SECONDS)
                continue
            except asyncio.CancelledError:
                self._room.release()
                raise
            self._serve(connection, has_room=True)

    def _serve(self, connection: Connection, *, has_room: bool = False) -> None:
        self._counts["accepted"] += 1
        task = asyncio.ensure_future(self._handle(connection))
        self._tasks[task] = connection
        task.add_done_callback(self._tasks.pop)
        if has_room:
            task.add_done_callback(lambda _task: self._room.release())

    async def _handle(self, connection: Connection) -> None:
        try:
            await self._handler(connection)
        except OSError as error:
            self._aborted(error)
        except Exception as error:
            if isinstance(error, ClosedError) and (connection.closed or Reactor.current().closed):
                self._aborted(error)
            else:
                self._counts["failed"] += 1
                _log.exception("the handler of a connection failed")
        finally:
            await connection.close()

    def _aborted(self, error: Exception) -> None:
        self._counts["aborted"] += 1
        _log.debug("a connection was aborted: %r", error)


class ThreadWorker:
    """A worker on a thread of this process."""

    def __init__(self, handler: Handler, options: WorkerOptions, number: int, cpu: int | None) -> None:
        self._thread = ReactorThread(name=f"udpring-server-{number}", **options.reactor)
        try:
            self._worker: Worker = self._thread.run(self._made, handler, options, cpu).result()
        except BaseException:
            self._thread.stop()
            raise

    async def _made(self, handler: Handler, options: WorkerOptions, cpu: int | None) -> Worker:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})  # of this thread
        worker = Worker(handler, options)
        await worker.resume()
        return worker

    def begin(self, name: str, *arguments: Any) -> Callable[[], Any]:
        """Starts a call of ``Worker``. Returns a function that waits for its result."""
        return self._thread.run(getattr(self._worker, name), *arguments).result

    def stop(self) -> None:
        """Ends the thread. Connections that are left are closed."""
        self._thread.stop()

    def stop_soon(self) -> None:
        """Closes the listening socket and the connections, and ends the thread, without waiting for it."""
        drained = self._thread.run(self._worker.drain, 0.0)
        drained.add_done_callback(lambda _: self._thread.stop_soon())


def placeholder(host: str, port: int, *, share: bool) -> socket.socket:
    """A socket that keeps a port for the workers, and does not listen. Raises OSError if another program
    listens there, unless both ``share`` it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port and not share:
        # SO_REUSEPORT alone would share the port with any server of this user that has it too.
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as lone:
            lone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            lone.bind((host, port))
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock
