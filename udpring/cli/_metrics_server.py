"""Serves metrics by HTTP on a TCP port or a UNIX socket, in threads of its own.

At most ``AT_ONCE`` scrapes run at once, each for at most ``SCRAPE_SECONDS``. Others wait in the kernel's
backlog. A scrape reads the nodes over their UAPI sockets, so it needs no lock with an event loop.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from udpring.errors import ConfigError, HostError
from udpring.tunnel.decimal_text import parse_decimal
from udpring.tunnel.refusals import cure_of

if TYPE_CHECKING:
    from prometheus_client.exposition import MetricsHandler

__all__ = ["ADDRESS_HELP", "DEFAULT", "MetricsAddress", "MetricsServer", "metrics_text", "require_client"]

AT_ONCE = 4
BACKLOG = 16
SCRAPE_SECONDS = 30.0
DEFAULT = "127.0.0.1:9586"
"""The port of prometheus_wireguard_exporter."""
ADDRESS_HELP = "ADDRESS:PORT, or the PATH of a UNIX socket, which has a slash"


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where metrics are served: ``path`` of a UNIX socket, or ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> MetricsAddress:
        """``127.0.0.1:9586``, ``[::1]:9586``, ``/run/udpring/metrics.sock``. Raises ConfigError."""
        if "/" in text:
            return cls(path=str(Path(text).absolute()))
        host, _, port_text = text.rpartition(":")
        port = parse_decimal(port_text, 0xFFFF)
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            if port is None or ((":" in host) and not bracketed):
                raise ValueError
            address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise ConfigError(
                "not an address for metrics",
                file="<command line>",
                text=text,
                cure=f"use {ADDRESS_HELP}: {DEFAULT}, [::1]:9586, /run/udpring.sock",
            ) from None
        return cls(str(address), port)

    def __str__(self) -> str:
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


def require_client() -> None:
    """Raises HostError where prometheus-client is not installed."""
    try:
        import prometheus_client  # noqa: F401, PLC0415
    except ImportError:
        raise HostError(
            "metrics need the Python package prometheus-client, which is not installed",
            cure="pip install 'udpring[metrics]'",
        ) from None


def metrics_text(names: Sequence[str] = ()) -> str:
    """The metrics now, in the text format of Prometheus, which textfile collectors read."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    from udpring.cli._metrics import InterfaceMetrics  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(InterfaceMetrics(names))
    return generate_latest(registry).decode()


class MetricsServer:
    """Listens from the start; ``serve`` begins to answer, ``close`` ends it. Raises HostError where the
    address cannot be had."""

    def __init__(self, address: MetricsAddress, names: Sequence[str] = ()) -> None:
        require_client()
        from prometheus_client import CollectorRegistry  # noqa: PLC0415
        from prometheus_client.exposition import MetricsHandler  # noqa: PLC0415

        from udpring.cli._metrics import InterfaceMetrics  # noqa: PLC0415

        registry = CollectorRegistry(auto_describe=False)
        registry.register(InterfaceMetrics(names))
        self._handler: type[MetricsHandler] = type(
            "Handler", (MetricsHandler,), {"registry": registry, "timeout": SCRAPE_SECONDS}
        )
        self.address = address
        self._slots = threading.Semaphore(AT_ONCE)
        self._closed = False
        self._thread: threading.Thread | None = None
        try:
            self._socket = _listen(address)
        except OSError as refused:
            number = refused.errno or 0
            cure = "stop the other program, or choose another address" if number == 98 else cure_of(number)
            raise HostError(f"metrics at {address}: {refused.strerror}", errno=number, cure=cure) from None
        if not address.path:
            self.address = MetricsAddress(address.host, int(self._socket.getsockname()[1]))

    def serve(self) -> None:
        """Answers from now on."""
        self._thread = threading.Thread(target=self._accept, name="udpring-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it, and removes the UNIX socket. Scrapes that run end by themselves."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends accept(2)
        self._slots.release()  # scrapes may hold all of them, and wait for this thread's event loop
        if self._thread is not None:
            self._thread.join()
        self._socket.close()
        if self.address.path:
            with contextlib.suppress(OSError):
                Path(self.address.path).unlink()

    def _accept(self) -> None:
        while not self._closed:
            self._slots.acquire()
            try:
                client, _ = self._socket.accept()
            except OSError:
                self._slots.release()
                if not self._closed:
                    threading.Event().wait(0.1)  # no descriptors: the connection stays in the backlog
                continue
            try:
                threading.Thread(
                    target=self._answer, args=(client,), name="udpring-scrape", daemon=True
                ).start()
            except RuntimeError:  # no thread can be started
                client.close()
                self._slots.release()

    def _answer(self, client: socket.socket) -> None:
        bound = threading.Timer(SCRAPE_SECONDS, _end, (client,))
        bound.daemon = True
        try:
            with client, contextlib.suppress(OSError):
                bound.start()
                self._handler(client, ("", 0), self)  # type: ignore[arg-type]
        finally:
            bound.cancel()
            self._slots.release()


def _end(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


def _listen(address: MetricsAddress) -> socket.socket:
    family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if address.path:
            _remove_stale(address.path)
            os.fchmod(listening.fileno(), 0o660)  # the file gets this mode less the umask
            listening.bind(address.path)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address.host, address.port))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: str) -> None:
    """Removes a socket file that nobody listens at any more."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
    except OSError:
        pass  # it is not there, or bind says what is wrong
