"""Every row of the table of operations: it works, and the kernel writes to no memory that was dropped."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from udpring import RingError
from udpring._native import ffi, lib
from udpring.uring import OPERATIONS, Completion, Flag, Ring
from uring.operation_cases import CASES, Refused, Rig

ROWS = list(OPERATIONS.values())
EAGER = lib.UDPRING_SETUP_DEFER_TASKRUN | lib.UDPRING_SETUP_COOP_TASKRUN


def test_every_row_has_a_case() -> None:
    missing, unknown = set(OPERATIONS) - set(CASES), set(CASES) - set(OPERATIONS)
    assert not missing, f"rows without a case: write one in operation_cases.py for {sorted(missing)}"
    assert not unknown, f"cases of no row: {sorted(unknown)}"


def release() -> tuple[int, ...]:
    return tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))


class RegisteredRing(Ring):
    """Puts each file into the registered files and uses it from there."""

    def __init__(self) -> None:
        super().__init__(32)
        super().register_files(64)
        self.places = 32  # those below are the case's

    def register_files(self, files: Any) -> None:
        if not isinstance(files, int):
            self.update_files(0, files)

    def place(self, operation: int, flags: int, fd: int) -> tuple[int, int]:
        if not ROWS[operation].registered_files or flags & Flag.FIXED_FILE:
            return flags, fd
        self.places = 32 + (self.places + 1) % 32
        self.update_files(self.places, [fd])
        return flags | Flag.FIXED_FILE, self.places

    def _put(self, operation: int, flags: int, fd: int = -1, *rest: Any, **named: Any) -> int:
        return super()._put(operation, *self.place(operation, flags, fd), *rest, **named)

    def _put_vector(
        self, operation: int, flags: int, buffers: Any, writable: bool, fd: int, *rest: Any
    ) -> int:
        flags, fd = self.place(operation, flags, fd)
        return super()._put_vector(operation, flags, buffers, writable, fd, *rest)

    def _put_message(self, operation: int, flags: int, fd: int, **named: Any) -> int:
        return super()._put_message(operation, *self.place(operation, flags, fd), **named)


class AsyncRing(Ring):
    """Has every operation executed by a worker thread of the kernel."""

    def _put(self, operation: int, flags: int, *rest: Any, **named: Any) -> int:
        return super()._put(operation, flags | self.extra_flag(operation), *rest, **named)

    def _put_vector(self, operation: int, flags: int, *rest: Any, **named: Any) -> int:
        return super()._put_vector(operation, flags | self.extra_flag(operation), *rest, **named)

    def _put_message(self, operation: int, flags: int, fd: int, **named: Any) -> int:
        return super()._put_message(operation, flags | self.extra_flag(operation), fd, **named)

    def extra_flag(self, operation: int) -> Flag:
        return Flag.ASYNC


class LinkedRing(AsyncRing):
    """Has every operation wait for one before it."""

    def extra_flag(self, operation: int) -> Flag:
        name = ROWS[operation].name
        if name not in ("nop", "link_timeout", "cancel"):
            super(AsyncRing, self)._put(OPERATIONS["nop"].number, Flag.LINK)
        return Flag.NONE


class HardlinkedRing(AsyncRing):
    """Has every operation follow one that failed."""

    def extra_flag(self, operation: int) -> Flag:
        if ROWS[operation].name not in ("nop", "link_timeout", "cancel"):
            bits = lib.UDPRING_NOP_INJECT_RESULT
            nop = OPERATIONS["nop"].number
            super(AsyncRing, self)._put(nop, Flag.HARDLINK, length=2**32 - 5, bits=bits)
        return Flag.NONE


class DrainedRing(AsyncRing):
    """Has every operation wait for a timer before it, by DRAIN."""

    def __init__(self) -> None:
        super().__init__(32, deny=EAGER)
        self.timer = 0
        self.waits: dict[int, int] = {}  # operation: its timer
        self.expired: set[int] = set()

    def extra_flag(self, operation: int) -> Flag:
        if ROWS[operation].name in ("link_timeout", "cancel"):
            return Flag.NONE
        self.reserve(2)
        self.timer = super(AsyncRing, self)._put(OPERATIONS["timeout"].number, 0, addr=2_000_000)
        return Flag.DRAIN

    def _put(self, operation: int, flags: int, *rest: Any, **named: Any) -> int:
        return self.note(super()._put(operation, flags, *rest, **named))

    def _put_vector(self, operation: int, flags: int, *rest: Any, **named: Any) -> int:
        return self.note(super()._put_vector(operation, flags, *rest, **named))

    def _put_message(self, operation: int, flags: int, fd: int, **named: Any) -> int:
        return self.note(super()._put_message(operation, flags, fd, **named))

    def note(self, ticket: int) -> int:
        if self.timer:
            self.waits[ticket], self.timer = self.timer, 0
        return ticket

    def completions(self, limit: int | None = None) -> list[Completion]:
        found = super().completions(limit)
        for done in found:
            assert self.waits.get(done.ticket, done.ticket) in {*self.expired, done.ticket}, "began early"
            self.expired.add(done.ticket)
        return found


class Success(int):
    """The result of an operation whose completion was left out: any but a failure."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other >= 0

    __hash__ = int.__hash__


class SilentRing(AsyncRing):
    """Leaves out the completions of successes. A NOP behind each operation stands for its end."""

    def __init__(self) -> None:
        super().__init__(32, deny=EAGER)
        self.stands_for: dict[int, int] = {}  # ticket of the NOP: ticket of the operation
        self.failures: dict[int, int] = {}
        self.name = ""

    def _put(self, operation: int, flags: int, *rest: Any, **named: Any) -> int:
        if not ROWS[operation].skips:
            return super(AsyncRing, self)._put(operation, flags, *rest, **named)
        self.reserve(2)
        self.name = ROWS[operation].name
        both = flags | Flag.SKIP_SUCCESS | Flag.HARDLINK
        silent = super(AsyncRing, self)._put(operation, both, *rest, **named)
        return self.follow(silent)

    def _put_message(self, operation: int, flags: int, fd: int, **named: Any) -> int:
        if not ROWS[operation].skips or named["pinned"]:
            return super(AsyncRing, self)._put_message(operation, flags, fd, **named)
        self.reserve(2)
        both = flags | Flag.SKIP_SUCCESS | Flag.HARDLINK
        return self.follow(super(AsyncRing, self)._put_message(operation, both, fd, **named))

    def follow(self, silent: int) -> int:
        ticket = super(AsyncRing, self)._put(OPERATIONS["nop"].number, 0)
        self.stands_for[ticket] = silent
        return ticket

    def completions(self, limit: int | None = None) -> list[Completion]:
        found = []
        for done in super().completions(limit):
            if done.ticket >> 56 == lib.UDPRING_KIND_SILENT:
                # A short splice counts as a failure.
                assert done.result < 0 or self.name in ("splice", "tee"), "a success has a completion"
                self.failures[done.ticket] = done.result
                continue
            silent = self.stands_for.pop(done.ticket, None)
            if silent is not None:
                done.result = self.failures.pop(silent, Success())
            found.append(done)
        return found


# These act on another operation, which must have started. Workers and links delay that.
ACTING = {"cancel", "futex_wait", "poll_remove", "poll_update"}
ACTING |= {"timeout_remove", "timeout_update", "link_timeout_update"}
# The result is a descriptor, which nobody gets without a completion.
OPENING = {"socket", "fixed_fd_install"}
# With DRAIN nothing starts before they have ended, not even their cancellation.
STAYING = {"accept_multishot", "recv_multishot", "recvmsg_multishot"}
# Refused, as with DRAIN they never start since Linux 6.16.
ZERO_COPY = {"send_zc", "send_zc_fixed", "sendmsg_zc"}
RINGS: dict[str, Callable[[], Ring]] = {
    "kept": lambda: Ring(32),
    "dropped": lambda: Ring(32),
    "registered": RegisteredRing,
    "async": lambda: AsyncRing(32),
    # Linked operations start in task work, which must not wait for the next call here.
    "linked": lambda: LinkedRing(32, deny=EAGER),
    "hardlinked": lambda: HardlinkedRing(32, deny=EAGER),
    "drained": DrainedRing,
    "silent": SilentRing,
}


def ways(name: str) -> Iterator[str]:
    """The rings on which an operation is tried."""
    for way in RINGS:
        if way not in ("kept", "dropped", "registered") and name in ACTING:
            continue
        if way == "drained" and name in STAYING | ZERO_COPY | {"send_group"}:
            continue
        if way == "async" and name == "send_group":  # refused
            continue
        if way == "registered" and not OPERATIONS[name].registered_files:
            continue
        if way == "silent" and (name in OPENING or not OPERATIONS[name].skips):
            continue
        yield way


@pytest.mark.parametrize(("name", "way"), [(name, way) for name in OPERATIONS for way in ways(name)])
def test_an_operation_does_its_work(name: str, way: str, tmp_path: Path) -> None:
    """Dropped: nothing of the caller's is left when the kernel works, and its memory is used again. So also
    with worker threads."""
    refused = ""
    with RINGS[way]() as ring:
        try:
            Rig(ring, tmp_path, drops=way in ("dropped", "async")).run(CASES[name])
        except Refused as why:
            refused = f"{name} needs Linux {OPERATIONS[name].since}, and here is {release()}: {why}"
        assert (ring.info.stale, ring.info.lost) == (0, 0)
    assert ring.leaked == 0
    assert not ring._pins
    if refused:
        assert release() < OPERATIONS[name].since, refused
        pytest.skip(refused)


@pytest.mark.parametrize("name", [row.name for row in OPERATIONS.values() if not row.skips])
def test_memory_is_not_given_to_silent_operations(name: str) -> None:
    with Ring(8) as ring:
        number = OPERATIONS[name].number
        flags = int(Flag.SKIP_SUCCESS)
        code = lib.udpring_ring_put(ring._native, number, flags, 0, 0, 0, 0, 0, 0, ffi.NULL, 0, 0)
        assert code == -22
        assert b"SKIP_SUCCESS" in ffi.string(lib.udpring_ring_why(ring._native))
        assert ring.info.queued == 0


@pytest.mark.parametrize("name", [row.name for row in OPERATIONS.values() if row.breaks_chain and row.skips])
def test_failures_of_silent_operations_are_told(name: str) -> None:
    """Also a chain behind them ends."""
    with Path(os.devnull).open("rb") as other, Ring(8) as ring:
        if name in FAILING:
            FAILING[name](ring, other.fileno(), Flag.SKIP_SUCCESS)
            (failed,) = ring.reap(1, 20)
            assert failed.result < 0
            chained = FAILING[name](ring, other.fileno(), Flag.LINK)
            behind = ring.nop()
            done = {one.ticket: one.result for one in ring.reap(2, 20)}
            assert done == {chained: failed.result, behind: -errno.ECANCELED}
        else:
            assert name in ("socket_command", "msg_ring_fd", "fixed_fd_install", "uring_cmd")


FAILING: dict[str, Callable[[Ring, int, Flag], int]] = {
    "nop": lambda ring, fd, flags: ring.nop(result=-5, flags=flags),
    "fadvise": lambda ring, fd, flags: ring.fadvise(-1, 0, 10, 0, flags=flags),
    "splice": lambda ring, fd, flags: ring.splice(fd, fd, 10, flags=flags),
    "tee": lambda ring, fd, flags: ring.tee(fd, fd, 10, flags=flags),
    "close": lambda ring, fd, flags: ring.close_file(10**6, flags=flags),
    "socket": lambda ring, fd, flags: ring.socket(77, 1, flags=flags),
    "listen": lambda ring, fd, flags: ring.listen(fd, flags=flags),
    "shutdown": lambda ring, fd, flags: ring.shutdown(fd, flags=flags),
    "poll_add": lambda ring, fd, flags: ring.poll_add(10**6, flags=flags),
    "poll_update": lambda ring, fd, flags: ring.poll_update(77, 1, flags=flags),
    "poll_remove": lambda ring, fd, flags: ring.poll_remove(77, flags=flags),
    "timeout_remove": lambda ring, fd, flags: ring.timeout_remove(77, flags=flags),
    "cancel": lambda ring, fd, flags: ring.cancel(77, flags=flags),
    "msg_ring": lambda ring, fd, flags: ring.msg_ring(fd, 7, flags=flags),
}


BREAKING: dict[str, Callable[[Ring, int, Flag], int]] = {
    "read": lambda ring, fd, flags: ring.read(10**6, 4, flags=flags),
    "write": lambda ring, fd, flags: ring.write(fd, b"x", flags=flags),
    "readv": lambda ring, fd, flags: ring.readv(10**6, [bytearray(4)], flags=flags),
    "openat2": lambda ring, fd, flags: ring.openat2("/nowhere/file", flags=flags),
    "accept": lambda ring, fd, flags: ring.accept(fd, flags=flags),
    "connect": lambda ring, fd, flags: ring.connect(fd, ("127.0.0.1", 9), flags=flags),
    "recv": lambda ring, fd, flags: ring.recv(fd, 4, flags=flags),
    "send": lambda ring, fd, flags: ring.send(fd, b"x", flags=flags),
    "sendmsg": lambda ring, fd, flags: ring.sendmsg(fd, b"x", flags=flags),
    "recvmsg": lambda ring, fd, flags: ring.recvmsg(fd, 4, flags=flags),
    "files_update": lambda ring, fd, flags: ring.files_update(77, [0], flags=flags),
    "timeout_update": lambda ring, fd, flags: ring.timeout_update(77, 1, flags=flags),
}


ZERO_COPY_CALLS: dict[str, Callable[[Ring, int, Flag], int]] = {
    "send_zc": lambda ring, fd, flags: ring.send_zc(fd, bytearray(10), flags=flags),
    "send_zc_fixed": lambda ring, fd, flags: ring.send_zc_fixed(fd, 0, 10, flags=flags),
    "sendmsg_zc": lambda ring, fd, flags: ring.sendmsg_zc(fd, bytearray(10), flags=flags),
}


@pytest.mark.parametrize("name", sorted(ZERO_COPY))
def test_zero_copy_and_drain_exclude_each_other(name: str) -> None:
    """The kernel might never start them."""
    with Ring(8) as ring, socket.create_server(("127.0.0.1", 0)) as server:
        ring.register_buffers([10])
        with socket.create_connection(server.getsockname()) as sock:
            with pytest.raises(RingError, match="with DRAIN") as caught:
                ZERO_COPY_CALLS[name](ring, sock.fileno(), Flag.DRAIN)
            assert caught.value.errno == errno.EINVAL
            sent = ZERO_COPY_CALLS[name](ring, sock.fileno(), Flag.NONE)
            drained = ring.nop(flags=Flag.DRAIN)  # behind it is good
            ends: list[Completion] = []
            while len(ends) < 3:
                ends += ring.reap(1, 20)
            assert [one.more for one in ends if one.ticket == sent] == [True, False]
            assert ends[-1].ticket == drained
            with pytest.raises(RingError, match="has used DRAIN") as caught:
                ZERO_COPY_CALLS[name](ring, sock.fileno(), Flag.NONE)
            assert caught.value.errno == errno.EINVAL
            assert not ring._pins


@pytest.mark.parametrize("name", BREAKING)
def test_failure_of_a_row_ends_the_chain(name: str) -> None:
    assert OPERATIONS[name].breaks_chain
    with Path(os.devnull).open("rb") as other, Ring(8) as ring:
        failed = BREAKING[name](ring, other.fileno(), Flag.LINK)
        behind = ring.nop()
        done = {one.ticket: one.result for one in ring.reap(2, 20)}
        assert done.pop(failed) < 0
        assert done == {behind: -errno.ECANCELED}


@pytest.mark.parametrize("name", ["fsync", "fallocate", "ftruncate"])
def test_silence_that_would_hide_failures_is_refused(name: str) -> None:
    with Ring(8) as ring:
        calls: dict[str, Callable[[], int]] = {
            "fsync": lambda: ring.fsync(0, flags=Flag.SKIP_SUCCESS),
            "fallocate": lambda: ring.fallocate(0, 0, 1, flags=Flag.SKIP_SUCCESS),
            "ftruncate": lambda: ring.ftruncate(0, 1, flags=Flag.SKIP_SUCCESS),
        }
        with pytest.raises(RingError, match=f"SKIP_SUCCESS on {name}"):
            calls[name]()
        assert ring.pending == 0


def test_an_address_is_no_argument() -> None:
    """Numbers in fields that the kernel takes for addresses are refused."""
    with Ring(8) as ring, pytest.raises(RingError, match="statx takes fewer arguments"):
        ring._put(OPERATIONS["statx"].number, 0, 0, 0x7FFF0000, 0, 0)
