"""Registered buffers in memory of the caller: who holds it, and for how long."""

from __future__ import annotations

import array
import errno
import gc
import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring import RingError
from udpring._native import lib
from udpring.uring import Ring, buffer_group, registered


class Memory(bytearray):
    """A bytearray whose death shows."""


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring(8) as ring:
        yield ring
        assert (ring.info.stale, ring.info.lost) == (0, 0)


def results(ring: Ring, *tickets: int) -> list[int]:
    done = {each.ticket: each.result for _ in tickets for each in ring.reap(1, 30)}
    return [done[ticket] for ticket in tickets]


def test_reads_and_writes_in_memory_of_the_caller(ring: Ring, tmp_path: Path) -> None:
    mapped, words = mmap.mmap(-1, 4096), array.array("I", [0] * 4)
    views = ring.register_buffers([mapped, 64, words])
    assert [len(view) for view in views] == [4096, 64, 16]
    path = tmp_path / "file"
    path.write_bytes(b"0123456789abcdef")
    with path.open("r+b") as file:
        assert results(ring, ring.read_fixed(file, 0, 10, start=100, offset=0)) == [10]
        assert mapped[100:110] == b"0123456789"
        assert results(ring, ring.read_fixed(file, 2, 16, offset=0)) == [16]
        assert words.tobytes() == b"0123456789abcdef"
        mapped[:3] = b"xyz"
        assert results(ring, ring.write_fixed(file, 0, 3, offset=0)) == [3]
    assert path.read_bytes()[:5] == b"xyz34"
    with pytest.raises(RingError, match="16") as caught:
        ring.read_fixed(0, 2, 17)
    assert caught.value.errno == errno.ERANGE


def test_unfit_memory_is_refused(ring: Ring) -> None:
    with pytest.raises((TypeError, BufferError)):
        ring.register_buffers([b"read only"])
    with pytest.raises((TypeError, BufferError)):
        ring.register_buffers([memoryview(bytearray(10))[::2]])
    with pytest.raises(ValueError, match="empty"):
        ring.register_buffers([bytearray()])
    with pytest.raises(RingError) as caught:
        ring.register_buffers(0)
    assert caught.value.errno == errno.EINVAL
    assert results(ring, ring.nop()) == [0]


def test_held_memory_cannot_be_resized(ring: Ring) -> None:
    """A bytearray that grows would move. Python refuses while the ring holds it."""
    memory = bytearray(100)
    del ring.register_buffers([memory])[:]
    with pytest.raises(BufferError):
        memory.extend(bytes(10**6))
    ring.unregister_buffers()
    memory.extend(bytes(10))


def test_memory_lives_until_its_operations_end(ring: Ring, pipe: tuple[int, int]) -> None:
    """The table is gone, and a read into its memory still waits."""
    memory = Memory(100)
    watch = weakref.ref(memory)
    ring.register_buffers([memory])
    del memory
    ticket = ring.read_fixed(pipe[0], 0, 5)
    ring.submit()
    ring.unregister_buffers()
    later = Memory(50)
    later_watch = weakref.ref(later)
    ring.register_buffers([later])
    del later
    gc.collect()
    filler = [bytearray(100) for _ in range(1000)]  # would take the memory, were it free
    os.write(pipe[1], b"hello")
    ring.wait(1, 30)
    assert not any(b"h" in each for each in filler)
    assert watch() is not None
    assert bytes(watch() or b"")[:5] == b"hello"
    assert results(ring, ticket) == [5]
    ring.completions()  # settles the operation
    gc.collect()
    assert watch() is None
    assert later_watch() is not None
    ring.unregister_buffers()
    gc.collect()
    assert later_watch() is None


def test_columns_let_retired_memory_go(ring: Ring, pipe: tuple[int, int]) -> None:
    memory = Memory(100)
    watch = weakref.ref(memory)
    ring.register_buffers([memory])
    del memory
    ring.read_fixed(pipe[0], 0, 5)
    ring.submit()
    ring.unregister_buffers()
    os.write(pipe[1], b"hello")
    ring.wait(1, 30)
    assert watch() is not None
    assert ring.completions_into(*(array.array(kind, [0, 0]) for kind in "QiI")) == 1
    gc.collect()
    assert watch() is None


def test_places_are_filled_and_emptied(ring: Ring, pipe: tuple[int, int]) -> None:
    assert ring.register_buffers(4) == []
    with pytest.raises(RingError, match="registered buffer 0"):
        ring.read_fixed(pipe[0], 0, 1)
    memory = Memory(10)
    watch = weakref.ref(memory)
    views = ring.update_buffers(1, [memory, 20, None])
    assert [view and len(view) for view in views] == [10, 20, None]
    os.write(pipe[1], b"12")
    assert results(ring, ring.read_fixed(pipe[0], 1, 1)) == [1]
    assert memory[:1] == b"1"
    assert results(ring, ring.read_fixed(pipe[0], 2, 1)) == [1]
    assert bytes((views[1] or b"")[:1]) == b"2"
    del memory
    views.clear()
    ring.completions()
    ring.update_buffers(1, [None])
    gc.collect()
    assert watch() is None
    with pytest.raises(RingError, match="which has 0"):
        ring.read_fixed(pipe[0], 1, 1)
    with pytest.raises(RingError) as caught:
        ring.update_buffers(3, [8, 8])
    assert caught.value.errno == errno.ERANGE
    ring.unregister_buffers()
    with pytest.raises(RingError) as caught:
        ring.update_buffers(0, [8])
    assert caught.value.errno == errno.ENXIO


def test_close_lets_the_memory_go(pipe: tuple[int, int]) -> None:
    memory = Memory(100)
    watch = weakref.ref(memory)
    with Ring(8) as ring:
        ring.register_buffers([memory])
        del memory
        ring.read_fixed(pipe[0], 0, 5)
        ring.submit()
        ring.unregister_buffers()
    gc.collect()
    assert ring.leaked == 0
    assert watch() is None


class Interrupted:
    """The library, interrupted by Ctrl-C right after a call has succeeded."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        found = getattr(lib, name)
        if name != self._name:
            return found

        def interrupted(*arguments: object) -> None:
            assert found(*arguments) >= 0
            raise KeyboardInterrupt

        return interrupted


@pytest.mark.parametrize("name", ["udpring_ring_provide", "udpring_ring_buffers"])
def test_interrupted_registration_holds_its_memory(
    ring: Ring, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has it already, so it must outlive the exception."""
    calls = {
        "udpring_ring_provide": lambda: ring.provide_buffers(1, 4, 4096, views=True),
        "udpring_ring_buffers": lambda: ring.register_buffers([4096]),
    }
    call = calls[name]
    for module in (buffer_group, registered):
        monkeypatch.setattr(module, "lib", Interrupted(name))
    with pytest.raises(KeyboardInterrupt):
        call()
    assert len(ring._pins) == 1
