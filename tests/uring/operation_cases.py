"""One case for each row of the table of operations: it does real work and checks what came of it.

A case is a generator. It yields the ticket of an operation, or a list of them, and gets the last completion
of each. The driver (``Rig.run``) submits, then, with ``drops``, forces the collector and reuses freed memory,
then calls what the case gave to ``later``, and then waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import mmap
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from udpring.uring import ANY_PLACE, Completion, Flag, Ring

Case = Generator[Any, Any, None]
CASES: dict[str, Callable[[Rig], Case]] = {}
PATTERN = b"\xa5"


class Refused(Exception):
    """The kernel does not have the operation."""


class Rig:
    """A ring and what cases need: files, sockets, pipes. All is closed at the end."""

    def __init__(self, ring: Ring, folder: Path, *, drops: bool = False) -> None:
        self.ring, self.folder, self.drops = ring, folder, drops
        self.stack = contextlib.ExitStack()
        self.actions: list[Callable[[], Any]] = []
        self.begin: Callable[[], Any] = lambda: None  # lets operations that wait for it start
        self.seen: dict[int, list[Completion]] = {}

    def later(self, action: Callable[[], Any]) -> None:
        self.actions.append(action)

    def file(self, content: bytes = b"", name: str = "file") -> int:
        path = self.folder / name
        path.write_bytes(content)
        number = os.open(path, os.O_RDWR)
        self.stack.callback(os.close, number)
        return number

    def pipe(self, flags: int = 0) -> tuple[int, int]:
        ends = os.pipe2(flags)
        for end in ends:
            self.stack.callback(os.close, end)
        return ends

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
        ends = socket.socketpair(socket.AF_UNIX, kind)
        return self.stack.enter_context(ends[0]), self.stack.enter_context(ends[1])

    def listener(self) -> socket.socket:
        return self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def tcp(self) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = self.stack.enter_context(socket.create_connection(server.getsockname()))
            return one, self.stack.enter_context(server.accept()[0])

    def udp(self) -> socket.socket:
        made = self.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind(("127.0.0.1", 0))
        return made

    def receiving(self, end: socket.socket, length: int) -> Callable[[], bytes]:
        """Receives in a thread, while the ring sends. The call returns the bytes."""
        got = bytearray()

        def receive() -> None:
            while len(got) < length:
                part = end.recv(length - len(got))
                if not part:
                    return
                got.extend(part)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()

        def take() -> bytes:
            thread.join(20)
            return bytes(got)

        return take

    def group(self, size: int = 4096) -> int:
        self.ring.provide_buffers(7, 8, size)
        return 7

    def memory(self, size: int) -> tuple[mmap.mmap, mmap.mmap]:
        """Memory of a program, and a second view of it. The first is unmapped when nobody holds it."""
        number = os.memfd_create("lent")
        try:
            os.ftruncate(number, size)
            return mmap.mmap(number, size), mmap.mmap(number, size)
        finally:
            os.close(number)

    def take(self, number: int) -> int:
        """A descriptor that the kernel returned: closed at the end."""
        assert number >= 0, os.strerror(-number)
        self.stack.callback(os.close, number)
        return number

    # -- driving --

    def run(self, case: Callable[[Rig], Case]) -> None:
        with self.stack:
            gc.freeze()  # what is older than the case need not be looked at
            self.stack.callback(gc.unfreeze)
            steps = case(self)
            answer: Any = None
            while True:
                try:
                    wanted = steps.send(answer)
                except StopIteration:
                    return
                tickets = wanted if isinstance(wanted, list) else [wanted]
                answers = self.finish(tickets)
                answer = answers if isinstance(wanted, list) else answers[0]

    def finish(self, tickets: list[int]) -> list[Completion]:
        self.ring.submit()
        blocks = self.reuse_memory() if self.drops else []
        self.begin()
        actions, self.actions = self.actions, []
        for action in actions:
            action()
        found = [self.last(ticket) for ticket in tickets]
        for block in blocks:
            assert block == PATTERN * len(block), "the kernel wrote to memory that is somebody else's"
        return found

    def reuse_memory(self) -> list[bytearray]:
        gc.collect()
        return [
            bytearray(PATTERN) * size
            for size in (16, 64, 100, 256, 1000, 4096, 8192, 20000, 50000, 100000)
            for _ in range(30)
        ]

    def last(self, ticket: int) -> Completion:
        """The last completion of an operation. Those before it are in ``seen``."""
        deadline = time.monotonic() + 20
        while not any(not one.more for one in self.seen.get(ticket, [])):
            assert time.monotonic() < deadline, "the operation does not end"
            for one in self.ring.reap(1, 1):
                self.seen.setdefault(one.ticket, []).append(one)
        return self.seen[ticket][-1]

    def shots(self, ticket: int, count: int) -> list[Completion]:
        """The first completions of an operation that goes on."""
        deadline = time.monotonic() + 20
        while len(self.seen.get(ticket, [])) < count:
            assert time.monotonic() < deadline, "the operation does not go on"
            for one in self.ring.reap(1, 1):
                self.seen.setdefault(one.ticket, []).append(one)
        return self.seen[ticket]


def case(function: Callable[[Rig], Case]) -> Callable[[Rig], Case]:
    CASES[function.__name__] = function
    return function


def good(done: Completion) -> int:
    """The result. Raises Refused if the kernel does not have the operation."""
    if done.result in (-errno.EINVAL, -errno.EOPNOTSUPP, -errno.ENOSYS):
        raise Refused(os.strerror(-done.result))
    return done.check()


# -- files --


@case
def nop(rig: Rig) -> Case:
    assert good((yield rig.ring.nop())) == 0
    assert (yield rig.ring.nop(result=-7)).result == -7


@case
def read(rig: Rig) -> Case:
    reader, writer = rig.pipe()
    rig.later(lambda: os.write(writer, b"word"))
    done = yield rig.ring.read(reader, 100)
    assert (good(done), done.data) == (4, b"word")
    file = rig.file(b"0123456789")
    buffer, seen = rig.memory(4)
    ticket = rig.ring.readinto(file, buffer, offset=3)
    del buffer
    assert good((yield ticket)) == 4
    assert seen[:] == b"3456"
    buffer, seen = rig.memory(8)
    ticket = rig.ring.readinto(reader, buffer)
    del buffer
    rig.later(lambda: os.write(writer, b"late"))
    assert good((yield ticket)) == 4
    assert seen[:] == b"late\0\0\0\0"


@case
def write(rig: Rig) -> Case:
    file = rig.file()
    assert good((yield rig.ring.write(file, bytearray(b"copied"), offset=0))) == 6
    assert good((yield rig.ring.write(file, bytearray(b"in place"), offset=6, copy=False))) == 8
    long = os.urandom(50000)
    assert good((yield rig.ring.write(file, bytes(bytearray(long)), offset=14))) == len(long)
    assert os.pread(file, 60000, 0) == b"copiedin place" + long
    reader, writer = rig.pipe()
    os.set_blocking(writer, False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    got: list[bytes] = []
    rig.later(lambda: got.append(os.read(reader, filled)))
    assert good((yield rig.ring.write(writer, bytearray(b"w" * 4096), copy=False))) == 4096
    assert os.read(reader, 5000) == b"w" * 4096


@case
def readv(rig: Rig) -> Case:
    reader, writer = rig.pipe()
    pairs = [rig.memory(3), rig.memory(100), rig.memory(1)]
    seen = [pair[1] for pair in pairs]
    ticket = rig.ring.readv(reader, [pair[0] for pair in pairs])
    pairs.clear()
    rig.later(lambda: os.write(writer, b"onetwo"))
    assert good((yield ticket)) == 6
    assert (seen[0][:], seen[1][:4], seen[2][:]) == (b"one", b"two\0", b"\0")


@case
def writev(rig: Rig) -> Case:
    file = rig.file()
    assert good((yield rig.ring.writev(file, [bytearray(b"one"), b"two", memoryview(b"three")]))) == 11
    assert os.pread(file, 20, 0) == b"onetwothree"


@case
def read_fixed(rig: Rig) -> Case:
    (view,) = rig.ring.register_buffers([4096])
    file = rig.file(b"0123456789")
    assert good((yield rig.ring.read_fixed(file, 0, 5, start=8, offset=2))) == 5
    assert view[8:13] == b"23456"


@case
def write_fixed(rig: Rig) -> Case:
    (view,) = rig.ring.register_buffers([4096])
    view[10:14] = b"word"
    file = rig.file()
    assert good((yield rig.ring.write_fixed(file, 0, 4, start=10, offset=0))) == 4
    assert os.pread(file, 10, 0) == b"word"


@case
def read_group(rig: Rig) -> Case:
    reader, writer = rig.pipe()
    rig.later(lambda: os.write(writer, b"word"))
    done = yield rig.ring.read_group(reader, rig.group())
    assert (good(done), done.data) == (4, b"word")


@case
def read_multishot(rig: Rig) -> Case:
    reader, writer = os.pipe()
    rig.stack.callback(os.close, reader)
    ticket = rig.ring.read_multishot(reader, rig.group())
    rig.later(lambda: (os.write(writer, b"word"), os.close(writer)))
    done = yield ticket
    assert good(done) == 0
    assert b"".join(one.data for one in rig.seen[ticket]) == b"word"


@case
def fsync(rig: Rig) -> Case:
    file = rig.file(b"x")
    assert good((yield rig.ring.fsync(file))) == 0
    assert good((yield rig.ring.fdatasync(file))) == 0
    assert (yield rig.ring.fsync(rig.pipe()[0])).result == -errno.EINVAL


@case
def fallocate(rig: Rig) -> Case:
    file = rig.file()
    assert good((yield rig.ring.fallocate(file, 1000, 9000))) == 0
    assert os.fstat(file).st_size == 10000


@case
def ftruncate(rig: Rig) -> Case:
    file = rig.file(b"0123456789")
    assert good((yield rig.ring.ftruncate(file, 4))) == 0
    assert os.pread(file, 20, 0) == b"0123"


@case
def fadvise(rig: Rig) -> Case:
    assert good((yield rig.ring.fadvise(rig.file(b"x" * 9000), 0, 9000, os.POSIX_FADV_WILLNEED))) == 0
    assert good((yield rig.ring.fadvise(rig.file(b"x"), 0, 2**33, os.POSIX_FADV_RANDOM))) == 0


@case
def madvise(rig: Rig) -> Case:
    with mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:4] = b"word"
        assert good((yield rig.ring.madvise(memory, mmap.MADV_DONTNEED))) == 0
        assert memory[:4] == bytes(4)
    assert good((yield rig.ring.madvise(rig.memory(8192)[0], mmap.MADV_WILLNEED))) == 0


@case
def splice(rig: Rig) -> Case:
    file, (reader, writer) = rig.file(b"0123456789"), rig.pipe()
    assert good((yield rig.ring.splice(file, writer, 4, source_offset=3))) == 4
    assert os.read(reader, 100) == b"3456"
    target = rig.file(b"..........", "target")
    os.write(writer, b"word")
    assert good((yield rig.ring.splice(reader, target, 4, target_offset=2))) == 4
    assert os.pread(target, 20, 0) == b"..word...."
    rig.ring.register_files([file, writer])
    ticket = rig.ring.splice(0, 1, 2, source_offset=0, source_registered=True, flags=Flag.FIXED_FILE)
    assert good((yield ticket)) == 2
    assert os.read(reader, 100) == b"01"


@case
def tee(rig: Rig) -> Case:
    one, two = rig.pipe(), rig.pipe()
    os.write(one[1], b"word")
    assert good((yield rig.ring.tee(one[0], two[1], 100))) == 4
    assert os.read(one[0], 100) == os.read(two[0], 100) == b"word"


@case
def openat2(rig: Rig) -> Case:
    made = str(rig.folder / "made") + "\0"
    number = rig.take(good((yield rig.ring.openat2(made[:-1], os.O_CREAT | os.O_RDWR, mode=0o640))))
    assert os.fstat(number).st_mode & 0o777 == 0o640
    assert not os.get_inheritable(number)
    inside = os.open(rig.folder, os.O_RDONLY)
    rig.stack.callback(os.close, inside)
    again = rig.take(good((yield rig.ring.openat2(b"made", dir_fd=inside, resolve=0x08))))
    assert os.fstat(again).st_ino == os.fstat(number).st_ino
    assert (yield rig.ring.openat2("../made", dir_fd=inside, resolve=0x08)).result == -errno.EXDEV
    rig.ring.register_files(4)
    (rig.folder / "made").write_bytes(b"direct")
    assert good((yield rig.ring.openat2(made[:-1], direct=2))) == 0
    done = yield rig.ring.read(2, 10, flags=Flag.FIXED_FILE)
    assert done.data == b"direct"
    assert good((yield rig.ring.openat2(made[:-1], direct=ANY_PLACE))) in (0, 1, 3)


@case
def close(rig: Rig) -> Case:
    number = os.open(rig.folder, os.O_RDONLY)
    assert good((yield rig.ring.close_file(number))) == 0
    assert (yield rig.ring.close_file(number)).result == -errno.EBADF
    rig.ring.register_files([rig.file(b"x")])
    assert good((yield rig.ring.close_file(0, flags=Flag.FIXED_FILE))) == 0
    assert (yield rig.ring.read(0, 1, flags=Flag.FIXED_FILE)).result == -errno.EBADF


@case
def statx(rig: Rig) -> Case:
    file = rig.file(b"0123456789")
    done = yield rig.ring.statx(str(rig.folder) + "/file")
    good(done)
    state, expected = done.stat, os.fstat(file)
    for name in ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size", "st_atime_ns"):
        assert getattr(state, name) == getattr(expected, name)
    for name in ("st_mtime_ns", "st_ctime_ns", "st_blocks", "st_blksize", "st_rdev", "st_mtime"):
        assert getattr(state, name) == getattr(expected, name)
    assert (yield rig.ring.statx(file=file)).stat.st_ino == expected.st_ino
    (rig.folder / "link").symlink_to("file")
    assert (yield rig.ring.statx(rig.folder / "link", follow_symlinks=False)).stat.st_size == 4
    assert (yield rig.ring.statx(rig.folder / "none")).result == -errno.ENOENT


@case
def unlinkat(rig: Rig) -> Case:
    rig.file(b"")
    (rig.folder / "inner").mkdir()
    assert good((yield rig.ring.unlinkat(str(rig.folder) + "/file"))) == 0
    assert (yield rig.ring.unlinkat(rig.folder / "inner")).result == -errno.EISDIR
    assert good((yield rig.ring.unlinkat(rig.folder / "inner", is_dir=True))) == 0
    assert not list(rig.folder.iterdir())


@case
def renameat(rig: Rig) -> Case:
    rig.file(b"one", "one")
    rig.file(b"two", "two")
    old, new = str(rig.folder) + "/one", str(rig.folder) + "/three"
    assert good((yield rig.ring.renameat(old, new))) == 0
    assert (yield rig.ring.renameat(new, rig.folder / "two", rename_flags=1)).result == -errno.EEXIST
    assert good((yield rig.ring.renameat(new, rig.folder / "two", rename_flags=2))) == 0
    assert ((rig.folder / "two").read_bytes(), (rig.folder / "three").read_bytes()) == (b"one", b"two")


@case
def mkdirat(rig: Rig) -> Case:
    assert good((yield rig.ring.mkdirat(str(rig.folder) + "/made", 0o700))) == 0
    assert (rig.folder / "made").stat().st_mode & 0o777 == 0o700


@case
def symlinkat(rig: Rig) -> Case:
    assert good((yield rig.ring.symlinkat("some" + "where", str(rig.folder) + "/link"))) == 0
    assert str((rig.folder / "link").readlink()) == "somewhere"


@case
def linkat(rig: Rig) -> Case:
    file = rig.file(b"x")
    assert good((yield rig.ring.linkat(str(rig.folder) + "/file", str(rig.folder) + "/other"))) == 0
    assert os.fstat(file).st_nlink == 2


@case
def fsetxattr(rig: Rig) -> Case:
    file = rig.file(b"x")
    assert good((yield rig.ring.fsetxattr(file, "user.one", b"value" * 10))) == 0
    assert os.getxattr(file, "user.one") == b"value" * 10
    assert (
        yield rig.ring.fsetxattr(file, "user.one", b"", xattr_flags=os.XATTR_CREATE)
    ).result == -errno.EEXIST


@case
def fgetxattr(rig: Rig) -> Case:
    file = rig.file(b"x")
    os.setxattr(file, "user.one", b"value")
    done = yield rig.ring.fgetxattr(file, "user" + ".one")
    assert (good(done), done.data) == (5, b"value")
    assert (yield rig.ring.fgetxattr(file, "user.one", 2)).result == -errno.ERANGE
    done = yield rig.ring.fgetxattr(file, "user.one", 0)
    assert (done.result, done.data) == (5, b"")


@case
def setxattr(rig: Rig) -> Case:
    file = rig.file(b"x")
    assert good((yield rig.ring.setxattr(str(rig.folder) + "/file", "user.two", b"other"))) == 0
    assert os.getxattr(file, "user.two") == b"other"


@case
def getxattr(rig: Rig) -> Case:
    os.setxattr(rig.file(b"x"), "user.two", b"other")
    done = yield rig.ring.getxattr(str(rig.folder) + "/file", "user.two")
    assert (good(done), done.data) == (5, b"other")


# -- sockets --


@case
def socket_(rig: Rig) -> Case:
    number = rig.take(good((yield rig.ring.socket(socket.AF_INET6, socket.SOCK_DGRAM))))
    with socket.socket(fileno=os.dup(number)) as made:
        assert (made.family, made.type) == (socket.AF_INET6, socket.SOCK_DGRAM)
    assert not os.get_inheritable(number)
    rig.ring.register_files(2)
    assert good((yield rig.ring.socket(direct=1))) == 0
    done = yield rig.ring.connect(1, rig.listener().getsockname(), flags=Flag.FIXED_FILE)
    assert good(done) == 0


CASES["socket"] = CASES.pop("socket_")


@case
def bind(rig: Rig) -> Case:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        assert good((yield rig.ring.bind(made, ("127.0.0." + "7", 0)))) == 0
        assert made.getsockname()[0] == "127.0.0.7"


@case
def listen(rig: Rig) -> Case:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        assert good((yield rig.ring.listen(made, 5))) == 0
        with socket.create_connection(made.getsockname()):
            made.accept()[0].close()


@case
def accept(rig: Rig) -> Case:
    server = rig.listener()
    made: list[socket.socket] = []
    rig.later(lambda: made.append(rig.stack.enter_context(socket.create_connection(server.getsockname()))))
    done = yield rig.ring.accept(server)
    number = rig.take(good(done))
    assert done.address == made[0].getsockname()
    assert not os.get_inheritable(number)
    rig.ring.register_files(2)
    rig.later(lambda: made.append(rig.stack.enter_context(socket.create_connection(server.getsockname()))))
    assert good((yield rig.ring.accept(server, direct=1))) == 0
    made[1].send(b"x")
    assert (yield rig.ring.recv(1, 5, flags=Flag.FIXED_FILE)).data == b"x"


@case
def accept_multishot(rig: Rig) -> Case:
    server = rig.listener()
    ticket = rig.ring.accept_multishot(server)
    peers = [rig.stack.enter_context(socket.create_connection(server.getsockname())) for _ in range(3)]
    rig.ring.submit()
    names = set()
    for one in rig.shots(ticket, 3):
        assert one.more
        with socket.socket(fileno=good(one)) as made:
            names.add(made.getpeername())
    assert names == {peer.getsockname() for peer in peers}
    assert (yield rig.ring.cancel(ticket)).result == 0
    assert rig.last(ticket).result == -errno.ECANCELED
    rig.ring.register_files(2)
    ticket = rig.ring.accept_multishot(server, direct=True)
    rig.ring.submit()
    rig.stack.enter_context(socket.create_connection(server.getsockname()))
    assert 0 <= rig.shots(ticket, 1)[0].result < 64
    yield rig.ring.cancel(ticket)


@case
def connect(rig: Rig) -> Case:
    server = rig.listener()
    host, port = server.getsockname()
    with socket.socket() as made:
        assert good((yield rig.ring.connect(made, (host + "", port)))) == 0
        made.send(b"x")
        with server.accept()[0] as other:
            assert other.recv(5) == b"x"
    with socket.socket() as made, rig.udp() as gone:
        free = gone.getsockname()
        assert (yield rig.ring.connect(made, free)).result == -errno.ECONNREFUSED


@case
def shutdown(rig: Rig) -> Case:
    one, two = rig.pair()
    assert good((yield rig.ring.shutdown(one, socket.SHUT_WR))) == 0
    assert two.recv(10) == b""
    two.send(b"x")
    assert one.recv(10) == b"x"


@case
def send(rig: Rig) -> Case:
    one, two = rig.tcp()
    assert good((yield rig.ring.send(one, bytearray(b"copied")))) == 6
    assert good((yield rig.ring.send(one, bytearray(b"in place"), copy=False))) == 8
    assert two.recv(14, socket.MSG_WAITALL) == b"copiedin place"
    long = os.urandom(2**21)
    got = rig.receiving(two, len(long))
    done = yield rig.ring.send(one, bytes(bytearray(long)), message_flags=socket.MSG_WAITALL)
    assert good(done) == len(long)
    assert got() == long


@case
def send_group(rig: Rig) -> Case:
    one, two = rig.tcp()
    group = rig.ring.provide_send_buffers(9, 8, 4096)
    sent = b""
    for turn in range(10):  # across the end of the buffer ring
        got = rig.receiving(two, 3 * 3000)
        for number in range(3):
            part = bytearray(b"%d" % ((turn + number) % 10)) * 3000
            group.append(part)
            sent = (sent if number else b"") + bytes(part)
            part[:] = bytes(3000)
        ticket = rig.ring.send_group(one, 9)
        if rig.drops:
            del group, part
        good((yield ticket))
        assert got() == sent
        assert sum(done.result for done in rig.seen[ticket]) == 9000
        assert {done.data for done in rig.seen[ticket]} == {b""}
        if rig.drops:
            return
        assert group.unsent == 0
    group.append(b"a single")
    group.append(b" buffer")
    assert good((yield rig.ring.send_group(one, 9, bundle=False))) == 8
    assert group.unsent == 1
    assert good((yield rig.ring.send_group(one, 9, bundle=False))) == 7
    assert two.recv(15, socket.MSG_WAITALL) == b"a single buffer"
    assert (yield rig.ring.send_group(one, 9)).result == -errno.ENOBUFS


@case
def give_buffers(rig: Rig) -> Case:
    reader, writer = rig.pipe()
    group = rig.ring.legacy_buffers(9, 5, 100)
    for _ in range(3):
        for done in (yield group.give()):
            assert good(done) == 0
        assert group.available == 5
        for number in range(5):
            os.write(writer, b"%d" % number * 40)
            done = yield rig.ring.read_group(reader, 9)
            assert (good(done), done.data) == (40, b"%d" % number * 40)
        os.write(writer, b"more")
        assert (yield rig.ring.read_group(reader, 9)).result == -errno.ENOBUFS
        assert os.read(reader, 10) == b"more"
        assert group.available == 0


@case
def remove_buffers(rig: Rig) -> Case:
    group = rig.ring.legacy_buffers(9, 7, 64)
    for done in (yield group.give()):
        good(done)
    assert group.available == 7
    assert good((yield group.remove())) == 7
    assert group.available == 0
    assert (yield rig.ring.read_group(rig.file(b"x"), 9)).result == -errno.ENOBUFS
    group.unregister()


@case
def send_zc(rig: Rig) -> Case:
    one, two = rig.tcp()
    long = os.urandom(100000)
    got = rig.receiving(two, len(long))
    ticket = rig.ring.send_zc(one, bytearray(long), message_flags=socket.MSG_WAITALL)
    last = yield ticket
    first = rig.seen[ticket][0]
    assert good(first) == len(long)
    assert [one.more for one in rig.seen[ticket]] == [True, False]
    assert (last.check(), last.copied) == (0, True)  # loopback copies
    assert got() == long


@case
def send_zc_fixed(rig: Rig) -> Case:
    one, two = rig.tcp()
    (view,) = rig.ring.register_buffers([8192])
    view[100:5100] = b"z" * 5000
    got = rig.receiving(two, 5000)
    ticket = rig.ring.send_zc_fixed(one, 0, 5000, start=100, message_flags=socket.MSG_WAITALL)
    yield ticket
    assert good(rig.seen[ticket][0]) == 5000
    assert got() == b"z" * 5000


@case
def recv(rig: Rig) -> Case:
    one, two = rig.tcp()
    rig.later(lambda: two.send(b"word"))
    done = yield rig.ring.recv(one, 100)
    assert (good(done), done.data) == (4, b"word")
    buffer, seen = rig.memory(10)
    ticket = rig.ring.recv_into(one, buffer, poll_first=True)
    del buffer
    rig.later(lambda: two.send(b"late"))
    assert good((yield ticket)) == 4
    assert seen[:5] == b"late\0"
    two.send(b"gone")
    done = yield rig.ring.recv(one, 4, message_flags=socket.MSG_TRUNC)
    assert (done.result, done.data) == (4, bytes(4)), "the kernel drops the bytes and writes none"
    rig.later(lambda: two.shutdown(socket.SHUT_WR))
    done = yield rig.ring.recv(one, 100)
    assert (done.result, done.data) == (0, b"")


@case
def recv_group(rig: Rig) -> Case:
    one, two = rig.tcp()
    group = rig.group(1000)
    rig.later(lambda: two.send(b"word"))
    done = yield rig.ring.recv_group(one, group)
    assert (good(done), done.data) == (4, b"word")

    longest = 0
    for _ in range(20):  # across the end of the buffer ring
        long, got = os.urandom(3500), b""
        two.send(long)
        while len(got) < len(long):
            done = yield rig.ring.recv_group(one, group, bundle=True)
            if done.result == -errno.EINVAL:
                return  # before Linux 6.10
            assert good(done) == len(done.data) > 0
            longest = max(longest, len(done.data))
            got += done.data
        assert got == long
    assert longest > 1000, "several buffers in one completion"


@case
def recv_multishot(rig: Rig) -> Case:
    one, two = rig.tcp()
    group, long = rig.group(1000), os.urandom(50000)
    armed, got = rig.ring.recv_multishot(one, group, bundle=True), b""
    rig.ring.submit()
    two.send(long)
    end = time.monotonic() + 20
    while len(got) < len(long) and time.monotonic() < end:
        for shot in rig.ring.reap(1, 1):
            got += shot.data if shot.ticket == armed else b""
            if shot.ticket == armed and not shot.more:  # -ENOBUFS: the buffers were full
                assert shot.result in (-errno.ENOBUFS, -errno.EINVAL, len(shot.data))
                armed = rig.ring.recv_multishot(one, group, bundle=shot.result != -errno.EINVAL)
                rig.ring.submit()
    assert got == long
    yield rig.ring.cancel_all()
    while rig.ring.info.in_flight:
        rig.ring.reap(1, 1)
    ticket = rig.ring.recv_multishot(one, group)
    rig.ring.submit()
    for number in range(20):
        two.send(b"%d" % number * 400)
        rig.shots(ticket, number + 1)
    assert [one.data for one in rig.seen[ticket]] == [b"%d" % number * 400 for number in range(20)]
    rig.later(lambda: two.shutdown(socket.SHUT_WR))
    done = yield ticket
    assert good(done) == 0


@case
def sendmsg(rig: Rig) -> Case:
    one, two = rig.udp(), rig.udp()
    host, port = two.getsockname()
    assert good((yield rig.ring.sendmsg(one, bytearray(b"copied"), (host, port)))) == 6
    assert good((yield rig.ring.sendmsg(one, bytearray(b"in place"), (host, port), copy=False))) == 8
    assert (two.recv(100), two.recv(100)) == (b"copied", b"in place")


@case
def sendmsg_zc(rig: Rig) -> Case:
    one, two = rig.udp(), rig.udp()
    ticket = rig.ring.sendmsg_zc(one, bytearray(b"z" * 5000), two.getsockname())
    got: list[bytes] = []
    rig.later(lambda: got.append(two.recv(6000)))
    yield ticket
    assert good(rig.seen[ticket][0]) == 5000
    assert got == [b"z" * 5000]


@case
def recvmsg(rig: Rig) -> Case:
    one, two = rig.udp(), rig.udp()
    rig.later(lambda: one.sendto(b"word", two.getsockname()))
    done = yield rig.ring.recvmsg(two, 100, control_length=64)
    assert (good(done), done.data, done.address) == (4, b"word", one.getsockname())
    buffer, seen = rig.memory(10)
    ticket = rig.ring.recvmsg_into(two, buffer)
    del buffer
    rig.later(lambda: one.sendto(b"late", two.getsockname()))
    done = yield ticket
    assert (good(done), done.address) == (4, one.getsockname())
    assert seen[:5] == b"late\0"


@case
def recvmsg_multishot(rig: Rig) -> Case:
    one, two = rig.udp(), rig.udp()
    two.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    ticket = rig.ring.recvmsg_multishot(two, rig.group(1000), control_length=64)
    rig.ring.submit()
    for number in range(20):
        one.sendto(b"%d" % number, two.getsockname())
        shot = rig.shots(ticket, number + 1)[number]
        assert (shot.data, shot.address) == (b"%d" % number, one.getsockname())
        assert shot.control == ((socket.IPPROTO_IP, socket.IP_TOS, b"\0"),)
    one.sendto(bytes(2000), two.getsockname())
    long = rig.shots(ticket, 21)[20]
    assert long.message_flags & socket.MSG_TRUNC
    assert len(long.data) == 1000 - 16 - 128 - 64
    assert (yield rig.ring.cancel(ticket)).result == 0
    assert rig.last(ticket).result == -errno.ECANCELED


@case
def getsockopt(rig: Rig) -> Case:
    one, _ = rig.tcp()
    done = yield rig.ring.getsockopt(one, socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert good(done) == 4
    assert int.from_bytes(done.data, "little") == one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@case
def setsockopt(rig: Rig) -> Case:
    one, _ = rig.tcp()
    assert good((yield rig.ring.setsockopt(one, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))) == 0
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert (
        good((yield rig.ring.setsockopt(one, socket.IPPROTO_TCP, socket.TCP_NODELAY, bytes([1, 0, 0, 0]))))
        == 0
    )
    assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@case
def socket_command(rig: Rig) -> Case:
    one, two = rig.tcp()
    two.send(b"word")
    select.select([one], [], [], 20)
    assert good((yield rig.ring.unread(one))) == 4
    assert good((yield rig.ring.unsent(one))) == 0


@case
def uring_cmd(rig: Rig) -> Case:
    one, two = rig.tcp()
    two.send(b"word")
    select.select([one], [], [], 20)
    assert good((yield rig.ring.uring_cmd(one, 0))) == 4
    done = yield rig.ring.uring_cmd(rig.file(b""), 1, bytes(16), buffer=bytearray(16))
    assert done.result in (-errno.EOPNOTSUPP, -errno.ENOTTY, -errno.EINVAL)


# -- readiness and time --


@case
def poll_add(rig: Rig) -> Case:
    reader, writer = rig.pipe()
    rig.later(lambda: os.write(writer, b"x"))
    assert good((yield rig.ring.poll_add(reader))) == select.POLLIN


@case
def poll_update(rig: Rig) -> Case:
    reader, _ = rig.pipe()
    one, _ = rig.pair()
    ticket = rig.ring.poll_add(one, select.POLLIN)
    rig.ring.submit()
    update = rig.ring.poll_update(ticket, select.POLLOUT)
    done = yield [update, ticket]
    assert good(done[0]) == 0
    assert done[1].result & select.POLLOUT
    assert (yield rig.ring.poll_update(ticket, select.POLLIN)).result == -errno.ENOENT
    del reader


@case
def poll_remove(rig: Rig) -> Case:
    ticket = rig.ring.poll_add(rig.pipe()[0])
    done = yield [rig.ring.poll_remove(ticket), ticket]
    assert [one.result for one in done] == [0, -errno.ECANCELED]


@case
def epoll_wait(rig: Rig) -> Case:
    with select.epoll() as poll:
        reader, writer = rig.pipe()
        other, _ = rig.pipe()
        poll.register(reader, select.EPOLLIN)
        poll.register(other, select.EPOLLIN)
        rig.later(lambda: os.write(writer, b"x"))
        done = yield rig.ring.epoll_wait(poll, 8)
        assert good(done) == 1
        assert done.events == [(reader, select.EPOLLIN)]


@case
def timeout(rig: Rig) -> Case:
    clocks = [time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_REALTIME]
    for clock in clocks:
        assert (yield rig.ring.timeout(0.01, clock=clock)).result == -errno.ETIME
        soon = time.clock_gettime(clock) + 0.02
        assert (yield rig.ring.timeout(soon, absolute=True, clock=clock)).result == -errno.ETIME
        assert time.clock_gettime(clock) >= soon


@case
def timeout_update(rig: Rig) -> Case:
    ticket = rig.ring.timeout(3600)
    rig.ring.submit()
    done = yield [rig.ring.timeout_update(ticket, 0.01), ticket]
    assert good(done[0]) == 0
    assert done[1].result == -errno.ETIME
    assert (yield rig.ring.timeout_update(ticket, 1)).result == -errno.ENOENT


@case
def timeout_remove(rig: Rig) -> Case:
    ticket = rig.ring.timeout(3600)
    done = yield [rig.ring.timeout_remove(ticket), ticket]
    assert [one.result for one in done] == [0, -errno.ECANCELED]


@case
def link_timeout(rig: Rig) -> Case:
    waiting = rig.ring.read(rig.pipe()[0], 10, flags=Flag.LINK)
    done = yield [waiting, rig.ring.link_timeout(0.02)]
    assert [one.result for one in done] == [-errno.ECANCELED, -errno.ETIME]


@case
def link_timeout_update(rig: Rig) -> Case:
    waiting = rig.ring.read(rig.pipe()[0], 10, flags=Flag.LINK)
    ticket = rig.ring.link_timeout(3600)
    rig.ring.submit()
    done = yield [rig.ring.link_timeout_update(ticket, 0.01), waiting, ticket]
    assert [one.result for one in done] == [0, -errno.ECANCELED, -errno.ETIME]


# -- control --


@case
def cancel(rig: Rig) -> Case:
    reader = rig.pipe()[0]
    waiting = [rig.ring.read(reader, 10), rig.ring.poll_add(reader), rig.ring.timeout(3600)]
    done = yield [rig.ring.cancel(waiting[0]), waiting[0]]
    assert [one.result for one in done] == [0, -errno.ECANCELED]
    done = yield [rig.ring.cancel_operation("poll_add", reader), waiting[1]]
    assert [one.result for one in done] == [1, -errno.ECANCELED]
    rig.ring.register_files([reader])
    fixed = rig.ring.poll_add(0, flags=Flag.FIXED_FILE)
    done = yield [rig.ring.cancel_file(0, flags=Flag.FIXED_FILE), fixed]
    assert [one.result for one in done] == [1, -errno.ECANCELED]
    done = yield [rig.ring.cancel_all(), waiting[2]]
    assert [one.result for one in done] == [1, -errno.ECANCELED]


@case
def msg_ring(rig: Rig) -> Case:
    with Ring(8) as other:
        assert good((yield rig.ring.msg_ring(other, 77, result=5))) == 0
        (got,) = other.reap(1, 20)
        assert (got.message, got.result) == (77, 5)


@case
def msg_ring_fd(rig: Rig) -> Case:
    file = rig.file(b"shared")
    rig.ring.register_files([file])
    with Ring(8) as other:
        other.register_files(4)
        assert good((yield rig.ring.msg_ring_fd(other, 0, 3, 99))) == 0
        assert other.reap(1, 20)[0].message == 99
        other.read(3, 10, flags=Flag.FIXED_FILE, offset=0)
        assert other.reap(1, 20)[0].data == b"shared"


@case
def futex_wait(rig: Rig) -> Case:
    word = (ctypes.c_uint32 * 1)(5)
    ticket = rig.ring.futex_wait(word, 5)
    rig.ring.submit()
    done = yield [rig.ring.futex_wake(word), ticket]
    assert good(done[1]) == 0
    assert done[0].result == 1
    assert (yield rig.ring.futex_wait(word, 6)).result == -errno.EAGAIN
    ticket = rig.ring.futex_wait((ctypes.c_uint32 * 1)(5), 5)
    done = yield [rig.ring.cancel(ticket), ticket]
    assert done[1].result == -errno.ECANCELED
    yield from woken_late(rig)


def woken_late(rig: Rig) -> Case:
    """A word that nobody else holds, woken by its other mapping. Another word there ends nothing."""
    buffer, seen = rig.memory(4)
    ticket = rig.ring.futex_wait(buffer, 0, private=False)
    del buffer
    while not rig.seen.get(ticket):
        yield rig.ring.futex_wake(seen, private=False)
    assert good(rig.last(ticket)) == 0


@case
def futex_wake(rig: Rig) -> Case:
    assert good((yield rig.ring.futex_wake(memoryview(bytearray(4))))) == 0


@case
def waitid(rig: Rig) -> Case:
    child = os.fork()
    if not child:
        os._exit(9)
    done = yield rig.ring.waitid(os.P_PID, child)
    if done.result == -errno.EINVAL:
        os.waitpid(child, 0)
    assert good(done) == 0
    assert (done.child.si_pid, done.child.si_status, done.child.si_code) == (child, 9, os.CLD_EXITED)


@case
def files_update(rig: Rig) -> Case:
    rig.ring.register_files(4)
    file = rig.file(b"word")
    assert good((yield rig.ring.files_update(1, [file, None]))) == 2
    assert (yield rig.ring.read(1, 10, flags=Flag.FIXED_FILE, offset=0)).data == b"word"
    done = yield rig.ring.files_update(ANY_PLACE, [file, file])
    assert (good(done), len(set(done.files)), set(done.files) <= {0, 2, 3}) == (2, 2, True)


@case
def fixed_fd_install(rig: Rig) -> Case:
    rig.ring.register_files([rig.file(b"word")])
    number = rig.take(good((yield rig.ring.fixed_fd_install(0))))
    assert os.pread(number, 10, 0) == b"word"
    assert not os.get_inheritable(number)


@case
def pipe(rig: Rig) -> Case:
    done = yield rig.ring.pipe()
    good(done)
    reader, writer = map(rig.take, done.files)
    os.write(writer, b"x")
    assert os.read(reader, 5) == b"x"
    assert not os.get_inheritable(reader)
