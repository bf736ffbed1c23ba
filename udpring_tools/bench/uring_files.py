"""Rows ``reads`` and ``files`` of ``bench uring``: random reads past the page cache, and many files in it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import itertools
import json
import mmap
import os
import random
import subprocess
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from udpring.errors import HostError, UdpringError
from udpring.uring import Flag, Reactor, Ring, open_file, read_files
from udpring_tools.bench.uring_row import Contender, Place, Row, Sample, package, program, timed

__all__ = ["files_row", "reads_row"]

BLOCK = 4096
DEPTH = 32
THREADS = 8
WANTED = 4
"""Completions that a turn waits for. Fewer cost more system calls, more leave the device idle."""
_PIECE = 4 << 20
_WAIT = 60.0
"""Seconds beyond its own that fio may take."""


# -- random reads --


def reads_row(place: Place) -> Row:
    """4 KiB random O_DIRECT reads of one file."""
    path = place.folder / "reads"
    size = place.sizes.file_bytes
    order = array("Q", range(0, size, BLOCK))
    random.Random(1).shuffle(order)
    offsets = itertools.cycle(order)

    def prepare() -> None:
        _fill(path, size)
        _require_direct(path)

    return Row(
        "reads",
        f"{BLOCK} B random O_DIRECT reads of one file of {size >> 20} MiB, {DEPTH} in flight",
        {"reads_s": "reads/s", "cpu_us_read": "CPU us per read"},
        {
            "udpring": Contender(lambda seconds: _ring_reads(path, offsets, seconds)),
            "fio io_uring": Contender(lambda seconds: _fio(path, size, seconds), program("fio")),
            "preadv loop": Contender(lambda seconds: _loop_reads(path, offsets, seconds)),
            "pool of 8 threads": Contender(lambda seconds: _pool_reads(path, offsets, seconds)),
            "8 threads in a loop": Contender(lambda seconds: _thread_reads(path, order, seconds)),
        },
        prepare,
    )


def _fill(path: Path, size: int) -> None:
    """Written to the device and dropped from the page cache."""
    piece = os.urandom(min(_PIECE, size))
    with path.open("wb") as file:
        for _ in range(0, size, len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _direct(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)


def _require_direct(path: Path) -> None:
    try:
        with _direct(path) as fd, mmap.mmap(-1, BLOCK) as block:
            os.preadv(fd, [block], 0)
    except OSError as refused:
        if refused.errno != errno.EINVAL:
            raise
        raise HostError(
            f"the file system of {path.parent.parent} has no O_DIRECT",
            cure="give a directory of another one to --directory",
        ) from None


def _reads(done: int, took: float, used: float) -> Sample:
    return {"reads_s": done / took, "cpu_us_read": used / done * 1e6}


def _short(got: int) -> UdpringError:
    return UdpringError(f"a read returned {got}, not {BLOCK}")


def _ring_reads(path: Path, offsets: Iterator[int], seconds: float) -> Sample:
    """A registered file and a registered buffer. A ticket says which part of the buffer a read fills."""
    with _direct(path) as fd, Ring(2 * DEPTH) as ring:
        ring.register_files([fd])
        ring.register_buffers([mmap.mmap(-1, DEPTH * BLOCK)])
        places, starts = array("Q", bytes(8 * DEPTH)), array("Q", bytes(8 * DEPTH))
        batch = ring.prepare(
            "read_fixed", 0, offsets=places, lengths=BLOCK, starts=starts, flags=Flag.FIXED_FILE
        )
        done = ring.columns(DEPTH)
        queued, ended, results = batch.tickets, done.tickets, done.results
        free = list(range(0, DEPTH * BLOCK, BLOCK))
        part: dict[int, int] = {}

        def work() -> int:
            count = len(free)
            for i in range(count):
                starts[i] = free[i]
                places[i] = next(offsets)
            batch.queue(count)
            for i in range(count):
                part[queued[i]] = free[i]
            free.clear()
            count = done.turn(WANTED)
            for i in range(count):
                if results[i] != BLOCK:
                    raise _short(results[i])
                free.append(part.pop(ended[i]))
            return count

        sample = _reads(*timed(work, seconds))
        done.turn(len(part))
    return sample


def _loop_reads(path: Path, offsets: Iterator[int], seconds: float) -> Sample:
    with _direct(path) as fd, mmap.mmap(-1, BLOCK) as block:
        buffers = [block]

        def work() -> int:
            for _ in range(DEPTH):
                got = os.preadv(fd, buffers, next(offsets))
                if got != BLOCK:
                    raise _short(got)
            return DEPTH

        return _reads(*timed(work, seconds))


def _pool_reads(path: Path, offsets: Iterator[int], seconds: float) -> Sample:
    """A job of an executor for each read, as programs for asyncio do it. ``DEPTH`` jobs are on their way."""
    own = threading.local()

    def begin() -> None:
        own.buffers = [mmap.mmap(-1, BLOCK)]

    with _direct(path) as fd, ThreadPoolExecutor(THREADS, initializer=begin) as pool:

        def read(offset: int) -> int:
            return os.preadv(fd, own.buffers, offset)

        def work() -> int:
            for got in pool.map(read, itertools.islice(offsets, 8 * DEPTH)):
                if got != BLOCK:
                    raise _short(got)
            return 8 * DEPTH

        return _reads(*timed(work, seconds))


def _thread_reads(path: Path, order: array[int], seconds: float) -> Sample:
    """Threads without an executor, each on its own part of the file: the least that threads cost."""
    counts = [0] * THREADS
    stop = threading.Event()

    def loop(number: int, fd: int) -> None:
        with mmap.mmap(-1, BLOCK) as block:
            buffers = [block]
            for offset in itertools.cycle(order[number::THREADS]):
                if stop.is_set() or os.preadv(fd, buffers, offset) != BLOCK:
                    return
                counts[number] += 1

    with _direct(path) as fd:
        threads = [threading.Thread(target=loop, args=(number, fd)) for number in range(THREADS)]
        used, began = time.process_time(), time.perf_counter()
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        took, used, done = time.perf_counter() - began, time.process_time() - used, sum(counts)
        ended = [thread for thread in threads if not thread.is_alive()]
        stop.set()
        for thread in threads:
            thread.join()
    if ended:
        raise UdpringError("a thread could not read the file")
    return _reads(done, took, used)


def _fio(path: Path, size: int, seconds: float) -> Sample:
    """fio with a registered file and registered buffers, too."""
    command = [
        "fio", "--name=reads", f"--filename={path}", f"--size={size}", "--readonly", "--rw=randread",
        f"--bs={BLOCK}", "--ioengine=io_uring", f"--iodepth={DEPTH}", "--direct=1", "--fixedbufs=1",
        "--registerfiles=1", "--time_based", f"--runtime={round(seconds * 1000)}ms", "--output-format=json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _WAIT, check=False)
    if done.returncode:
        raise UdpringError(f"fio failed: {done.stderr.strip() or done.stdout.strip()}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    read = job["read"]
    used = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    return _reads(read["total_ios"], read["runtime"] / 1000, used)


# -- many files --


def files_row(place: Place) -> Row:
    """Whole files, from the page cache."""
    sizes = place.sizes
    paths = [place.folder / f"files/{number}" for number in range(sizes.files)]

    def prepare() -> None:
        (place.folder / "files").mkdir()
        piece = os.urandom(sizes.bytes_each)
        for path in paths:
            path.write_bytes(piece)
        os.sync()

    def contender(work: Callable[[list[Path], int], Any], needs: tuple[str, ...] = ()) -> Contender:
        return Contender(lambda seconds: _files(work, paths, sizes.bytes_each, seconds), needs)

    return Row(
        "files",
        f"{sizes.files} files of {sizes.bytes_each >> 10} KiB, buffered, whole",
        {"files_s": "files/s", "files_cpu_s": "files per CPU-s"},
        {
            "udpring read_files": contender(_read_files),
            "udpring open_file": contender(_open_files),
            "open().read()": contender(_plain_files),
            "aiofiles": contender(_aiofiles, package("aiofiles")),
        },
        prepare,
    )


def _files(work: Callable[[list[Path], int], Any], paths: list[Path], length: int, seconds: float) -> Sample:
    """``work`` reads all files once, or returns a coroutine that does, within a reactor."""

    async def within() -> None:
        with reactor.as_current():
            await work(paths, length)

    def once() -> int:
        if asyncio.iscoroutinefunction(work):
            runner.run(within())
        else:
            work(paths, length)
        return len(paths)

    async def opened() -> Reactor:
        return Reactor().open()

    with asyncio.Runner() as runner:
        reactor = runner.run(opened())
        try:
            done, took, used = timed(once, seconds)
        finally:
            reactor.close()
    return {"files_s": done / took, "files_cpu_s": done / used}


def _checked(got: int, length: int) -> None:
    if got != length:
        raise UdpringError(f"a file of {length} bytes was read as {got}")


async def _read_files(paths: list[Path], length: int) -> None:
    async for _path, data in read_files(paths, size=length):
        _checked(len(data), length)


async def _open_files(paths: list[Path], length: int) -> None:
    """One file after the other."""
    for path in paths:
        async with open_file(path) as file:
            _checked(len(await file.read()), length)


def _plain_files(paths: list[Path], length: int) -> None:
    for path in paths:
        with path.open("rb") as file:
            _checked(len(file.read()), length)


async def _aiofiles(paths: list[Path], length: int) -> None:
    aiofiles = importlib.import_module("aiofiles")
    for path in paths:
        async with aiofiles.open(path, "rb") as file:
            _checked(len(await file.read()), length)
