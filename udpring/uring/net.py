"""Many stream connections on one ring, whose accepting and receiving stay armed.

A turn is one call into C for all connections. It submits everything that was queued since the last turn,
waits in the ring, and returns what happened as columns, so a server needs no Python per message:

    with Net() as net:
        net.listen("127.0.0.1", 7000)
        for turn in net.turns():
            net.send_many(turn.ids, turn.starts, turn.lengths)      # echo

``udpring.uring.net_protocols`` has protocols in the manner of asyncio on top. Where io_uring is denied, the
same objects work on epoll(7): ``backend`` and ``reason`` say so.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

from udpring._native import check, ffi, lib, reason, reason_text
from udpring.errors import ClosedError, HostError, WrongThreadError
from udpring.socket_address import SocketName
from udpring.uring.listener import BACKLOG, listening_socket
from udpring.uring.net_turn import NetInfo, Turn
from udpring.uring.operations import nanoseconds

__all__ = ["Net"]

# Receive buffers of nets with operations that did not end. The kernel may still write to them.
_kept: list[Any] = []

_OF_THE_HOST = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOMEM}


class Net:
    """Stream connections on one ring. It belongs to the thread that opened it: the first that calls ``open``,
    ``turn`` or ``fileno``. ``with Net() as net:`` opens and closes it.

    ``connections``: at once. With all places taken, more wait in the kernel's backlog.
    ``buffers``, ``buffer_bytes``: the memory to receive into, for all connections. ``buffers`` is a power of
    two.
    ``high_water``, ``low_water``: bytes in the send queue of a connection. Above the first it is full:
    nothing is received from that connection until it holds at most the second (a quarter by default). So a
    peer that reads slowly is read slowly.
    ``queue_bytes``: a send that would make a queue longer aborts its connection, which ends with ENOBUFS.
    ``half_open``: keep a connection whose peer has ended. Otherwise the turn after that closes it when its
    queue is empty.
    ``backend``: "io_uring" or "epoll" forces one. ``fallback``: use epoll where io_uring is denied.
    ``deny``: IORING_SETUP_* bits to avoid, for tests. ``bundles``, ``known_ends``: false avoids features of
    newer kernels.

    Raises HostError if io_uring is denied and must be used, ValueError for impossible options.
    """

    _native: Any = None

    def __init__(
        self,
        *,
        connections: int = 10000,
        buffers: int = 128,
        buffer_bytes: int = 16384,
        high_water: int = 65536,
        low_water: int | None = None,
        queue_bytes: int = 16 << 20,
        half_open: bool = False,
        fallback: bool = True,
        backend: str | None = None,
        deny: int = 0,
        bundles: bool = True,
        known_ends: bool = True,
    ) -> None:
        if backend not in (None, "io_uring", "epoll"):
            raise ValueError(f"backend {backend!r}: io_uring or epoll")
        self._options = {
            "connections": connections,
            "buffers": buffers,
            "buffer_bytes": buffer_bytes,
            "high": high_water,
            "low": high_water // 4 if low_water is None else low_water,
            "queue_bytes": queue_bytes,
            "half_open": half_open,
            "flags_deny": deny,
            "known_ends": known_ends,
            "bundles": bundles,
        }
        self._wanted, self._fallback = backend, fallback and backend is None
        self._process = os.getpid()
        self._stopped = False
        self._closed = False
        self._listeners: dict[int, socket.socket] = {}
        self._early: list[socket.socket] = []  # listeners from before it was opened
        self._released: deque[tuple[int, int]] = deque()
        self.backend = backend or ""
        """After opening: "io_uring" or "epoll"."""
        self.reason = "chosen by the caller" if backend else ""
        """Why epoll is used: the error of the ring. Empty with io_uring."""

    # -- life --

    def open(self) -> Self:
        """Opens it in this thread. A second call does nothing."""
        if self._closed:
            raise ClosedError("this net is closed: make a new one")
        if self._native is not None:
            return self
        size = self._options["buffers"] * self._options["buffer_bytes"]
        if not 0 < size <= lib.UDPRING_OPERATION_BYTES_MAX:
            raise ValueError(f"{size} bytes of receive buffers: 1 to {lib.UDPRING_OPERATION_BYTES_MAX}")
        held = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pinned = ffi.from_buffer("uint8_t[]", held, require_writable=True)
        self._memory = ffi.buffer(self._pinned)
        self._turn = Turn(self, self._options["buffers"])
        self._native = self._open_backend()
        for sock in self._early:
            self._start_listener(sock)
        self._early.clear()
        return self

    def _open_backend(self) -> Any:
        out, why = ffi.new("struct udpring_net **"), reason()
        if self._wanted != "epoll":
            options = ffi.new("struct udpring_net_options *", self._options)
            code = lib.udpring_net_open(out, options, self._turn._native, why)
            if code == -errno.EINVAL:
                raise ValueError(reason_text(why))
            if code >= 0:
                self.backend = "io_uring"
                return _freed_with_last_reference(out[0])
            if -code not in _OF_THE_HOST:
                check(code, "opening a net", why)
            if not self._fallback:
                raise HostError(reason_text(why), errno=-code)
            self.reason = reason_text(why)
        options = ffi.new("struct udpring_net_options *", self._options | {"readiness": 1})
        code = lib.udpring_net_open(out, options, self._turn._native, why)
        if code == -errno.EINVAL:
            raise ValueError(reason_text(why))
        check(code, "opening a net", why)
        self.backend = "epoll"
        return _freed_with_last_reference(out[0])

    def _opened(self) -> Any:
        native = self._native
        if native is None:
            self.open()
            native = self._native
            if native is None:
                raise ClosedError("this net was closed meanwhile")
        return native

    def _check(self, code: int, what: str) -> int:
        if code == -errno.EXDEV:
            raise WrongThreadError(
                f"{what}: this net belongs to another thread, or to a process that forked this one"
            )
        if code == -errno.EBADF and self._native is None:
            raise ClosedError(f"{what}: this net was closed meanwhile")
        return check(code, what)

    def close(self) -> None:
        """Closes all connections and listeners, and frees the memory. Send queues are dropped: ``drain``
        first.

        A second close does nothing. Raises WrongThreadError in another thread while the owner lives.
        """
        native = self._native
        if native is not None:
            left = self._check(lib.udpring_net_close(native), "closing the net")
            self._native = None
            if left:
                _kept.append(self._pinned)
                warnings.warn(
                    f"{left} operations did not end within 2 s: their memory is never freed",
                    ResourceWarning,
                    stacklevel=2,
                )
        self._closed = True
        for sock in [*self._early, *self._listeners.values()]:
            sock.close()
        self._early.clear()
        self._listeners.clear()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._native is None or os.getpid() != self._process:
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a program may make errors of warnings
            self._close_collected()

    def _close_collected(self) -> None:
        try:
            self.close()
        except WrongThreadError:
            _kept.append(self._pinned)
            self._native = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not open" if self._native is None else self.backend
        return f"<{type(self).__name__} {state}>"

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def info(self) -> NetInfo:
        """Its counters. Raises ClosedError when it is not open."""
        native = self._native
        if native is None:
            raise ClosedError("this net is not open")
        found = ffi.new("struct udpring_net_info *")
        lib.udpring_net_info(native, found)
        return NetInfo(**{name: getattr(found, name) for name in NetInfo.__dataclass_fields__})

    # -- sockets --

    def listen(self, host: str, port: int, *, backlog: int = BACKLOG, reuse_port: bool = False) -> SocketName:
        """Accepts connections on a TCP address. Port 0: the kernel chooses. Returns the address. Raises
        OSError.

        Any thread may call it before the net is open.
        """
        sock = listening_socket(host, port, backlog=backlog, reuse_port=reuse_port)
        self.listen_on(sock)
        return sock.getsockname()

    def listen_unix(self, path: str | bytes, *, backlog: int = BACKLOG) -> None:
        """Accepts connections on a Unix socket. The file at ``path`` stays after ``close``. Raises
        OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.bind(path)
            sock.listen(backlog)
            self.listen_on(sock)
        except BaseException:
            sock.close()
            raise

    def listen_on(self, sock: socket.socket) -> None:
        """Takes over a socket that listens. Raises OSError (ENOSPC: 64 listeners)."""
        if self._closed:
            raise ClosedError("this net is closed: make a new one")
        if self._native is None:
            self._early.append(sock)
        else:
            self._start_listener(sock)

    def _start_listener(self, sock: socket.socket) -> None:
        number = self._check(lib.udpring_net_listen(self._opened(), sock.fileno()), "listening")
        self._listeners[number] = sock

    @property
    def listeners(self) -> dict[int, SocketName]:
        """The numbers of the listeners, and their addresses."""
        return {number: sock.getsockname() for number, sock in self._listeners.items()}

    def stop_listening(self, number: int | None = None) -> None:
        """Closes one listener, or all. Connections live on. Those in the kernel's backlog are reset."""
        native = self._opened()
        for each in [*self._listeners] if number is None else [number]:
            self._check(lib.udpring_net_unlisten(native, each), f"listener {each}")
            self._listeners.pop(each).close()

    def add(self, sock: socket.socket) -> int:
        """Takes over a connected stream socket, which the program must not use any more. Returns its id.

        Raises RingError (ENOSPC: all places are taken), and leaves the socket to the caller then.
        """
        number = self._check(lib.udpring_net_add(self._opened(), sock.fileno()), "a connection")
        sock.detach()
        return number

    # -- turns --

    def turn(self, timeout: float | None = None) -> Turn:
        """Submits, waits for events, at most ``timeout`` seconds, and returns them.

        The turn is empty when the time is over, after a signal, ``stop`` and ``wake``, and, while views hold
        all buffers, when connections begin to wait for one and when one is dropped. The data of the last turn
        is gone, unless a view holds it. Raises WrongThreadError, RingError with the error of
        io_uring_enter(2).
        """
        native = self._native
        if native is None:
            native = self._opened()
        if self._released:
            self._give_back(native)
        code = lib.udpring_net_turn(native, -1 if timeout is None else nanoseconds(timeout))
        if code < 0 and code != -errno.EINTR:
            self._check(code, "a turn")
        turn = self._turn
        turn._refresh()
        return turn

    def turns(self) -> Iterator[Turn]:
        """Turns until ``stop`` or ``close``."""
        while not self._stopped and not self._closed:
            yield self.turn()
        self._stopped = False

    def stop(self) -> None:
        """Ends ``turns``, and the present or next wait of ``turn``. Any thread, and signal handlers."""
        self._stopped = True
        self.wake()

    def wake(self) -> None:
        """Ends the present or next wait of ``turn``. Any thread."""
        native = self._native
        if native is not None:
            lib.udpring_net_wake(native)

    def fileno(self) -> int:
        """A descriptor for event loops: readable when ``turn(0)`` would return events. Take turns until one
        is empty, and a turn after sends, which it submits."""
        return self._check(lib.udpring_net_fileno(self._opened()), "the descriptor")

    def drain(self, timeout: float) -> int:
        """Stops listening, closes each connection when its queue is empty, and waits. What is received
        meanwhile is dropped. Returns the number of connections that are left after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        self.stop_listening()
        self._check(lib.udpring_net_order_all(self._opened(), lib.UDPRING_NET_CLOSE), "draining")
        while (left := self.info.connections) and (wait := end - time.monotonic()) > 0:
            self._pass(wait)
        return left

    def _pass(self, timeout: float | None) -> None:
        self.turn(timeout)

    # -- connections --

    def send(self, number: int, data: bytes | bytearray | memoryview) -> int:
        """Queues a copy for a connection. The next turn sends it. Returns the bytes in its queue.

        Raises RingError: ENOENT, the connection is gone; EPIPE, it is closing or ``shutdown`` was called;
        ENOBUFS, the queue would exceed ``queue_bytes``, so the connection is aborted.
        """
        held = ffi.from_buffer("uint8_t[]", data)
        return self._check(
            lib.udpring_net_send(self._opened(), number, held, len(held)), f"connection {number}"
        )

    def send_many(self, ids: Any, starts: Any, lengths: Any, data: Any = None) -> int:
        """Queues many pieces in one call: ``lengths[i]`` bytes at ``starts[i]`` of ``data`` for ``ids[i]``.

        The columns are buffers of 8, 8 and 4 bytes a row, as ``array("Q")`` and ``array("I")`` are. ``data``
        None: the receive memory, with the columns of the last turn or parts of them.
        Returns how many pieces were not queued, for the reasons of ``send``. Raises ValueError for columns of
        different length, RingError (ERANGE) for a piece outside of ``data``, with nothing queued.
        """
        columns = (
            ffi.from_buffer("uint64_t[]", ids),
            ffi.from_buffer("uint64_t[]", starts),
            ffi.from_buffer("uint32_t[]", lengths),
        )
        count = len(columns[0])
        if len(columns[1]) != count or len(columns[2]) != count:
            raise ValueError(f"columns of {count}, {len(columns[1])} and {len(columns[2])} rows")
        memory = ffi.NULL if data is None else ffi.from_buffer("uint8_t[]", data)
        size = 0 if data is None else len(memory)
        code = lib.udpring_net_send_many(self._opened(), *columns, count, memory, size)
        return self._check(code, "sending")

    def send_rows(self, turn: Turn) -> int:
        """Sends the data of each row of the present turn back to its connection, as ``send_many`` can.

        Returns how many rows were not queued, for the reasons of ``send``.
        """
        native = turn._native
        code = lib.udpring_net_send_many(
            self._opened(), native.ids, native.starts, native.lengths, turn.count, ffi.NULL, 0
        )
        return code if code >= 0 else self._check(code, "sending")

    def _order(self, number: int, order: int) -> bool:
        code = lib.udpring_net_order(self._opened(), number, order)
        return code != -errno.ENOENT and self._check(code, f"connection {number}") == 0

    def close_connection(self, number: int) -> bool:
        """Closes a connection when its queue is empty. No more of its data comes. Here and below: False if
        it is gone already."""
        return self._order(number, lib.UDPRING_NET_CLOSE)

    def abort(self, number: int) -> bool:
        """Drops the queue and resets the connection (SO_LINGER, socket(7))."""
        return self._order(number, lib.UDPRING_NET_ABORT)

    def shutdown(self, number: int) -> bool:
        """Ends the sending direction when the queue is empty (shutdown(2), SHUT_WR)."""
        return self._order(number, lib.UDPRING_NET_SHUTDOWN)

    def pause(self, number: int) -> bool:
        """Receives no more. What was received before still comes."""
        return self._order(number, lib.UDPRING_NET_PAUSE)

    def resume(self, number: int) -> bool:
        """Ends ``pause``."""
        return self._order(number, lib.UDPRING_NET_RESUME)

    def descriptor(self, number: int) -> int:
        """The file descriptor of a connection, which stays the net's. Raises RingError (ENOENT)."""
        return self._check(lib.udpring_net_fd(self._opened(), number), f"connection {number}")

    # -- views --

    def _claim(self, start: int, length: int) -> memoryview:
        self._check(lib.udpring_net_claim(self._opened(), start, length), "a view")
        back = partial(_give_back, weakref.ref(self), self._released, start, length, self._pinned)
        anchor = ffi.gc(self._pinned + start, back, length)
        return memoryview(ffi.buffer(anchor, length)).toreadonly()

    def _give_back(self, native: Any) -> None:
        while self._released:
            self._check(lib.udpring_net_release(native, *self._released.popleft()), "a view")


def _freed_with_last_reference(native: Any) -> Any:
    """A signal handler may close the net within any call, which then goes on with its own reference."""
    return ffi.gc(native, lib.udpring_net_free)


def _give_back(
    net: weakref.ref[Net],
    released: deque[tuple[int, int]],
    start: int,
    length: int,
    _memory: Any,
    _anchor: Any,
) -> None:
    """The last view is gone. May run in any thread, so it only notes the place. Wakes a net that waits for
    it."""
    released.append((start, length))
    waiting = net()
    if waiting is not None and waiting._turn._native.starving:
        waiting.wake()
