"""The contenders of ``bench udp``, each for one piece of work: loops over ``socket``, asyncio and uvloop,
sendmmsg(2) and recvmmsg(2) from C, and udpring's rings on each tier.

A round consists of bursts until its time is up. A burst is sent, then received, and each part is timed. The
first burst of a round does not count. The CPU time of the process covers all bursts, so it includes
additional threads.
"""

from __future__ import annotations

import abc
import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from udpring.errors import HostError
from udpring.udp import AddressList, RecvRing, SendRing
from udpring_tools.bench.udp_work import LOSS_WAIT, MmsgBursts, Pair, Work

__all__ = ["Contender", "Looped", "Mmsg", "Rings", "Round", "SocketLoop", "ThreadedSocketLoop"]

_clock = time.perf_counter_ns
_used = time.process_time_ns


@dataclass(slots=True)
class Round:
    """The result of one round: counted datagrams sent, those of them that did not arrive, nanoseconds, and
    for both parts the CPU time of all threads."""

    sent: int = 0
    lost: int = 0
    send_ns: int = 0
    receive_ns: int = 0
    cpu_ns: int = 0

    def add(self, burst: int, arrived: int, began: int, between: int, ended: int) -> None:
        """One burst, with the clock read before, between and after its two parts."""
        self.sent += burst
        self.lost += burst - arrived
        self.send_ns += between - began
        self.receive_ns += ended - between


class Contender(abc.ABC):
    """One program, set up for one piece of work on its own sockets."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.pair = Pair(work.pattern)
        self._feeder: MmsgBursts | None = None

    def feed(self, turn: int) -> None:
        """Another sender's burst to the inbox: single datagrams, sent by sendmmsg."""
        if self._feeder is None:
            self._feeder = MmsgBursts(self.work, self.pair)
        self._feeder.run(turn, receive=False)

    @abc.abstractmethod
    def round(self, budget_ns: int, fed: bool) -> Round:
        """Bursts for this long, at least one. ``fed``: sent by ``feed``, not by the contender."""

    def close(self) -> None:
        """Closes the sockets."""
        self.pair.close()


class Calling(Contender):
    """A contender that sends and receives by calls that return."""

    @abc.abstractmethod
    def send(self, turn: int) -> None:
        """The burst to send next."""

    @abc.abstractmethod
    def receive(self, count: int) -> int:
        """Receives this many datagrams. Returns how many came until none arrived for LOSS_WAIT."""

    def round(self, budget_ns: int, fed: bool) -> Round:
        """See Contender."""
        send, receive, burst = self.feed if fed else self.send, self.receive, self.work.burst
        done = Round()
        send(0)
        receive(burst)
        before = _used()
        end = _clock() + budget_ns
        turn = 1
        while True:
            began = _clock()
            send(turn)
            between = _clock()
            arrived = receive(burst)
            ended = _clock()
            done.add(burst, arrived, began, between, ended)
            if ended >= end:
                done.cpu_ns = _used() - before
                return done
            turn += 1


class SocketLoop(Calling):
    """``sendto`` for each datagram, and ``recvfrom_into`` one buffer for each, never blocking: a socket with
    a timeout polls before each call."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        for inbox in self.pair.inboxes:
            inbox.setblocking(False)
        self._payload = work.payload()
        self._addresses = [self.pair.addresses(hosts) for hosts in work.bursts]
        self._buffer = bytearray(65536)

    def send(self, turn: int) -> None:
        """See Calling."""
        sendto, payload = self.pair.outbox.sendto, self._payload
        for address in self._addresses[turn % len(self._addresses)]:
            sendto(payload, address)

    def receive(self, count: int) -> int:
        """See Calling."""
        each = count // len(self.pair.inboxes)
        return sum(self._receive(inbox, each) for inbox in self.pair.inboxes)

    def _receive(self, inbox: socket.socket, count: int) -> int:
        recvfrom_into, buffer = inbox.recvfrom_into, self._buffer
        left = count
        while left:
            try:
                while left:
                    recvfrom_into(buffer)
                    left -= 1
            except BlockingIOError:
                if not select.select([inbox], [], [], LOSS_WAIT)[0]:
                    break
        return count - left


class ThreadedSocketLoop(SocketLoop):
    """The same with a second thread that sends every other datagram, which loses the order of datagrams to
    one destination. ``sendto`` releases the GIL while the kernel works."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._turn: int | None = 0
        self._begin, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._second = threading.Thread(target=self._take_part, daemon=True)
        self._second.start()

    def _take_part(self) -> None:
        while self._begin.acquire() and self._turn is not None:
            self._send(self._turn, 1)
            self._done.release()

    def _send(self, turn: int, first: int) -> None:
        sendto, payload = self.pair.outbox.sendto, self._payload
        for address in self._addresses[turn % len(self._addresses)][first::2]:
            sendto(payload, address)

    def send(self, turn: int) -> None:
        """See Calling."""
        self._turn = turn
        self._begin.release()
        self._send(turn, 0)
        self._done.acquire()

    def close(self) -> None:
        """Ends the second thread and closes the sockets."""
        self._turn = None
        self._begin.release()
        self._second.join()
        super().close()


class Mmsg(Calling):
    """sendmmsg(2) and recvmmsg(2), one burst per call, driven from C. No UDP_SEGMENT, no UDP_GRO."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._bursts = MmsgBursts(work, self.pair)

    def send(self, turn: int) -> None:
        """See Calling."""
        self._bursts.run(turn, receive=False)

    def receive(self, count: int) -> int:
        """See Calling."""
        return self._bursts.run(0, send=False)


class Rings(Calling):
    """udpring on one tier. Without ``views``: sends one buffer with a length, reads columns. ``views``: sends
    an object and takes a memoryview for each payload. ``helpers``: of the send ring. ``one_ring``: for all
    receiving sockets, else a ring for each."""

    def __init__(
        self, work: Work, tier: str, views: bool, helpers: int = 0, *, one_ring: bool = False
    ) -> None:
        super().__init__(work)
        self._views = views
        self._size = work.size
        self._payloads = [work.payload()] * work.burst
        self._block = work.payload() * work.burst
        lists = [self.pair.addresses(hosts) for hosts in work.bursts]
        self._addresses: list[Any] = [
            each[0] if len(set(each)) == 1 else each if views else AddressList(each) for each in lists
        ]
        inboxes: list[Any] = [self.pair.inboxes] if one_ring else self.pair.inboxes
        self.rx = [RecvRing(inbox, tier=tier, local_addresses=False, tos=False) for inbox in inboxes]
        self.tx = SendRing(self.pair.outbox, tier=tier, helpers=helpers)

    def send(self, turn: int) -> None:
        """See Calling."""
        address = self._addresses[turn % len(self._addresses)]
        if self._views:
            report = self.tx.send_batch(self._payloads, address)
        else:
            report = self.tx.send_batch(self._block, address, lengths=self._size)
        if report.errors:
            raise HostError(f"{len(report.errors)} datagrams were not sent: {report.errors[0][1]}")

    def receive(self, count: int) -> int:
        """See Calling."""
        each = count // len(self.rx)
        return sum(self._receive(ring, each) for ring in self.rx)

    def _receive(self, ring: RecvRing, count: int) -> int:
        recv_batch, got = ring.recv_batch, 0
        if self._views:
            while got < count:
                with recv_batch(timeout=LOSS_WAIT) as batch:
                    views = batch.views()
                    if not views:
                        break
                    got += len(views)
            return got
        while got < count:
            with recv_batch(timeout=LOSS_WAIT) as batch:
                if not batch:
                    break
                _columns = (batch.data, batch.offsets, batch.lengths, batch.addresses)
                got += len(batch)
        return got

    def close(self) -> None:
        """Closes the rings and the sockets."""
        for ring in self.rx:
            ring.close()
        self.tx.close()
        super().close()


class _Sink(asyncio.DatagramProtocol):
    """Counts arrivals and reports when there are enough."""

    def __init__(self) -> None:
        self.left = 0
        self.enough: asyncio.Future[None] | None = None

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.left -= 1
        if not self.left and self.enough is not None and not self.enough.done():
            self.enough.set_result(None)

    def give_up(self, left: int) -> None:
        """Called when nothing has come since ``left`` were missing."""
        if self.enough is None or self.enough.done():
            return
        if self.left == left:
            self.enough.set_result(None)
        else:
            asyncio.get_running_loop().call_later(LOSS_WAIT, self.give_up, self.left)


class Looped(Contender):
    """``asyncio.DatagramProtocol`` on both sides, in the given event loop, with the least possible work."""

    def __init__(self, work: Work, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        super().__init__(work)
        self._payload = work.payload()
        self._addresses = [self.pair.addresses(hosts) for hosts in work.bursts]
        for sock in (*self.pair.inboxes, self.pair.outbox):
            sock.setblocking(False)
        self._loop = new_loop()
        self._sink = _Sink()
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._out, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=self.pair.outbox)
        self._in = [
            (await loop.create_datagram_endpoint(lambda: self._sink, sock=inbox))[0]
            for inbox in self.pair.inboxes
        ]

    def round(self, budget_ns: int, fed: bool) -> Round:
        """See Contender."""
        return self._loop.run_until_complete(self._round(budget_ns, fed))

    async def _round(self, budget_ns: int, fed: bool) -> Round:
        loop = asyncio.get_running_loop()
        send, sink, burst = self.feed if fed else self._send, self._sink, self.work.burst
        done = Round()
        turn = before = 0
        end = _clock() + budget_ns
        while True:
            sink.left, sink.enough = burst, loop.create_future()
            began = _clock()
            send(turn)
            between = _clock()
            loss = loop.call_later(LOSS_WAIT, sink.give_up, burst)
            await sink.enough
            ended = _clock()
            loss.cancel()
            if turn:
                done.add(burst, burst - max(0, sink.left), began, between, ended)
                if ended >= end:
                    done.cpu_ns = _used() - before
                    return done
            else:
                before = _used()
                end = _clock() + budget_ns
            turn += 1

    def _send(self, turn: int) -> None:
        """Datagrams without room in the socket stay with the transport, which sends them during the wait."""
        sendto, payload = self._out.sendto, self._payload
        for address in self._addresses[turn % len(self._addresses)]:
            sendto(payload, address)

    def close(self) -> None:
        """Closes the loop and its sockets."""

        async def close() -> None:
            self._out.close()
            for inbox in self._in:
                inbox.close()
            await asyncio.sleep(0)

        self._loop.run_until_complete(close())
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        super().close()
