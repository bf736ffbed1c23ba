"""The ELF file of the imported module has the protections that the build requests.

Sources: elf(5), System V ABI (program headers, dynamic section), gcc(1).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring import _native

PT_LOAD, PT_DYNAMIC, PT_GNU_STACK, PT_GNU_RELRO = 1, 2, 0x6474E551, 0x6474E552
PF_X, PF_W = 1, 2
DT_RPATH, DT_RUNPATH, DT_TEXTREL, DT_FLAGS, DT_BIND_NOW, DT_FLAGS_1 = 15, 29, 22, 30, 24, 0x6FFFFFFB
DF_TEXTREL, DF_BIND_NOW, DF_1_NOW = 4, 8, 1
SHT_DYNSYM = 11
ENDBR64 = bytes.fromhex("f30f1efa")


class Elf:
    """A shared object of this machine's word size and byte order."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        assert self.data[:6] == b"\x7fELF" + bytes([2, 1 if struct.pack("=H", 1)[0] else 2])
        self._programs, self._sections = struct.unpack_from("=QQ", self.data, 32)
        self._program_count, _, self._section_count = struct.unpack_from("=HHH", self.data, 56)

    def segments(self) -> list[tuple[int, int, int, int, int]]:
        """Type, flags, offset in the file, address, bytes in the file."""
        found = []
        for number in range(self._program_count):
            kind, flags, offset, address, _, size = struct.unpack_from(
                "=IIQQQQ", self.data, self._programs + 56 * number
            )
            found.append((kind, flags, offset, address, size))
        return found

    def dynamic(self) -> dict[int, int]:
        ((_, _, offset, _, size),) = [each for each in self.segments() if each[0] == PT_DYNAMIC]
        return dict(struct.iter_unpack("=qQ", self.data[offset : offset + size]))

    def symbols(self) -> Iterator[tuple[str, int]]:
        """Dynamic symbols and their addresses. 0: imported."""
        sections = [
            struct.unpack_from("=IIQQQQII", self.data, self._sections + 64 * number)
            for number in range(self._section_count)
        ]
        (table,) = [each for each in sections if each[1] == SHT_DYNSYM]
        names = sections[table[6]][4]
        for name, _, _, _, value, _ in struct.iter_unpack(
            "=IBBHQQ", self.data[table[4] : table[4] + table[5]]
        ):
            end = self.data.index(b"\0", names + name)
            yield self.data[names + name : end].decode(), value

    def at(self, address: int, size: int) -> bytes:
        for kind, _, offset, start, length in self.segments():
            if kind == PT_LOAD and start <= address < start + length:
                return self.data[offset + address - start :][:size]
        raise AssertionError(f"{address:#x} is in no segment")


@pytest.fixture(scope="module")
def core() -> Elf:
    elf = Elf(Path(_native._core.__file__))
    if any(name.startswith("__asan_") for name, _ in elf.symbols()):
        pytest.skip("a sanitised build has the sanitisers' checks instead")
    return elf


def test_no_memory_is_writable_and_executable(core: Elf) -> None:
    stack = [flags for kind, flags, *_ in core.segments() if kind == PT_GNU_STACK]
    assert stack
    assert not any(flags & PF_X for flags in stack)
    assert not any(flags & PF_W and flags & PF_X for kind, flags, *_ in core.segments() if kind == PT_LOAD)
    assert not core.dynamic().get(DT_FLAGS, 0) & DF_TEXTREL
    assert DT_TEXTREL not in core.dynamic()


def test_relocations_are_done_at_once_and_then_read_only(core: Elf) -> None:
    dynamic = core.dynamic()
    assert PT_GNU_RELRO in [kind for kind, *_ in core.segments()]
    assert (
        dynamic.get(DT_FLAGS, 0) & DF_BIND_NOW
        or dynamic.get(DT_FLAGS_1, 0) & DF_1_NOW
        or DT_BIND_NOW in dynamic
    )


def test_libraries_are_found_where_the_system_has_them(core: Elf) -> None:
    assert not {DT_RPATH, DT_RUNPATH} & set(core.dynamic())


def test_stack_and_lengths_are_checked(core: Elf) -> None:
    """-fstack-protector-strong, and the _chk functions of the C library, which know the size of a buffer."""
    wanted = {name for name, value in core.symbols() if not value}
    assert "__stack_chk_fail" in wanted
    assert [name for name in wanted if name.endswith("_chk")], sorted(wanted)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="-fcf-protection is of x86 alone")
def test_indirect_calls_land_where_they_may(core: Elf) -> None:
    start = dict(core.symbols())["PyInit__core"]
    assert core.at(start, 4) == ENDBR64


def test_locals_begin_as_zero(core: Elf) -> None:
    """GCC records its flags next to the debugging information."""
    if b"GNU C11" not in core.data:
        pytest.skip("built by another compiler than GCC, or without debugging information")
    assert b"-ftrivial-auto-var-init=zero" in core.data
    assert b"-fstack-protector-strong" in core.data
