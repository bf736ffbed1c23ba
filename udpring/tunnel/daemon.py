"""A tunnel as a process of its own, for ``udpring-wg``. It behaves as wireguard-go (main.go,
ipc/uapi_linux.go).

The flow:
1. ``start`` forks before there is any thread. The parent returns when the child has sent one line: ready, or
   an error. The child leaves the caller's session, directory and descriptors.
2. The child opens the interface and the UAPI socket, then says that it is ready.
3. It serves until SIGTERM, SIGINT or SIGHUP, until the interface is deleted or the socket file is removed.
   Then it removes what it made.

In the foreground there is no fork and the log goes to standard error.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from udpring.errors import ConfigError, HostError
from udpring.tunnel import first_confinement
from udpring.tunnel.broker import Broker
from udpring.tunnel.decimal_text import parse_decimal
from udpring.tunnel.log_format import LogFormat, log_format
from udpring.tunnel.refusals import cure_of, explained, run_loop
from udpring.tunnel.worker_weight import WorkerWeight, nice_asked

if TYPE_CHECKING:
    import asyncio
    import logging
    import socket

    from udpring.tunnel.control import End
    from udpring.tunnel.plane import Plane

__all__ = [
    "DaemonOptions",
    "detach",
    "leave_the_caller",
    "load_modules",
    "serve",
    "start",
    "stop_signal",
]

_DEBUG, _ERROR, _CRITICAL = 10, 40, 50
"""Levels of ``logging``, which is not loaded before the broker process is made."""
LEVELS = {"verbose": _DEBUG, "debug": _DEBUG, "error": _ERROR, "silent": _CRITICAL + 1}
DONE, FAILED, MISUSED, HOST_CANNOT = 0, 1, 2, 3
DESCRIPTOR_MAX = 2**31 - 1


class DaemonOptions(NamedTuple):
    """How to run, by the environment and the command line."""

    interface: str
    foreground: bool = False
    log_level: int = _ERROR
    tun_fd: int | None = None
    uapi_fd: int | None = None
    log_format: LogFormat = LogFormat.TEXT
    confined: bool = True
    nice: int = 0

    @classmethod
    def read(
        cls,
        interface: str,
        foreground: bool,
        environment: Mapping[str, str],
        log_format_asked: str | None = None,
    ) -> DaemonOptions:
        """``LOG_LEVEL``, ``WG_TUN_FD``, ``WG_UAPI_FD``, ``WG_PROCESS_FOREGROUND`` as wireguard-go reads
        them, and ``UDPRING_CONFINEMENT``. Raises ConfigError for a value that cannot be used."""
        return cls(
            interface=interface,
            foreground=foreground or environment.get("WG_PROCESS_FOREGROUND") == "1",
            log_level=LEVELS.get(environment.get("LOG_LEVEL", "").lower(), _ERROR),
            tun_fd=_descriptor(environment, "WG_TUN_FD"),
            uapi_fd=_descriptor(environment, "WG_UAPI_FD"),
            log_format=log_format(log_format_asked, environment),
            confined=first_confinement.wanted(environment),
            nice=nice_asked(environment),
        )

    @property
    def descriptors(self) -> list[int]:
        """Descriptors that were passed on purpose."""
        return [number for number in (self.tun_fd, self.uapi_fd) if number is not None]


def _descriptor(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    number = parse_decimal(text, DESCRIPTOR_MAX)
    if number is None:
        raise ConfigError(f"{name} is not a descriptor number", file="<environment>", text=text)
    return number


def start(options: DaemonOptions) -> int:
    """Runs the tunnel, in the background unless ``options.foreground``; returns the exit code.

    In the background it returns once the interface exists and the UAPI socket answers (0), or with the
    reason on standard error (2: the environment has a wrong setting; 3: the host cannot). Call it before any
    thread is started.
    """
    if options.foreground:
        ended = _run(options, lambda: None)
        from udpring.tunnel.process_log import report  # noqa: PLC0415

        return report(*ended, bounded=True)
    return detach(
        lambda ready: _run(options, ready),
        keep=options.descriptors,
    )


def detach(
    work: Callable[[Callable[[], None]], tuple[int, str]],
    *,
    keep: list[int] | None = None,
    attached: bool = False,
) -> int:
    """Forks. The child runs ``work(ready)``. The parent returns when the child calls ``ready`` or ends.

    ``work`` returns its exit code and one line for an error. Descriptors in ``keep`` stay open in the child.
    With ``attached`` the child keeps the caller's session, directory and standard streams until it calls
    ``ready``, so programs that it starts before run in the caller's directory and print to its terminal.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        read_end, write_end = os.pipe()
        child = os.fork()
    except OSError as refused:
        number = refused.errno or 0
        text = f"the background process cannot be started: {refused.strerror}"
        raise HostError(text, errno=number, cure=cure_of(number)) from None
    if child == 0:
        code = FAILED
        try:
            os.close(read_end)
            code = _child(work, write_end, {write_end, *(keep or [])}, attached)
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8", errors="replace") as answer:
        try:
            said = answer.read()
        except KeyboardInterrupt:
            if not attached:
                raise
            said = answer.read()  # the child was interrupted too and reports what it undoes
    word, _, line = said.partition(" ")
    if word == "ready":
        return DONE
    os.waitpid(child, 0)
    from udpring.tunnel.process_log import report  # noqa: PLC0415

    return report(int(word) if word.isdecimal() else FAILED, line or "the background process ended at once")


def _child(
    work: Callable[[Callable[[], None]], tuple[int, str]], write_end: int, keep: set[int], attached: bool
) -> int:
    """Runs ``work``. ``keep``: the descriptors to keep when it leaves the caller, now or (``attached``) once
    ready."""
    reported = False

    def tell(text: str) -> None:
        nonlocal reported
        if not reported:
            reported = True
            os.write(write_end, text.encode("utf-8", "replace")[:4096])
            os.close(write_end)

    def ready() -> None:
        if attached and not reported:
            _close_log()  # for the caller to see
            leave_the_caller(keep)
        tell("ready")

    try:
        _close_all_but({0, 1, 2, *keep})
        if not attached:
            leave_the_caller(keep)
        code, line = work(ready)
    except BaseException as unexpected:
        refusal = explained(unexpected)
        if refusal is not None and not reported:
            code, line = HOST_CANNOT, str(refusal)
        else:
            _log().exception("the tunnel failed")
            code, line = FAILED, f"{type(unexpected).__name__}: {unexpected}"
    with contextlib.suppress(OSError):
        tell(f"{code} {line}")
    _close_log()
    return code


def _log() -> logging.Logger:
    import logging  # noqa: PLC0415

    return logging.getLogger("udpring.node")


def _close_log() -> None:
    from udpring.tunnel.process_log import close_log  # noqa: PLC0415

    close_log()


def leave_the_caller(keep: set[int]) -> None:
    """Gives the process its own session, directory and standard streams."""
    what, cure = "session of its own (setsid)", ""
    try:
        os.setsid()
        what = "working directory (chdir /)"
        os.chdir("/")
        what = f"{os.devnull} to take the place of the standard streams"
        cure = f"make it: mknod -m 666 {os.devnull} c 1 3, or stay in the foreground"
        null = os.open(os.devnull, os.O_RDWR)
        what, cure = "standard streams of its own (dup2)", ""
        for stream in (0, 1, 2):
            if stream not in keep:
                os.dup2(null, stream)
        if null > 2:
            os.close(null)
    except OSError as refused:
        number = refused.errno or 0
        text = f"no {what}: {refused.strerror}"
        raise HostError(text, errno=number, cure=cure or cure_of(number)) from None


def _close_all_but(keep: set[int]) -> None:
    lowest = 3
    for kept in sorted(number for number in keep if number >= 3):
        os.closerange(lowest, kept)
        lowest = kept + 1
    os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))


def _run(options: DaemonOptions, ready: Callable[[], None]) -> tuple[int, str]:
    # Before there is a thread: a log line starts one. Before most modules are loaded: it needs few of them.
    nice = options.nice
    broker = Broker.start(lambda control: _help(control, nice)) if options.confined else None
    try:
        load_modules()
        from udpring.tunnel.process_log import setup_log  # noqa: PLC0415

        setup_log(
            options.interface, options.log_level, foreground=options.foreground, style=options.log_format
        )
        WorkerWeight(nice).prepare()
        if broker is not None:
            from udpring.tunnel.confinement import begin  # noqa: PLC0415
            from udpring.tunnel.socket_path import SOCKET_DIRECTORY  # noqa: PLC0415

            begin([SOCKET_DIRECTORY])
        return _serve(options, ready, broker)
    finally:
        if broker is not None:
            broker.close()


def _help(control: socket.socket, nice: int = 0) -> None:
    """The broker process. It keeps CAP_SYS_NICE if it is to set the nice value of the node's session."""
    from udpring.tunnel.broker import serve as serve_node  # noqa: PLC0415
    from udpring.tunnel.broker_services import (  # noqa: PLC0415
        NodeWeight,
        SocketFiles,
        drop_rights,
        services,
    )
    from udpring.tunnel.capabilities import SYS_NICE  # noqa: PLC0415
    from udpring.tunnel.start_code import code_of_process, give_back  # noqa: PLC0415

    weight = NodeWeight(nice)
    drop_rights(*[SYS_NICE] * bool(nice))
    files = SocketFiles()
    try:
        every = services(files, weight)
        give_back(code_of_process())
        serve_node(control, every, weight.notice)
    finally:
        weight.close()
        files.close()


def _serve(options: DaemonOptions, ready: Callable[[], None], broker: Broker | None) -> tuple[int, str]:
    up = False

    def is_up() -> None:
        nonlocal up
        ready()
        up = True

    try:
        end = run_loop(lambda: serve(options, is_up, broker))
    except ConfigError as wrong:
        return MISUSED, str(wrong)
    except Exception as failed:
        refusal = explained(failed)
        if refusal is None:
            raise
        return FAILED if up else HOST_CANNOT, str(refusal)
    if end is not None and end.failed:
        return FAILED, end.reason
    return DONE, ""


def load_modules(*more: str) -> None:
    """Imports what a node needs, and ``more``. The garbage collector looks at none of it, then or later:
    modules are no garbage, and they are most of a node's objects."""
    gc.disable()
    try:
        _load_asyncio()
        from udpring.tunnel import confinement, outside, process_log, uapi_server  # noqa: F401, PLC0415

        for name in more:
            importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _load_asyncio() -> None:
    """Without TLS, which this process never uses: with it, asyncio takes twice the time and 4 MiB more."""
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    absent: dict[str, Any] = {"ssl": None}  # then its import fails, which asyncio expects
    sys.modules.update(absent)
    try:
        import asyncio  # noqa: F401, PLC0415
    finally:
        del sys.modules["ssl"]


async def serve(
    options: DaemonOptions, ready: Callable[[], None], broker: Broker | None = None
) -> End | None:
    """Opens the tunnel and serves it until a signal (None) or the end of the interface.

    Raises HostError if the interface or its socket cannot be made.
    """
    import asyncio  # noqa: PLC0415

    from udpring.tunnel import outside as elsewhere  # noqa: PLC0415
    from udpring.tunnel.plane import Plane  # noqa: PLC0415
    from udpring.tunnel.service_manager import ServiceManager  # noqa: PLC0415
    from udpring.tunnel.socket_file import SocketFile  # noqa: PLC0415
    from udpring.tunnel.socket_path import SOCKET_DIRECTORY, socket_name  # noqa: PLC0415
    from udpring.tunnel.timestamp_file import timestamp_path  # noqa: PLC0415
    from udpring.tunnel.tunnel import Tunnel  # noqa: PLC0415
    from udpring.tunnel.uapi_server import UapiServer  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    stop = stop_signal(loop)
    manager = ServiceManager(os.environ if options.foreground else {})
    descriptors = () if options.tun_fd is None else (options.tun_fd,)
    outside = elsewhere.Outside() if broker is None else elsewhere.of_broker(broker)
    plane = Plane(options.interface, descriptors=descriptors, confined=broker is not None)
    tunnel = Tunnel(plane, loop=loop, view=outside.tunnel)
    for descriptor in descriptors:
        os.close(descriptor)  # the plane has its own
    try:
        kept = timestamp_path(None, tunnel.name)
        tunnel.keep_timestamps(kept)
        path = socket_name(SOCKET_DIRECTORY, tunnel.name)
        file = await SocketFile.open(path, descriptor=options.uapi_fd, remove=outside.remove)
        server = UapiServer(tunnel, file)
        try:
            tunnel.start()
            server.start()
            WorkerWeight(options.nice).apply(plane, broker)
            if _log().isEnabledFor(_DEBUG):
                _log_start(plane, tunnel.listen_port, path)
            if broker is not None:
                with contextlib.suppress(OSError):  # WG_UAPI_FD may have no file there
                    outside.made(path)
                broker.call("seal")
                _confine(writes_files=kept is not None)
                broker.watch(loop)
            ready()
            manager.ready()
            ends: list[asyncio.Future[Any]] = [stop, tunnel.gone, server.gone]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            end: End | None = None
            if not stop.done():
                end = tunnel.gone.result() if tunnel.gone.done() else server.gone.result()
            _log().debug(
                "%s ends: %s", tunnel.name, end.reason if end else signal.Signals(stop.result()).name
            )
            return end
        finally:
            manager.stopping()
            await server.close()
    finally:
        tunnel.close()


def _log_start(plane: Plane, port: int, path: str) -> None:
    from udpring.tunnel.ciphers import aead_in_words  # noqa: PLC0415

    stats = plane.stats()
    _log().debug(
        "%s is up: tier %s%s, AEAD %s, %d worker%s, UDP port %d, UAPI at %s",
        plane.name,
        stats.tier,
        f" ({plane.tier_reason})" if plane.tier_reason else "",
        aead_in_words(),
        stats.workers,
        "" if stats.workers == 1 else "s",
        port,
        path,
    )


def _confine(*, writes_files: bool) -> None:
    from udpring.tunnel.confinement import Profile, complete  # noqa: PLC0415
    from udpring.tunnel.start_code import code_of_process, give_back  # noqa: PLC0415

    code = code_of_process()
    complete(Profile.NODE | Profile.FILES if writes_files else Profile.NODE)
    give_back(code)


def stop_signal(loop: asyncio.AbstractEventLoop) -> asyncio.Future[int]:
    """Resolved with the number of the first SIGTERM, SIGINT or SIGHUP, which stays ignored if it was
    (nohup(1))."""
    stop: asyncio.Future[int] = loop.create_future()

    def resolve(number: int) -> None:
        if not stop.done():
            stop.set_result(number)

    hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    for number in (signal.SIGTERM, signal.SIGINT, *hang_up):
        loop.add_signal_handler(number, resolve, number)
    return stop
