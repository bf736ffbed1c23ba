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
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udpring.errors import ConfigError, HostError
from udpring.tunnel import confinement
from udpring.tunnel.broker import Broker
from udpring.tunnel.capabilities import KILL, NET_ADMIN, SETGID, SETUID, keep_only
from udpring.tunnel.decimal_text import parse_decimal
from udpring.tunnel.log_format import JOURNAL, JournalSink, JsonFormatter, LogFormat, MessageSink, log_format
from udpring.tunnel.log_writer import LAST_SECONDS, DescriptorSink, LogHandler, Sink, SyslogSink, write_within
from udpring.tunnel.refusals import cure_of, explained, run_loop

if TYPE_CHECKING:
    import asyncio

    from udpring.tunnel.control import End

__all__ = [
    "DaemonOptions",
    "close_log",
    "detach",
    "leave_the_caller",
    "report",
    "serve",
    "setup_log",
    "start",
    "stop_signal",
]

SYSLOG = "/dev/log"
LEVELS = {
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
    "error": logging.ERROR,
    "silent": logging.CRITICAL + 1,
}
DONE, FAILED, MISUSED, HOST_CANNOT = 0, 1, 2, 3
DESCRIPTOR_MAX = 2**31 - 1

log = logging.getLogger("udpring.node")


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """How to run, by the environment and the command line."""

    interface: str
    foreground: bool = False
    log_level: int = logging.ERROR
    tun_fd: int | None = None
    uapi_fd: int | None = None
    log_format: LogFormat = LogFormat.TEXT
    confined: bool = True

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
            log_level=LEVELS.get(environment.get("LOG_LEVEL", "").lower(), logging.ERROR),
            tun_fd=_descriptor(environment, "WG_TUN_FD"),
            uapi_fd=_descriptor(environment, "WG_UAPI_FD"),
            log_format=log_format(log_format_asked, environment),
            confined=confinement.wanted(environment),
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
        return report(*_run(options, lambda: None), bounded=True)
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
            close_log()  # for the caller to see
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
            log.exception("the tunnel failed")
            code, line = FAILED, f"{type(unexpected).__name__}: {unexpected}"
    with contextlib.suppress(OSError):
        tell(f"{code} {line}")
    close_log()
    return code


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


def report(code: int, line: str, *, bounded: bool = False) -> int:
    """Prints an error as one line and returns the exit code. ``bounded``: a stalled standard error delays the
    end of the process by one second at most."""
    if code and line:
        text = f"udpring: {' '.join(line.split())}"
        if bounded and _structured is not None:
            _structured.handle(logging.LogRecord(log.name, logging.ERROR, __file__, 0, line, (), None))
            _structured.close()
        elif bounded:
            sink = DescriptorSink(sys.stderr.fileno())
            write_within(LAST_SECONDS, lambda: sink.write(logging.ERROR, text))
        else:
            print(text, file=sys.stderr)
    return code


_structured: logging.Handler | None = None
"""Where the last line of a process in the foreground goes, unless the log is text."""


def setup_log(
    interface: str,
    level: int,
    *,
    foreground: bool,
    attached: bool = False,
    style: LogFormat = LogFormat.TEXT,
) -> None:
    """The log: to standard error in the foreground, otherwise to syslog if there is one. JOURNALD goes to
    the journal's socket, or without one to standard error with priorities, or to syslog. Call it after the
    last fork. No line blocks its writer (``log_writer``).

    With ``attached`` warnings go to standard error too, which belongs to the caller until the node is ready.
    """
    global _structured
    handlers: list[logging.Handler] = []
    sink = _sink(foreground, style) if foreground or level <= logging.CRITICAL else None
    if sink is not None:
        head = f"%(levelname)s: ({interface}) %(asctime)s" if foreground else f"({interface}) %(levelname)s"
        handlers.append(_handler(sink, head))
        if style is not LogFormat.TEXT:
            handlers[-1].setFormatter(JsonFormatter("udpring", interface))
            _structured = handlers[-1] if foreground else None
    if attached:
        handlers.append(_handler(DescriptorSink(sys.stderr.fileno()), "udpring: %(levelname)s:"))
        handlers[-1].setLevel(logging.WARNING)
    # Python's own loggers too: their output would go to a standard error that may block.
    logging.captureWarnings(True)
    for name in ("udpring", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.setLevel(level if name == "udpring" else max(level, logging.WARNING))
        logger.propagate = False
        for old in logger.handlers:
            old.close()
        logger.handlers[:] = handlers or [logging.NullHandler()]
    sys.unraisablehook = _log_unraisable


def _sink(foreground: bool, style: LogFormat) -> Sink | None:
    """None: the host has no log. ``style``: of the lines that the sink gets."""
    if foreground:
        plain: Sink = DescriptorSink(sys.stderr.fileno())
    elif Path(SYSLOG).exists():
        plain = SyslogSink(SYSLOG, f"udpring-wg[{os.getpid()}]")
    elif style is LogFormat.JOURNALD and Path(JOURNAL).exists():
        plain = DescriptorSink(sys.stderr.fileno())  # what the journal refuses is lost
    else:
        return None
    if style is not LogFormat.JOURNALD:
        return plain
    return JournalSink(JOURNAL, MessageSink(plain, priorities=foreground))


def _handler(sink: Sink, head: str) -> logging.Handler:
    handler = LogHandler(sink)
    handler.setFormatter(logging.Formatter(f"{head} %(message)s"))
    return handler


def _log_unraisable(what: sys.UnraisableHookArgs) -> None:
    if what.exc_value is not None:
        info = (what.exc_type, what.exc_value, what.exc_traceback)
        with contextlib.suppress(MemoryError):  # it may be the reason of this call, too
            log.error("%s", what.err_msg or "an exception was ignored", exc_info=info)


def close_log() -> None:
    """Waits a bounded time for the last lines."""
    for handler in logging.getLogger("udpring").handlers:
        handler.close()


def _run(options: DaemonOptions, ready: Callable[[], None]) -> tuple[int, str]:
    # Before there is a thread: a log line starts one.
    broker = Broker.start(_help) if options.confined else None
    setup_log(options.interface, options.log_level, foreground=options.foreground, style=options.log_format)
    try:
        if broker is not None:
            confinement.begin()
        return _serve(options, ready, broker)
    finally:
        if broker is not None:
            broker.close()


def _help(control: socket.socket) -> None:
    """The broker process. It keeps CAP_NET_ADMIN for ``wg``. A look-up runs as another user, which takes the
    other ones."""
    from udpring.tunnel.broker import serve as serve_node  # noqa: PLC0415
    from udpring.tunnel.outside import SocketFiles, services  # noqa: PLC0415

    with contextlib.suppress(OSError):
        keep_only([NET_ADMIN, KILL, SETGID, SETUID])
    confinement.protect_memory()
    files = SocketFiles()
    try:
        serve_node(control, services(files))
    finally:
        files.close()


def _serve(options: DaemonOptions, ready: Callable[[], None], broker: Broker | None) -> tuple[int, str]:
    up = False

    def is_up() -> None:
        nonlocal up
        ready()
        up = True

    try:
        _load_asyncio()
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
    from udpring.tunnel.ciphers import aead_in_words  # noqa: PLC0415
    from udpring.tunnel.plane import Plane  # noqa: PLC0415
    from udpring.tunnel.service_manager import ServiceManager  # noqa: PLC0415
    from udpring.tunnel.socket_file import SocketFile, socket_path  # noqa: PLC0415
    from udpring.tunnel.timestamp_file import timestamp_path  # noqa: PLC0415
    from udpring.tunnel.tunnel import Tunnel  # noqa: PLC0415
    from udpring.tunnel.uapi import SOCKET_DIRECTORY  # noqa: PLC0415
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
        path = socket_path(SOCKET_DIRECTORY, tunnel.name)
        file = await SocketFile.open(path, descriptor=options.uapi_fd, remove=outside.remove)
        server = UapiServer(tunnel, file)
        try:
            tunnel.start()
            server.start()
            stats = plane.stats()
            log.debug(
                "%s is up: tier %s (%s), AEAD %s, %d worker%s, UDP port %d, UAPI at %s",
                tunnel.name,
                stats.tier,
                plane.tier_reason,
                aead_in_words(),
                stats.workers,
                "" if stats.workers == 1 else "s",
                tunnel.listen_port,
                path,
            )
            if broker is not None:
                with contextlib.suppress(OSError):  # WG_UAPI_FD may have no file there
                    outside.made(path)
                broker.call("seal")
                profile = confinement.Profile.NODE
                if kept:
                    profile |= confinement.Profile.FILES
                confinement.complete(profile)
                broker.watch(loop)
            ready()
            manager.ready()
            ends: list[asyncio.Future[Any]] = [stop, tunnel.gone, server.gone]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            end: End | None = None
            if not stop.done():
                end = tunnel.gone.result() if tunnel.gone.done() else server.gone.result()
            log.debug("%s ends: %s", tunnel.name, end.reason if end else signal.Signals(stop.result()).name)
            return end
        finally:
            manager.stopping()
            await server.close()
    finally:
        tunnel.close()


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
