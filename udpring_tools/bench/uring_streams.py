"""Rows ``echo``, ``sink`` and ``http`` of ``bench uring``: a server in its own process, and a client in C.

The CPU time is that of the server's process, from its CPU clock (clock_getcpuclockid(3)).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import subprocess
import time
import types
from collections.abc import Iterator
from typing import Any

from udpring.errors import HostError, UdpringError
from udpring_tools._native import ffi, lib
from udpring_tools.bench.interpreter import module_argv
from udpring_tools.bench.uring_row import Contender, Place, Row, Sample, package, program

__all__ = ["ServerProcess", "echo_row", "http_row", "sink_row"]

MESSAGE = 512
PIECE = 1 << 16
TIMES = 1 << 18
"""Round trips that are kept for the percentiles."""
WARM_UP = 0.1
"""Part of the time that does not count."""
_WAIT, _END = 30.0, 1.0


class ServerProcess:
    """A server of ``uring_server``. Raises HostError with its last words if it does not start, or
    ends before its block does."""

    def __init__(self, work: str, way: str) -> None:
        self._process = subprocess.Popen(
            module_argv("udpring_tools.bench.uring_server", work, way),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._way = way
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdecimal():
            raise self._failure("did not start")
        self.port = int(line)
        # MAKE_PROCESS_CPUCLOCK of the kernel, which clock_getcpuclockid(3) returns.
        self._clock = ~self._process.pid << 3 | 2

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        return time.clock_gettime(self._clock)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # its end may be what the client noticed
                self._process.wait(_END)
            if self._process.returncode:
                raise self._failure("ended") from error
        self._process.kill()
        if self._process.returncode is None:
            self._process.communicate(timeout=_WAIT)

    def _failure(self, what: str) -> HostError:
        _out, words = self._process.communicate(timeout=_WAIT)
        return HostError(f"the server {self._way} {what}: {''.join(words.strip().splitlines()[-1:])}")


@contextlib.contextmanager
def _connected(port: int, count: int) -> Iterator[Any]:
    """The descriptors of so many connections to the server, for C."""
    with contextlib.ExitStack() as closing:
        socks = []
        for _ in range(count):
            sock = closing.enter_context(socket.create_connection(("127.0.0.1", port), _WAIT))
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            socks.append(sock)
        yield ffi.new("int32_t[]", [sock.fileno() for sock in socks])


def _checked(code: int) -> int:
    if code < 0:
        raise UdpringError(f"the client failed: {os.strerror(-code)}")
    return code


# -- echo --


def echo_row(place: Place) -> Row:
    """Messages of 512 bytes back and forth."""
    count = place.sizes.connections

    def contender(way: str, needs: tuple[str, ...] = ()) -> Contender:
        return Contender(lambda seconds: _echo(way, count, seconds), needs)

    return Row(
        "echo",
        f"TCP echo, {count} connections, {MESSAGE} B, one process",
        {
            "messages_cpu_s": "messages per CPU-s",
            "messages_s": "messages/s",
            "p50_ms": "p50 ms",
            "p99_ms": "p99 ms",
        },
        {
            "udpring net": contender("net"),
            "udpring protocols": contender("protocols"),
            "udpring streams": contender("streams"),
            "udpring ring": contender("ring"),
            "uvloop": contender("uvloop", package("uvloop")),
            "asyncio": contender("asyncio"),
            "asyncio, block freed": contender("asyncio-freed"),
            "epoll in C": contender("epoll"),
        },
    )


def _echo(way: str, count: int, seconds: float) -> Sample:
    payload = bytes(byte & 0xFF for byte in range(MESSAGE))
    times = ffi.new("uint32_t[]", TIMES)
    with ServerProcess("echo", way) as server, _connected(server.port, count) as fds:

        def exchange(long: float) -> int:
            code = lib.udpring_bench_exchange(
                fds, count, payload, MESSAGE, MESSAGE, round(long * 1e9), times, TIMES
            )
            return _checked(code)

        exchange(WARM_UP * seconds)
        used, began = server.cpu_seconds(), time.perf_counter()
        done = exchange(seconds)
        took, used = time.perf_counter() - began, server.cpu_seconds() - used
    trips = sorted(ffi.unpack(times, min(done, TIMES)))
    return {
        "messages_cpu_s": done / used,
        "messages_s": done / took,
        "p50_ms": trips[len(trips) // 2] / 1e6,
        "p99_ms": trips[math.ceil(len(trips) * 0.99) - 1] / 1e6,
    }


# -- sink --


def sink_row(place: Place) -> Row:
    """Bytes as fast as the server takes them."""
    count = place.sizes.sinks

    def contender(way: str, needs: tuple[str, ...] = (), work: str = "sink") -> Contender:
        return Contender(lambda seconds: _sink(work, way, count, seconds), needs)

    return Row(
        "sink",
        f"TCP sink, {count} connections",
        {"gbit_cpu_s": "Gbit per CPU-s", "gbit_s": "Gbit/s"},
        {
            "udpring net": contender("net"),
            "udpring protocols": contender("protocols"),
            "udpring streams": contender("streams"),
            "udpring ring": contender("ring"),
            "uvloop": contender("uvloop", package("uvloop")),
            "uvloop, buffered": contender("uvloop", package("uvloop"), "sink-buffered"),
            "asyncio": contender("asyncio"),
            "asyncio, buffered": contender("asyncio", (), "sink-buffered"),
            "epoll in C": contender("epoll"),
        },
    )


def _sink(work: str, way: str, count: int, seconds: float) -> Sample:
    data = bytes(PIECE)
    with ServerProcess(work, way) as server, _connected(server.port, count) as fds:

        def pour(long: float) -> int:
            return _checked(lib.udpring_bench_pour(fds, count, data, PIECE, round(long * 1e9)))

        pour(WARM_UP * seconds)
        used, began = server.cpu_seconds(), time.perf_counter()
        gbit = pour(seconds) * 8 / 1e9
        took, used = time.perf_counter() - began, server.cpu_seconds() - used
    return {"gbit_cpu_s": gbit / used, "gbit_s": gbit / took}


# -- HTTP --


def http_row(place: Place) -> Row:
    """Requests of wrk."""
    count = place.sizes.connections

    def contender(work: str, way: str, needs: tuple[str, ...]) -> Contender:
        return Contender(lambda seconds: _http(work, way, count, seconds), (*program("wrk"), *needs))

    httptools, h11 = package("httptools"), package("h11")
    return Row(
        "http",
        f"HTTP/1.1 hello, {count} keep-alive connections, wrk",
        {"requests_s": "requests/s", "requests_cpu_s": "requests per CPU-s", "p99_ms": "p99 ms"},
        {
            "udpring + httptools": contender("http-httptools", "protocols", httptools),
            "udpring + h11": contender("http-h11", "protocols", h11),
            "uvloop + httptools": contender("http-httptools", "uvloop", (*package("uvloop"), *httptools)),
            "asyncio + httptools": contender("http-httptools", "asyncio", httptools),
            "asyncio, block freed + httptools": contender("http-httptools", "asyncio-freed", httptools),
            "asyncio + h11": contender("http-h11", "asyncio", h11),
        },
    )


_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def _http(work: str, way: str, count: int, seconds: float) -> Sample:
    long = max(1, round(seconds))  # wrk knows whole seconds
    command = ["wrk", "-t1", f"-c{count}", f"-d{long}s", "--timeout=10s", "--latency"]
    with ServerProcess(work, way) as server:
        used = server.cpu_seconds()
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{server.port}/"],
            capture_output=True,
            text=True,
            timeout=long + _WAIT,
            check=False,
        )
        used = server.cpu_seconds() - used
    counted = re.search(r"(\d+) requests in ([\d.]+)(\w+)", done.stdout)
    late = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", done.stdout)
    if done.returncode or counted is None or late is None or re.search("Non-2xx|Socket errors", done.stdout):
        raise HostError(f"wrk failed: {done.stdout.strip()} {done.stderr.strip()}")
    requests = int(counted[1])
    return {
        "requests_s": requests / (float(counted[2]) * _UNITS.get(counted[3], 1e3) / 1e3),
        "requests_cpu_s": requests / used,
        "p99_ms": float(late[1]) * _UNITS[late[2]],
    }
