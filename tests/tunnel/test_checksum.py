"""The Internet checksum against RFC 1071 and plain Python: any length, alignment, content and split."""

from __future__ import annotations

import random

import pytest
from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st
from offload_model import checksum


def core(data: bytes, *, first: int = 0, offset: int = 0) -> int:
    """The core's checksum of ``data``, ``offset`` bytes past an aligned address, ending where its memory
    ends."""
    memory = ffi.new("uint8_t[]", offset + len(data) or 1)
    ffi.memmove(memory + offset, data, len(data))
    return int(lib.udpring_checksum(memory + offset, len(data), first))


def test_the_example_of_rfc_1071() -> None:
    assert core(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


def test_a_published_ipv4_header() -> None:
    header = bytes.fromhex("4500003c1c4640004006b1e6ac100a63ac100a0c")
    assert core(header) == 0
    assert core(header[:10] + b"\0\0" + header[12:]) == 0xB1E6


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xFFFF),
        (b"\0\0", 0xFFFF),
        (b"\xff\xff", 0),
        (b"\xff", 0x00FF),
        (b"\xff" * 65535, 0x00FF),
        (b"\xff" * 65534, 0),
        (b"\xff\xfe\0\1", 0),
        (b"\0\1" * 32767, ~32767 & 0xFFFF),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else hex(value),
)
def test_carries_and_edges(data: bytes, expected: int) -> None:
    assert checksum(data) == expected
    assert core(data) == expected


@pytest.mark.parametrize("offset", range(8))
def test_every_length_up_to_300_at_every_alignment(offset: int) -> None:
    data = random.Random(offset).randbytes(300)
    for length in range(301):
        assert core(data[:length], offset=offset) == checksum(data[:length])


@given(
    size=st.integers(0, 65535),
    seed=st.integers(0, 2**32),
    fill=st.sampled_from([None, 0x00, 0xFF]),
    where=st.floats(0, 1),
    offset=st.integers(0, 63),
)
def test_agrees_with_the_model_however_it_is_split(
    size: int, seed: int, fill: int | None, where: float, offset: int
) -> None:
    data = random.Random(seed).randbytes(size) if fill is None else bytes([fill]) * size
    first = int(where * size) & ~1
    assert core(data, first=first, offset=offset) == checksum(data)
