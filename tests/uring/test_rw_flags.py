"""``rw_flags`` of reads and writes: what each does, and which are refused."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from udpring import RingError
from udpring.uring import Completion, Reactor, Ring, RWFlag

from .reactors import Host


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(8) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost) == (0, 0)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(b"0123456789")
    number = os.open(tmp_path / "file", os.O_RDWR)
    yield number
    os.close(number)


def one(ring: Ring) -> Completion:
    (done,) = ring.reap(1, 30)
    return done


READS: dict[str, Callable[[Ring, int, RWFlag], int]] = {
    "read": lambda ring, fd, how: ring.read(fd, 4, offset=0, rw_flags=how),
    "readinto": lambda ring, fd, how: ring.readinto(fd, bytearray(4), offset=0, rw_flags=how),
    "readv": lambda ring, fd, how: ring.readv(fd, [bytearray(2), bytearray(2)], offset=0, rw_flags=how),
    "read_fixed": lambda ring, fd, how: ring.read_fixed(fd, 0, 4, offset=0, rw_flags=how),
    "read_group": lambda ring, fd, how: ring.read_group(fd, 1, offset=0, rw_flags=how),
    "queue_many": lambda ring, fd, how: ring.queue_many(
        "read", fd, lengths=4, buffer=bytearray(4), count=1, bits=how
    )[0],
}
WRITES: dict[str, Callable[[Ring, int, RWFlag], int]] = {
    "write": lambda ring, fd, how: ring.write(fd, b"word", offset=0, rw_flags=how),
    "in place": lambda ring, fd, how: ring.write(fd, bytearray(b"word"), offset=0, copy=False, rw_flags=how),
    "writev": lambda ring, fd, how: ring.writev(fd, [b"wo", b"rd"], offset=0, rw_flags=how),
    "write_fixed": lambda ring, fd, how: ring.write_fixed(fd, 0, 4, offset=0, rw_flags=how),
}


@pytest.mark.parametrize("how", READS)
def test_read_without_waiting(ring: Ring, file: int, how: str) -> None:
    """A file in the cache is read at once, and an empty pipe answers -EAGAIN."""
    ring.register_buffers([4])
    ring.provide_buffers(1, 8, 4)
    READS[how](ring, file, RWFlag.NOWAIT)
    done = one(ring)
    assert done.result == 4 or (done.result == -errno.EOPNOTSUPP and tmpfs_lacks_it())
    reader, writer = os.pipe()
    READS[how](ring, reader, RWFlag.NOWAIT)
    assert one(ring).result == -errno.EAGAIN
    os.close(reader)
    os.close(writer)


def tmpfs_lacks_it() -> bool:
    """NOWAIT on tmpfs came with Linux 6.3."""
    return tuple(map(int, os.uname().release.split(".")[:2])) < (6, 3)


@pytest.mark.parametrize("how", WRITES)
def test_append_ignores_the_offset(ring: Ring, file: int, how: str) -> None:
    (view,) = ring.register_buffers([4])
    view[:] = b"word"
    WRITES[how](ring, file, RWFlag.APPEND | RWFlag.DSYNC)
    assert one(ring).result == 4
    assert os.pread(file, 20, 0) == b"0123456789word"


def test_noappend_writes_at_its_offset(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    number = os.open(path, os.O_WRONLY | os.O_APPEND)
    ring.write(number, b"word", offset=2, rw_flags=RWFlag.NOAPPEND)
    done = one(ring)
    os.close(number)
    if done.result == -errno.EOPNOTSUPP:
        pytest.skip("RWF_NOAPPEND needs Linux 6.9")
    assert path.read_bytes() == b"01word6789"


@pytest.mark.parametrize("flag", [RWFlag.ATOMIC, RWFlag.DONTCACHE, RWFlag.SYNC])
def test_file_systems_answer_what_they_lack(ring: Ring, file: int, flag: RWFlag) -> None:
    """The flag reaches the kernel: it works, or the file system says that it does not."""
    ring.write(file, bytes(4096), offset=0, rw_flags=flag)
    result = one(ring).result
    assert result == 4096 or (
        flag != RWFlag.SYNC and result in (-errno.EOPNOTSUPP, -errno.EINVAL, -errno.EAGAIN)
    )


@pytest.mark.parametrize("flag", [RWFlag.DSYNC, RWFlag.SYNC, RWFlag.APPEND, RWFlag.ATOMIC, RWFlag.HIPRI])
@pytest.mark.parametrize("how", READS)
def test_reads_refuse_flags_of_writes(ring: Ring, file: int, how: str, flag: RWFlag) -> None:
    ring.register_buffers([4])
    ring.provide_buffers(1, 8, 4)
    with pytest.raises(RingError, match="rw_flags") as caught:
        READS[how](ring, file, flag)
    assert caught.value.errno == errno.EINVAL
    assert (ring.pending, ring.info.busy_slots) == (0, 0)


@pytest.mark.parametrize("flag", [RWFlag(1 << 9), RWFlag(1 << 31), RWFlag.HIPRI])
@pytest.mark.parametrize("how", WRITES)
def test_unknown_flags_are_refused(ring: Ring, file: int, how: str, flag: RWFlag) -> None:
    ring.register_buffers([4])
    with pytest.raises(RingError, match="IOPOLL" if flag == RWFlag.HIPRI else "does not take") as caught:
        WRITES[how](ring, file, flag)
    assert caught.value.errno == errno.EINVAL


def test_reactor_takes_them_on_both_backends(on_asyncio: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    number = os.open(path, os.O_RDWR)
    memory = mmap.mmap(-1, 4096)

    async def main(reactor: Reactor) -> None:
        done = await reactor.do("write", number, b"word", offset=0, rw_flags=RWFlag.APPEND)
        assert done.check() == 4
        assert (await reactor.do("read", number, 20, offset=0, rw_flags=0)).data == b"0123456789word"
        assert (await reactor.do("readinto", number, memory, offset=0, rw_flags=0)).result == 14

    try:
        on_asyncio.run(main)
    finally:
        os.close(number)
