"""Many whole files, read ahead."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from udpring.errors import ClosedError
from udpring.uring import Reactor, read_files

from .reactors import Host, descriptors

LENGTHS = [0, 1, 4095, 4096, 4097, 5000, 8192, 8193, 300_000]


def made(folder: Path, lengths: list[int]) -> dict[Path, bytes]:
    contents = {folder / f"{number}": os.urandom(length) for number, length in enumerate(lengths)}
    for path, content in contents.items():
        path.write_bytes(content)
    return contents


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_files_come_whole_in_their_order(host: Host, tmp_path: Path, ahead: int) -> None:
    """Also empty ones, and ones that do not fit into the memory."""
    contents = made(tmp_path, LENGTHS * 5)

    async def main(reactor: Reactor) -> None:
        found = []
        async for path, data in read_files(contents, size=8192, ahead=ahead):
            assert data.readonly
            found.append(path)
            assert data == contents[Path(os.fsdecode(path))]
        assert found == list(contents)

    before = descriptors()
    host.run(main)
    gc.collect()
    assert not descriptors() - before


def test_no_files_at_all(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        assert [each async for each in read_files([])] == []

    on_asyncio.run(main)


def test_paths_may_come_one_by_one(on_asyncio: Host, tmp_path: Path) -> None:
    """At most ``ahead`` of them are taken before they are needed."""
    contents = made(tmp_path, [10] * 9)
    taken = 0

    async def main(reactor: Reactor) -> None:
        nonlocal taken

        def paths():  # type: ignore[no-untyped-def]
            nonlocal taken
            for path in contents:
                taken += 1
                yield str(path).encode()

        seen = 0
        async for path, data in read_files(paths(), ahead=3):
            assert seen < taken <= seen + 3
            assert data == contents[Path(os.fsdecode(path))]
            seen += 1
        assert seen == 9

    on_asyncio.run(main)


def test_files_without_length_are_read(on_asyncio: Host) -> None:
    async def main(reactor: Reactor) -> None:
        async for _path, data in read_files(["/proc/self/status", "/proc/self/status"]):
            assert b"\nVmRSS:" in bytes(data)

    on_asyncio.run(main)


@pytest.mark.parametrize(("kind", "error"), [("absent", FileNotFoundError), ("folder", IsADirectoryError)])
def test_file_that_cannot_be_read_is_named(
    on_asyncio: Host, tmp_path: Path, kind: str, error: type[OSError]
) -> None:
    """The files before it come."""
    contents = made(tmp_path, [100, 200, 300])
    (tmp_path / "folder").mkdir()
    paths = list(contents)
    paths.insert(2, tmp_path / kind)

    async def main(reactor: Reactor) -> None:
        files = read_files(paths)
        assert [(await anext(files))[0] for _ in range(2)] == paths[:2]
        with pytest.raises(error, match=kind):
            await anext(files)
        assert [each async for each in files] == []

    before = descriptors()
    on_asyncio.run(main)
    assert not descriptors() - before


def test_slow_file_lets_other_tasks_run(host: Host, tmp_path: Path) -> None:
    """A FIFO opens when its writer comes."""
    contents = made(tmp_path, [10, 20])
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main(reactor: Reactor) -> None:
        ran = anyio.Event()

        async def other() -> None:
            await anyio.lowlevel.checkpoint()
            ran.set()
            await anyio.to_thread.run_sync(fifo.write_bytes, b"late")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            found = [bytes(data) async for _, data in read_files([*contents, fifo])]
            assert ran.is_set()
        assert found == [*contents.values(), b"late"]

    host.run(main)


def test_cancelled_and_left_loops_leave_nothing(host: Host, tmp_path: Path) -> None:
    contents = made(tmp_path, [10_000] * 6)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main(reactor: Reactor) -> None:
        async with contextlib.aclosing(read_files(contents, ahead=3)) as files:
            async for _ in files:
                break
        with anyio.move_on_after(0.05) as scope:
            async with contextlib.aclosing(read_files([*contents, fifo], ahead=3)) as files:
                async for _ in files:
                    pass
        assert scope.cancelled_caught

    def release() -> None:
        """A thread of the fallback waits in open(2) until a writer comes."""
        fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        released.wait(20)
        os.close(fd)

    before, released = descriptors(), threading.Event()
    if host.backend == "readiness":
        timer = threading.Timer(0.2, release)
        timer.start()
    host.run(main)
    released.set()
    if host.backend == "readiness":
        timer.join()
    assert not descriptors() - before


def test_impossible_numbers_and_closed_reactors_are_refused(on_asyncio: Host, tmp_path: Path) -> None:
    async def main(reactor: Reactor) -> None:
        for options in ({"size": 0}, {"ahead": 0}, {"ahead": 1025}):
            with pytest.raises(ValueError, match="files ahead"):
                await anext(read_files([tmp_path], **options))
        reactor.close()
        with pytest.raises(ClosedError):
            await anext(read_files([tmp_path]))

    on_asyncio.run(main)
