"""A process that does for a confined node what the node itself may not: look names up, start programs, read
and remove files.

The flow:
1. ``Broker.start`` forks, while the process has one thread. The child serves until the node's end closes.
2. ``call`` sends a request: a name and arguments in JSON, with one end of a socket pair. The service's answer
   comes back over that pair, so calls of several threads do not meet.
3. A service that may take long runs in a child of its own. The others run one after another, and may keep
   state.

A message without a socket is a notice, which has no answer. The core sends the nice value of the node's
session in this way (``session_weight``).

Requests come from the node, which an attacker may have taken over. So a service takes numbers,
addresses and host names, and never a command, a path or an object. Answers are trusted.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from udpring.errors import ConfigError, HostError
from udpring.tunnel.patience import ready_first
from udpring.tunnel.refusals import cure_of

if TYPE_CHECKING:
    import asyncio
    import logging

__all__ = ["CHILDREN_MAX", "Broker", "Service", "Services"]

REQUEST_MAX = 65536
_RESTART = "start the interface again"
CHILDREN_MAX = 16
"""Processes at once. A node has four look-ups, the look at another tunnel and a step of its file."""
END_SECONDS = 60.0
"""The node's wait for the broker's end. A program that the broker runs has 30 seconds."""
_CONFIG_PARTS = ("message", "file", "line", "column", "text", "cure")

Work: TypeAlias = Callable[..., Any]


class Service(NamedTuple):
    """``work(**arguments)`` returns what JSON can hold. ``own_process``: it runs in a process of its own,
    beside others. ``confine`` is called in that process first. ``abandoned``: the end of the node ends it.
    ``cancellable``: it also gets ``patience``, a descriptor that is ready when the node waits no longer."""

    work: Work
    own_process: bool = False
    confine: Callable[[], None] | None = None
    abandoned: bool = False
    cancellable: bool = False


Services: TypeAlias = Mapping[str, Service]
Notice: TypeAlias = Callable[[bytes], None]


class Broker:
    """The node's end. Made by ``start``. Any thread may call it."""

    def __init__(self, control: socket.socket, process: int) -> None:
        self._control = control
        self.process = process

    @classmethod
    def start(cls, serve: Callable[[socket.socket], None]) -> Broker:
        """Forks a process that calls ``serve`` with its end, and ends with it. Raises HostError."""
        what = "a pair of UNIX sockets (socketpair)"
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            what = "a process (fork)"
            process = os.fork()
        except OSError as refused:
            number = refused.errno or 0
            text = f"the broker of a confined node needs {what}: {refused.strerror}"
            raise HostError(text, errno=number, cure=cure_of(number)) from None
        if process == 0:
            code = 1
            try:
                kept = theirs.fileno()
                os.closerange(3, kept)  # a copy of a descriptor of the node would outlive it
                os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
                serve(theirs)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        return cls(ours, process)

    def fileno(self) -> int:
        """The socket, for notices."""
        return self._control.fileno()

    def call(self, service: str, *, patience: int | None = None, **arguments: Any) -> Any:
        """The service's result. Blocks, until the descriptor ``patience`` is ready. Raises HostError (the
        service failed, the broker is gone, or patience ended) and ConfigError."""
        request = json.dumps([service, arguments]).encode()
        if len(request) > REQUEST_MAX:
            raise HostError(f"a request {service} of {len(request)} bytes: at most {REQUEST_MAX}")
        try:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    socket.send_fds(self._control, [request], [theirs.fileno()])
                if not ready_first(ours.fileno(), patience):
                    raise HostError(f"{service} did not end in time")
                with ours.makefile("rb") as answer:
                    said = answer.read()
        except HostError:
            raise
        except OSError as gone:
            raise HostError(
                f"the broker process does not answer: {gone}", errno=gone.errno or 0, cure=_RESTART
            ) from None
        if not said:
            raise HostError(f"the broker process ended during {service}", cure=_RESTART)
        result, failure = json.loads(said)
        if failure is not None:
            if "file" in failure:
                raise ConfigError(**failure)
            raise HostError(**failure)
        return result

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Logs it if the broker ends before ``close``. It sends nothing by itself, so its socket is readable
        only then."""
        loop.add_reader(self._control, self._lost, loop)

    def _lost(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._control)
        _log().error(
            "the broker (process %d) has ended. What needs it fails from now on: names, reload, commands and "
            "the removal of routes, rules and DNS. Start the node again",
            self.process,
        )

    def close(self) -> None:
        """Ends the broker, and waits ``END_SECONDS`` for it. May be called again."""
        self._control.close()
        until, pause = time.monotonic() + END_SECONDS, 0.001
        with contextlib.suppress(ChildProcessError):
            while not os.waitpid(self.process, os.WNOHANG)[0]:
                if time.monotonic() > until:
                    _log().error(
                        "the broker (process %d) still works after %g s. It was left alone",
                        self.process,
                        END_SECONDS,
                    )
                    return
                time.sleep(pause)
                pause = min(2 * pause, 0.1)


def _log() -> logging.Logger:
    import logging  # noqa: PLC0415 - the process of the broker does not need it

    return logging.getLogger("udpring.node")


def serve(control: socket.socket, services: Services, notice: Notice = lambda said: None) -> None:
    """Serves until the other end closes. Signals do not end it: the service manager sends them to all
    processes, and the node still needs it on its way down."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN, programs that it starts do not inherit this
    running: dict[int, Service] = {}
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, REQUEST_MAX, 1)
        if not request:
            break
        if not descriptors:
            notice(request)
        for descriptor in descriptors:
            with socket.socket(fileno=descriptor) as answer:
                _answer(control, answer, request, services, running)
    _reap(running)
    for process, service in running.items():
        if service.abandoned:
            with contextlib.suppress(PermissionError):  # the next one may be ended
                os.kill(process, signal.SIGKILL)  # its number is not in use again: it was not waited for


def _reap(running: dict[int, Service]) -> None:
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitpid(-1, os.WNOHANG)[0]:
            running.pop(ended, None)


def _answer(
    control: socket.socket,
    answer: socket.socket,
    request: bytes,
    services: Services,
    running: dict[int, Service],
) -> None:
    name, arguments = json.loads(request)
    _reap(running)
    service = services.get(name)
    if service is None:
        _send(answer, None, HostError(f"no service {name}"))
    elif not service.own_process:
        _work(answer, service.work, arguments)
    elif len(running) >= CHILDREN_MAX:
        text = f"{name}: the broker has {CHILDREN_MAX} processes at once already"
        _send(answer, None, HostError(text, cure="try again when they have ended"))
    else:
        try:
            process = os.fork()
        except OSError as refused:
            _send(answer, None, refused)
            return
        if process == 0:
            try:
                control.close()
                if service.confine is not None:
                    service.confine()
                if service.cancellable:
                    arguments["patience"] = answer.fileno()
                _work(answer, service.work, arguments)
            finally:
                os._exit(0)
        running[process] = service


def _work(answer: socket.socket, work: Work, arguments: dict[str, Any]) -> None:
    try:
        result = work(**arguments)
    except Exception as failed:
        _send(answer, None, failed)
    else:
        _send(answer, result, None)


def _send(answer: socket.socket, result: Any, failure: Exception | None) -> None:
    parts = None if failure is None else _parts(failure)
    with contextlib.suppress(OSError):  # the node does not wait any more
        answer.sendall(json.dumps([result, parts]).encode())


def _parts(failure: Exception) -> dict[str, Any]:
    if isinstance(failure, ConfigError):
        return {name: getattr(failure, name) for name in _CONFIG_PARTS}
    if isinstance(failure, HostError):
        return {"message": failure.message, "errno": failure.errno or 0, "cure": failure.cure}
    number = failure.errno if isinstance(failure, OSError) and failure.errno else 0
    return {"message": str(failure) or repr(failure), "errno": number, "cure": ""}
