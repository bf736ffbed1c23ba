"""A worker of a server in a process of its own, for interpreters with a global lock."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any

from udpring.errors import ClosedError, HostError
from udpring.uring.worker import Handler, ThreadWorker, WorkerOptions

__all__ = ["ProcessWorker"]

END_SECONDS = 10.0
"""Seconds that a process has to end by itself, before it is killed."""


class ProcessWorker:
    """Calls a worker in another process through a pipe. One thread at a time may call it.

    The process is spawned, so the handler must be a function that it can import.
    """

    def __init__(self, handler: Handler, options: WorkerOptions, number: int, cpu: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(
            target=serve,
            args=(far, handler, options, number, cpu),
            name=f"udpring-server-{number}",
            daemon=True,
        )
        try:
            self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._pipe.close()
            raise TypeError(
                f"worker processes cannot get this handler ({error}): "
                "give a function of a module, or a functools.partial of one"
            ) from error
        finally:
            far.close()
        atexit.register(self._pipe.close)  # before multiprocessing waits for the process
        try:
            self._answer()
        except BaseException:
            self.stop()
            raise

    def _answer(self) -> Any:
        try:
            succeeded, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise ClosedError(f"worker process {self._process.pid} has ended") from error
        if not succeeded:
            raise value
        return value

    def begin(self, name: str, *arguments: Any) -> Callable[[], Any]:
        """Starts a call of ``Worker``. Returns a function that waits for its result."""
        try:
            self._pipe.send((name, arguments))
        except OSError as error:
            raise ClosedError(f"worker process {self._process.pid} has ended") from error
        return self._answer

    def stop(self) -> None:
        """Ends the process. Connections that are left are closed."""
        self.stop_soon()
        self._process.join(END_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()

    def stop_soon(self) -> None:
        """The same, without waiting for the process."""
        atexit.unregister(self._pipe.close)
        self._pipe.close()  # the process then ends


def serve(pipe: Any, handler: Handler, options: WorkerOptions, number: int, cpu: int | None) -> None:
    """The main function of the process: executes calls until the parent closes the pipe or ends."""
    # A terminal or a service manager sends these to the parent too, which drains this process first.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    try:
        worker = ThreadWorker(handler, options, number, cpu)
    except OSError as error:
        plain = HostError(str(error), errno=error.errno or 0)
        pipe.send((False, plain if isinstance(error, HostError) else OSError(error.errno, str(error))))
        return
    pipe.send((True, os.getpid()))
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, arguments = pipe.recv()
            try:
                answer = (True, worker.begin(name, *arguments)())
            except OSError as error:
                answer = (False, OSError(error.errno, str(error)))
            pipe.send(answer)
    worker.stop()
