"""Traffic with content checks at the far end. Every wait has a bound."""

from __future__ import annotations

import hashlib
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable

from lab.space import Space

SO_RCVBUFFORCE = 33
#: Seconds until a stream ends that no test finished, because the test has failed.
ENDLESS = 60


def ping(
    space: Space, address: str, *, deadline: int = 30, size: int = 56, more: tuple[str, ...] = ()
) -> None:
    """One echo request a second until one is answered. Raises AssertionError after ``deadline`` s."""
    done = space.run(
        "ping", "-n", "-c", "1", "-w", str(deadline), "-s", str(size), *more, address,
        check=False, timeout=deadline + 10,
    )  # fmt: skip
    assert done.returncode == 0, f"{space.name} does not reach {address} within {deadline} s: {done.stdout}"


def unreached(space: Space, address: str, seconds: int = 1) -> bool:
    """True if ``address`` answers no ping for some seconds."""
    done = space.run(
        "ping", "-n", "-i", "0.2", "-w", str(seconds), address, check=False, timeout=seconds + 10
    )
    return done.returncode == 1


class TcpStream:
    """One TCP connection through the tunnel. Each end has a thread that hashes the data.

    rate: bytes a second, None for unlimited. It ends after ``size`` bytes or ``seconds``, and without both at
    ``finish``.
    """

    def __init__(
        self,
        source: Space,
        target: Space,
        address: str,
        *,
        size: int | None = None,
        seconds: float | None = None,
        rate: int | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.size, self.seconds, self.rate, self.timeout = size, seconds, rate, timeout
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.sent_bytes = self.received_bytes = 0
        self.longest_silence = 0.0
        self._over = threading.Event()
        self.retransmits = 0
        self.failures: list[BaseException] = []
        self._source = source
        self._listener = target.socket(address, socket.SOCK_STREAM)
        self._listener.settimeout(timeout)
        self._listener.listen(1)
        self._where = self._listener.getsockname()[:2]
        self._threads = [
            threading.Thread(target=self._guard, args=(run,)) for run in (self._receive, self._send)
        ]
        for thread in self._threads:
            thread.start()

    def _guard(self, run: object) -> None:
        try:
            run()  # type: ignore[operator]
        except BaseException as error:
            self.failures.append(error)

    def _send(self) -> None:
        block = random.Random(self._where[1]).randbytes(1 << 16)
        wildcard = "::" if ":" in self._where[0] else "0.0.0.0"
        with self._source.socket(wildcard, socket.SOCK_STREAM) as sock:
            sock.settimeout(self.timeout)
            sock.connect(self._where)
            begin = time.monotonic()
            while self._goes_on(time.monotonic() - begin):
                # Each block begins with its position, so all blocks differ.
                piece = struct.pack("!Q", self.sent_bytes) + block
                if self.rate is not None:
                    piece = piece[: max(16, self.rate // 20)]
                if self.size is not None:
                    piece = piece[: self.size - self.sent_bytes]
                sock.sendall(piece)
                self.sent.update(piece)
                self.sent_bytes += len(piece)
                if self.rate is not None:
                    time.sleep(max(0.0, begin + self.sent_bytes / self.rate - time.monotonic()))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)  # until the far end has read everything and closed
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            self.retransmits = struct.unpack_from("=I", info, 100)[0]  # tcpi_total_retrans

    def _goes_on(self, age: float) -> bool:
        if self.size is None and self.seconds is None:
            return not self._over.is_set() and age < ENDLESS
        return (self.size is None or self.sent_bytes < self.size) and (
            self.seconds is None or age < self.seconds
        )

    def _receive(self) -> None:
        with self._listener:
            sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(self.timeout)
            last = time.monotonic()
            while piece := sock.recv(1 << 18):
                now = time.monotonic()
                self.longest_silence = max(self.longest_silence, now - last)
                last = now
                self.received.update(piece)
                self.received_bytes += len(piece)

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def finish(self) -> TcpStream:
        """Waits for both ends. Raises AssertionError if one failed or the content differs."""
        self._over.set()
        for thread in self._threads:
            thread.join((self.seconds or 0) + 6 * self.timeout)
            assert not thread.is_alive(), (
                f"a TCP stream hangs at {self.sent_bytes} sent, {self.received_bytes} received"
            )
        if self.failures:
            raise AssertionError(
                f"TCP broke at {self.sent_bytes} sent, {self.received_bytes} received: {self.failures!r}"
            ) from self.failures[0]
        assert self.received_bytes == self.sent_bytes
        assert self.received.digest() == self.sent.digest(), "TCP content differs"
        return self


def tcp(source: Space, target: Space, address: str, size: int = 4 << 20, timeout: float = 30.0) -> TcpStream:
    """Moves ``size`` bytes from ``source`` to ``address`` of ``target`` and compares their SHA-256."""
    return TcpStream(source, target, address, size=size, timeout=timeout).finish()


def datagrams(
    source: Space, target: Space, source_address: str, address: str, sizes: Iterable[int], *, tries: int = 10
) -> None:
    """Sends one UDP datagram of each size. Each must arrive complete and from the right address.

    UDP may lose datagrams: missing ones are sent again, ``tries`` times in all.
    """
    filler = random.Random(7).randbytes(1 << 17)
    wanted = {size: filler[size % 977 :][:size] for size in sizes}
    window = 32
    with (
        source.socket(source_address, socket.SOCK_DGRAM) as out,
        target.socket(address, socket.SOCK_DGRAM) as into,
    ):
        into.setsockopt(
            socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20
        )  # each fragment of a packet counts at full size
        where = into.getsockname()
        origin = out.getsockname()[:2]
        missing = dict(wanted)
        for _ in range(tries):
            todo = list(missing)
            for first in range(0, len(todo), window):
                batch = todo[first : first + window]
                for size in batch:
                    out.sendto(wanted[size], where)
                _collect(into, missing, batch, origin)
            if not missing:
                return
    raise AssertionError(
        f"{len(missing)} of {len(wanted)} datagrams never arrived, of sizes {list(missing)[:20]}"
    )


def _collect(
    into: socket.socket, missing: dict[int, bytes], batch: list[int], origin: tuple[str, int]
) -> None:
    deadline = time.monotonic() + 2.0
    while any(size in missing for size in batch):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([into], [], [], left)[0]:
            return
        data, sender = into.recvfrom(65536)
        assert sender[:2] == origin, f"a datagram came from {sender}, not {origin}"
        if len(data) in missing:
            assert data == missing.pop(len(data)), f"a datagram of {len(data)} bytes arrived changed"
