"""A tunnel's decrypted packets lie in its own buffers. A forked child does not get them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_plane import TIERS, WIREGUARD, Bench, pytestmark, udp_packet

__all__ = ["pytestmark"]


@pytest.fixture(params=TIERS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(TIERS[request.param], 1, WIREGUARD)
    yield made
    made.close()


def buffers() -> list[tuple[int, int]]:
    """Packet buffers, as (start, end): the mappings without huge pages (VmFlags nh)."""
    found = []
    with Path("/proc/self/smaps").open() as mappings:
        for line in mappings:
            first, *flags = line.split()
            if "-" in first:
                start, end = (int(word, 16) for word in first.split("-"))
            elif first == "VmFlags:" and "nh" in flags:
                found.append((start, end))
    return found


def holding(text: bytes, mappings: list[tuple[int, int]]) -> list[tuple[int, int]]:
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        return [each for each in mappings if text in os.pread(memory.fileno(), each[1] - each[0], each[0])]


def test_forked_child_has_no_plaintext(bench: Bench) -> None:
    bench.key()
    text = secrets.token_bytes(64)
    bench.send(bench.seal(udp_packet(text)))
    assert bench.app.recv(2000) == text
    held = holding(text, buffers())
    assert held
    child = os.fork()
    if not child:
        os._exit(bool(holding(text, held)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bench.send(bench.seal(udp_packet(b"the parent goes on")))
    assert bench.app.recv(2000) == b"the parent goes on"
