"""Files of the reactor, on io_uring and on threads."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import mmap
import os
import warnings
from pathlib import Path

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from udpring.errors import ClosedError
from udpring.uring import File, Reactor, open_file

from .reactors import EACH_BACKEND, Host, descriptors, until


def test_written_bytes_are_read_back(host: Host, tmp_path: Path) -> None:
    path, payload = tmp_path / "file", os.urandom(300_000)

    async def main(reactor: Reactor) -> bytes:
        async with open_file(path, "wb") as file:
            assert await file.write(payload) == len(payload)
            assert await file.tell() == len(payload)
            await file.fdatasync()
            await file.fsync()
        assert file.closed
        async with open_file(path) as file:
            return await file.read()

    before = descriptors()
    assert host.run(main) == payload == path.read_bytes()
    assert not descriptors() - before


def test_open_file_can_be_awaited(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text")

    async def main(reactor: Reactor) -> bytes:
        file = await open_file(path)
        try:
            return await file.read(2) + await file.read(100) + await file.read(100)
        finally:
            await file.close()
            await file.close()

    assert host.run(main) == b"text"


def test_missing_file_names_its_path(on_asyncio: Host, tmp_path: Path) -> None:
    async def main(reactor: Reactor) -> None:
        with pytest.raises(FileNotFoundError, match="absent"):
            await open_file(tmp_path / "absent")

    on_asyncio.run(main)


@pytest.mark.parametrize("mode", ["", "rw", "r++", "z", "rbt", "rtt"])
def test_unknown_modes_are_refused(on_asyncio: Host, mode: str) -> None:
    async def main(reactor: Reactor) -> None:
        with pytest.raises(ValueError, match="mode"):
            open_file("file", mode)

    on_asyncio.run(main)


def test_modes_create_truncate_append_and_exclude(on_asyncio: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "xb", permissions=0o600) as file:
            await file.write(b"one")
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileExistsError):
            await open_file(path, "xb")
        async with open_file(path, "ab") as file:
            assert await file.tell() == 3
            await file.write(b"two")
            assert await file.tell() == 6
        async with open_file(path, "r+b") as file:
            await file.write(b"ONE")
            assert await file.read() == b"two"
            assert await file.readable()
            assert await file.writable()
            assert await file.seekable()
            assert not await file.isatty()
        assert path.read_bytes() == b"ONEtwo"
        async with open_file(path, "wb") as file:
            assert not await file.readable()
        assert path.read_bytes() == b""

    on_asyncio.run(main)


def test_wrong_direction_is_the_kernels_error(on_asyncio: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "wb") as file:
            with pytest.raises(OSError, match="file") as error:
                await file.read(10)
            assert error.value.errno == errno.EBADF

    on_asyncio.run(main)


def test_positions_are_as_in_io(on_asyncio: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "r+b") as file:
            assert await file.seek(10) == 10
            assert await file.read(2) == bytes([10, 11])
            assert await file.seek(3, io.SEEK_CUR) == 15
            assert await file.seek(-5, io.SEEK_END) == 95
            assert await file.read() == bytes(range(95, 100))
            assert await file.read() == b""
            with pytest.raises(ValueError, match="position"):
                await file.seek(-1)
            with pytest.raises(ValueError, match="whence"):
                await file.seek(0, 9)
            await file.seek(50)
            assert await file.truncate() == 50
            assert await file.truncate(20) == 20
            await file.flush()
        assert path.stat().st_size == 20

    on_asyncio.run(main)


def test_offsets_do_not_move_the_position(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "r+b") as file:
            found: dict[int, bytes] = {}

            async def change(at: int) -> None:
                assert await file.pwrite(bytes([at]) * 10, at * 10) == 10
                found[at] = await file.pread(10, at * 10)

            async with anyio.create_task_group() as group:
                for at in range(100):
                    group.start_soon(change, at)
            assert found == {at: bytes([at]) * 10 for at in range(100)}
            buffer = bytearray(4)
            assert await file.preadinto(buffer, 998) == 2
            assert buffer == b"\x63\x63\0\0"
            assert await file.tell() == 0

    host.run(main)


def test_readinto_fills_the_buffer(on_asyncio: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main(reactor: Reactor) -> None:
        async with open_file(path) as file:
            buffer = bytearray(4)
            assert await file.readinto(buffer) == 4
            assert await file.readinto(memoryview(buffer)[:2]) == 2
            assert buffer == b"4523"
            assert await file.read() == b"6789"
            assert await file.readinto(buffer) == 0

    on_asyncio.run(main)


LINES = [b"", b"\n", b"no end", b"a\nb\n", b"x" * 200_000 + b"\nend", b"\n\n\n", b"one\ntwo"]


@pytest.mark.parametrize("content", LINES, ids=range(len(LINES)))
def test_lines_are_those_of_io(on_asyncio: Host, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    async def main(reactor: Reactor) -> list[bytes]:
        async with open_file(path) as file:
            return [line async for line in file]

    assert on_asyncio.run(main) == io.BytesIO(content).readlines()


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 50)),
        st.tuples(st.just("readline"), st.integers(-1, 20)),
        st.tuples(st.just("seek"), st.integers(0, 120)),
        st.tuples(st.just("write"), st.binary(max_size=20)),
        st.tuples(st.just("truncate"), st.integers(0, 120)),
        st.tuples(st.just("tell")),
    ),
    max_size=20,
)


@example(content=b"", calls=[("truncate", 2), ("readline", 1), ("truncate", 0), ("read", 1)])
@settings(max_examples=50)
@given(content=st.binary(max_size=100), calls=CALLS)
@pytest.mark.parametrize("backend", EACH_BACKEND)
def test_any_calls_do_as_in_io(
    tmp_path_factory: pytest.TempPathFactory, backend: str, content: bytes, calls: list[tuple[object, ...]]
) -> None:
    path, other = tmp_path_factory.mktemp("files") / "file", tmp_path_factory.mktemp("files") / "other"
    path.write_bytes(content)
    other.write_bytes(content)

    async def main(reactor: Reactor) -> None:
        with other.open("r+b") as model:
            async with open_file(path, "r+b") as file:
                for name, *arguments in calls:
                    expected = getattr(model, str(name))(*arguments)
                    model.flush()
                    assert await getattr(file, str(name))(*arguments) == expected
                    assert await file.tell() == model.tell()
        assert path.read_bytes() == other.read_bytes()

    Host("asyncio", backend).run(main)


def test_state_is_that_of_os(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    expected = path.stat()
    names = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
    names += ("st_blksize", "st_rdev", "st_mtime_ns", "st_ctime_ns")

    async def main(reactor: Reactor) -> None:
        async with open_file(path) as file:
            states = [await file.stat(), (await reactor.do("statx", path)).stat]
        for state in states:
            assert [getattr(state, name) for name in names] == [getattr(expected, name) for name in names]
        absent = await reactor.do("statx", tmp_path / "absent")
        assert absent.result == -errno.ENOENT

    host.run(main)


def test_direct_files_need_no_aligned_memory(on_asyncio: Host, tmp_path: Path) -> None:
    path, payload = tmp_path / "file", os.urandom(4096 * 40)

    async def main(reactor: Reactor) -> None:
        try:
            opened = await open_file(path, "w+b", direct=True)
        except OSError as error:
            pytest.skip(f"this file system has no O_DIRECT: {error}")
        async with opened as file:
            assert await file.write(payload) == len(payload)
            await file.seek(0)
            assert await file.read() == payload
            assert await file.pread(4096, 8192) == payload[8192:12288]
            memory = mmap.mmap(-1, 4096)
            assert await file.preadinto(memory, 4096) == 4096
            assert memory[:] == payload[4096:8192]

    on_asyncio.run(main)


def test_pipes_have_no_position(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "r+b") as file:
            await file.write(b"one\ntwo\n")
            assert await file.readline() == b"one\n"
            assert await file.readline() == b"two\n"
            assert not await file.seekable()
            with pytest.raises(OSError, match="Illegal seek"):
                await file.seek(0)
            with anyio.move_on_after(0.01) as scope:
                await file.read(10)
            assert scope.cancelled_caught
            await file.write(b"kept")
            assert await file.read(10) == b"kept"

    host.run(main)


def test_closed_file_refuses_calls(on_asyncio: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    async def main(reactor: Reactor) -> None:
        file = await open_file(path)
        await file.close()
        for call in (file.read, file.readline, file.tell, file.flush, file.fsync, file.readable):
            with pytest.raises(ClosedError, match="file"):
                await call()

    on_asyncio.run(main)


def test_reactor_closed_first_leaves_no_descriptor(on_asyncio: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    async def main(reactor: Reactor) -> None:
        file = await open_file(path)
        reactor.close()
        with pytest.raises(ClosedError):
            await file.read()
        await file.close()

    before = descriptors()
    on_asyncio.run(main)
    assert not descriptors() - before


def test_cancelled_opens_and_closes_leave_no_descriptor(on_asyncio: Host, tmp_path: Path) -> None:
    """Cancelled after any number of turns of the loop."""
    path = tmp_path / "file"
    path.write_bytes(b"x")

    async def use() -> None:
        async with open_file(path) as file:
            await file.read()

    async def main(reactor: Reactor) -> None:
        for turns in range(60):
            task = asyncio.ensure_future(use())
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await until(lambda: not reactor.in_flight)

    before = descriptors()
    on_asyncio.run(main)
    gc.collect()
    assert not descriptors() - before


def test_dropped_file_warns_and_closes(on_asyncio: Host, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")

    async def main(reactor: Reactor) -> None:
        file: File | None = await open_file(path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            file = None
            gc.collect()
        assert file is None
        assert "unclosed" in str(caught[0].message)

    before = descriptors()
    on_asyncio.run(main)
    assert not descriptors() - before
