"""The core's memory for keys: core dumps leave it out (the flag dd of proc(5)), and it comes back zeroed."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from seccomp import run_python

from udpring._native import ffi, lib
from udpring.tunnel.plane import Plane

pytestmark = pytest.mark.skipif(
    "libasan" in Path("/proc/self/maps").read_text(), reason="the sanitizer hands the memory out"
)


@contextmanager
def plane() -> Iterator[Any]:
    """With the cookie secrets."""
    with closing(Plane("secrets", queues=(1 << 20, 1 << 22), workers=1)) as made:
        yield made.handle()


@contextmanager
def handshake() -> Iterator[Any]:
    made = lib.udpring_handshake_new(0)
    yield made
    lib.udpring_handshake_free(made)


@contextmanager
def computation() -> Iterator[Any]:
    """A step of a handshake, with ephemeral, preshared and session keys."""
    made = lib.udpring_computation_new()
    yield made
    lib.udpring_computation_free(made)


def flags_of(address: int) -> list[str]:
    pattern = r"^([0-9a-f]+)-([0-9a-f]+) (?:.*\n)(?:[A-Z].*\n)*?VmFlags:(.*)$"
    for begin, end, flags in re.findall(pattern, Path("/proc/self/smaps").read_text(), re.MULTILINE):
        if int(begin, 16) <= address < int(end, 16):
            return str(flags).split()
    raise LookupError(hex(address))


@pytest.mark.parametrize("owner", [plane, handshake, computation])
def test_core_dumps_leave_keys_out(owner: Callable[[], Any]) -> None:
    with owner() as made:
        assert "dd" in flags_of(int(ffi.cast("uintptr_t", made)))
    assert "dd" not in flags_of(id(owner)), "the test sees the flag"


def test_memory_of_keys_comes_back_zeroed() -> None:
    """From many threads, each piece is one thread's."""
    size = ffi.sizeof("struct udpring_computation")
    failures: list[str] = []

    def work(mark: int) -> None:
        for _ in range(300):
            made = [lib.udpring_computation_new() for _ in range(8)]
            for each in made:
                if any(bytes(ffi.buffer(each))):
                    failures.append("not zero")
                ffi.buffer(each)[:] = bytes([mark]) * size
            for each in made:
                if bytes(ffi.buffer(each)) != bytes([mark]) * size:
                    failures.append("shared")
                lib.udpring_computation_free(each)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_all_memory_can_be_left_out() -> None:
    """What there is, and Python's objects and keys of OpenSSL that come later."""
    done = run_python(
        """
import re
from udpring._native import ffi, lib
from udpring.tunnel.memory_hiding import hide_memory
from udpring.tunnel.native_noise import NativeStaticKey
hide_memory()
objects = [bytes([number % 256]) * 400 for number in range(40000)]
keys = [NativeStaticKey(bytes([number]) * 32) for number in range(1, 250)]
with open("/proc/self/smaps") as file:
    text = file.read()
pattern = r"^([0-9a-f]+)-([0-9a-f]+) rw.p (.*)\\n(?:[A-Z].*\\n)*?VmFlags:(.*)$"
left = [(int(b, 16), int(e, 16)) for b, e, _, f in re.findall(pattern, text, re.M) if "dd" not in f.split()]
print(sum(b <= id(each) < e for b, e in left for each in objects))
"""
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
