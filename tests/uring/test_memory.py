"""Memory of operations: aligned for O_DIRECT, from a pool, held and let go."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring import ClosedError, RingError, WrongThreadError
from udpring.uring import Flag, Ring, graveyard


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(32) as ring:
        yield ring


def done(ring: Ring) -> int:
    (one,) = ring.reap(1, 20)
    return one.result


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[int]:
    """A file opened with O_DIRECT, on a file system that supports it."""
    for folder in (tmp_path, Path(__file__).parent, Path("/var/tmp")):
        path = folder / f"direct-{os.getpid()}-{threading.get_ident()}"
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        except OSError:
            continue
        try:
            yield number
        finally:
            os.close(number)
            path.unlink()
        return
    pytest.skip("no file system here has O_DIRECT")


@pytest.mark.parametrize("length", [4096, 8192, 65536, 2**20, 2**20 + 4096])
def test_direct_files_are_read_and_written(ring: Ring, direct: int, length: int) -> None:
    """The ring's own memory is aligned as the kernel requires it."""
    content = bytearray(os.urandom(length))
    for _ in range(3):
        ring.write(direct, content, offset=0)
        assert done(ring) == length
        ring.read(direct, length, offset=0)
        (one,) = ring.reap(1, 20)
        assert (one.result, one.data) == (length, content)


def test_direct_sectors(ring: Ring, direct: int) -> None:
    """512 bytes at a time, where the device has such blocks."""
    os.ftruncate(direct, 8192)
    tickets = [ring.read(direct, 512, offset=512 * i) for i in range(8)]
    results = []
    while len(results) < len(tickets):
        results += [one.result for one in ring.reap(1, 20)]
    assert set(results) in ({512}, {-errno.EINVAL})
    if -errno.EINVAL in results:
        pytest.skip("the device has blocks of 4096 bytes")


def test_data_of_one_operation_is_not_that_of_another(ring: Ring, tmp_path: Path) -> None:
    """Blocks are used again, and a completion shows only what its own operation got."""
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"secret" * 100)
        file.flush()
        for length in (600, 512, 100, 64, 16):
            ring.read(file, length, offset=0)
            assert len(ring.reap(1, 20)[0].data) == length
            ring.read(file, length, offset=597)
            assert ring.reap(1, 20)[0].data == b"ret"[:length]


def test_a_buffer_in_use_cannot_be_resized(ring: Ring) -> None:
    reader, writer = os.pipe()
    buffer = bytearray(10)
    ring.readinto(reader, buffer)
    ring.submit()
    with pytest.raises(BufferError):
        buffer.extend(bytes(1000))
    os.write(writer, b"x")
    assert done(ring) == 1
    buffer.extend(bytes(1000))
    os.close(reader)
    os.close(writer)


def test_a_refused_operation_lets_go_of_its_buffer(ring: Ring) -> None:
    buffer = bytearray(10)
    with pytest.raises(RingError):
        ring.readv(0, [buffer] * 1025)
    with pytest.raises(RingError, match="aligned"):
        ring.futex_wait(memoryview(buffer)[:3], 0)
    with pytest.raises(RingError, match="whole pages"):
        ring.madvise(buffer, 4)
    with pytest.raises(BufferError):
        ring.readinto(0, b"not writable")
    with pytest.raises(RingError, match="SKIP_SUCCESS") as kept:
        ring.readinto(0, buffer, flags=Flag.SKIP_SUCCESS)
    assert kept.tb  # and still
    buffer.append(0)
    assert not ring._pins


def test_a_closed_ring_lets_go_of_its_buffers() -> None:
    reader, writer = os.pipe()
    ring = Ring(8)
    buffer = bytearray(10)
    ring.readinto(reader, buffer)
    ring.submit()
    ring.readinto(reader, buffer)  # not submitted
    ring.close()
    buffer.append(0)
    with pytest.raises(ClosedError):
        ring.readinto(reader, buffer)
    buffer.append(0)
    os.close(reader)
    os.close(writer)


def test_another_thread_holds_nothing(ring: Ring) -> None:
    buffer = bytearray(10)
    refused: list[type] = []

    def try_it() -> None:
        try:
            ring.readinto(0, buffer)
        except WrongThreadError as error:
            refused.append(type(error))

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert refused == [WrongThreadError]
    buffer.append(0)


def test_the_pool_is_bounded(ring: Ring, tmp_path: Path) -> None:
    """A burst of large operations does not keep their memory for ever."""
    if "libasan" in Path("/proc/self/maps").read_text():
        pytest.skip("the address sanitiser keeps freed memory")
    before = graveyard()
    (tmp_path / "file").write_bytes(bytes(2**20))
    # Once the program has freed a large block, glibc keeps what is freed. It is not the pool's.
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)

    def resident() -> int:
        give_back(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    with (tmp_path / "file").open("rb") as file:
        start = resident()
        for _ in range(3):
            for _ in range(30):
                ring.read(file, 2**20, offset=0)
            count = 0
            while count < 30:
                count += len(ring.reap(1, 20))
        ring.completions()  # settles the last ones
        assert resident() - start < 24 * 2**20
    assert graveyard() == before
