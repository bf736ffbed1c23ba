"""Traffic through the tunnels with checks of order and content.

Two threads serve all UDP flows. Each TCP connection has a thread at both ends.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from lab.node import Node

from soak.order import Order

HEAD = struct.Struct("!IHxxQdI")  # magic, flow, number, time of sending, CRC of the payload
MAGIC = 0x50A4C0DE
UDP_SEGMENT = 103
SO_RCVBUFFORCE = 33
TICK = 0.01
TRAIN_EVERY, TRAIN, TRAIN_SIZE = 60, 24, 1200
FILLER = random.Random(3).randbytes(1 << 16)
BLOCK = 1 << 16
Report = Callable[[str, str], None]


@dataclass
class UdpFlow:
    """Numbered datagrams from one node to another."""

    number: int
    name: str
    ends: tuple[str, str]
    out: socket.socket
    into: socket.socket
    to: tuple[str, int]
    order: Order = field(default_factory=Order)
    next: int = 0
    refused: int = 0
    received_at: float = 0.0
    newest: float = 0.0
    """The time of sending of the newest datagram that has arrived."""
    longest_gap: float = 0.0

    def message(self, size: int, now: float) -> bytes:
        body = FILLER[self.next * 7919 % (len(FILLER) - 1500) :][: max(0, size - HEAD.size)]
        check = zlib.crc32(body, self.next & 0xFFFFFFFF)
        message = HEAD.pack(MAGIC, self.number, self.next, now, check) + body
        self.next += 1
        return message


class UdpTraffic:
    """All UDP flows. ``may_reorder`` returns whether reordering is permitted at a given time."""

    def __init__(self, report: Report, may_reorder: Callable[[], bool], rng: random.Random) -> None:
        self.flows: list[UdpFlow] = []
        self._report, self._may_reorder, self._rng = report, may_reorder, rng
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, source: Node, target: Node, ends: tuple[str, str], family: int) -> None:
        here, there = (source.inner4, target.inner4) if family == 4 else (source.inner6, target.inner6)
        into = target.space.socket(there, socket.SOCK_DGRAM)
        into.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        out = source.space.socket(here, socket.SOCK_DGRAM)
        for each in (out, into):
            each.setblocking(False)
        name = f"udp {ends[0]}->{ends[1]} inner{family}"
        self.flows.append(UdpFlow(len(self.flows), name, ends, out, into, into.getsockname()[:2]))

    def start(self) -> None:
        for run in (self._send, self._receive):
            self._threads.append(threading.Thread(target=self._guard, args=(run,), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            self._report("traffic", f"{run.__name__} of the UDP flows ended: {error!r}")
            raise

    def _send(self) -> None:
        tick = 0
        while not self._over.wait(TICK):
            tick += 1
            for flow in self.flows:
                for _ in range(self._rng.randrange(4)):
                    size = self._rng.choice((HEAD.size, 40, 64, 100, 200, 512, 1200, 1372))
                    self._send_one(flow, flow.message(size, time.monotonic()))
                if (tick + 7 * flow.number) % TRAIN_EVERY == 0:
                    self._send_train(flow)

    def _send_one(self, flow: UdpFlow, message: bytes) -> None:
        try:
            flow.out.sendto(message, flow.to)
        except OSError:
            flow.refused += 1  # no route while the interface is gone, or a full queue: the number is missing

    def _send_train(self, flow: UdpFlow) -> None:
        now = time.monotonic()
        train = b"".join(flow.message(TRAIN_SIZE, now) for _ in range(TRAIN))
        how = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", TRAIN_SIZE))]
        try:
            flow.out.sendmsg([train], how, 0, flow.to)
        except OSError:
            flow.refused += TRAIN  # also EINVAL: the MTU is smaller than a segment

    def _receive(self) -> None:
        with selectors.DefaultSelector() as selector:
            for flow in self.flows:
                selector.register(flow.into, selectors.EVENT_READ, flow)
            while not self._over.is_set():
                for key, _ in selector.select(0.2):
                    with contextlib.suppress(BlockingIOError):
                        for _ in range(256):
                            self._take(key.data, key.data.into.recv(65536))

    def _take(self, flow: UdpFlow, message: bytes) -> None:
        now = time.monotonic()
        magic, owner, number, sent_at, check = HEAD.unpack_from(message.ljust(HEAD.size, b"\0"))
        body = message[HEAD.size :]
        if magic != MAGIC or owner != flow.number or zlib.crc32(body, number & 0xFFFFFFFF) != check:
            self._report("content", f"{flow.name}: a datagram of {len(message)} bytes is not what was sent")
            return
        wrong = flow.order.take(number, may_reorder=self._may_reorder())
        if wrong:
            self._report("order", f"{flow.name}: {wrong}")
        if flow.received_at:
            flow.longest_gap = max(flow.longest_gap, now - flow.received_at)
        flow.received_at = now
        flow.newest = max(flow.newest, sent_at)


class TcpFlow:
    """One connection that survives all chaos: full-speed bursts with pauses between."""

    def __init__(self, source: Node, target: Node, ends: tuple[str, str], report: Report, rate: int) -> None:
        self.name = f"tcp {ends[0]}->{ends[1]}"
        self.ends = ends
        self.rate = rate
        self.sent = self.received = 0
        self.received_at = time.monotonic()
        self._report = report
        self._over = threading.Event()
        self._listener = target.space.socket(target.inner4, socket.SOCK_STREAM)
        self._listener.listen(1)
        self._out = source.space.socket(source.inner4, socket.SOCK_STREAM)
        self._where = self._listener.getsockname()
        self._threads = [
            threading.Thread(target=self._guard, args=(run,), daemon=True)
            for run in (self._send, self._receive)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except OSError as error:
            if not self._over.is_set():
                self._report("progress", f"{self.name} broke after {self.received} bytes: {error}")

    def _send(self) -> None:
        with self._out as sock:
            sock.settimeout(60)
            sock.connect(self._where)
            sock.settimeout(1)
            begin = time.monotonic()
            block = 0
            while not self._over.is_set():
                self._send_all(sock, block.to_bytes(8, "big") + FILLER[: BLOCK - 8])
                block += 1
                ahead = self.sent / self.rate - (time.monotonic() - begin)
                if ahead < -1:
                    begin -= ahead  # time lost by an outage is not made up for
                elif ahead > 1:
                    self._over.wait(ahead)

    def _send_all(self, sock: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                gone = sock.send(view)
                self.sent += gone
                view = view[gone:]

    def _receive(self) -> None:
        with self._listener:
            self._listener.settimeout(60)
            sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(1)
            block = 0
            held = b""
            while not self._over.is_set():
                try:
                    piece = sock.recv(1 << 18)
                except TimeoutError:
                    continue
                if not piece:
                    raise ConnectionError("the far end closed it")
                self.received += len(piece)
                self.received_at = time.monotonic()
                held += piece
                while len(held) >= BLOCK:
                    if held[:BLOCK] != block.to_bytes(8, "big") + FILLER[: BLOCK - 8]:
                        self._report("content", f"{self.name}: block {block} of 64 KiB is not what was sent")
                    held = held[BLOCK:]
                    block += 1
