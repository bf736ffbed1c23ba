"""Receiver indices are random, unique, found at once, and gone when removed. The oracle is a dict."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from core_internals import ffi, lib
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

NOBODY = lib.UDPRING_PEER_NONE


def new(table: Any, peer: int) -> int:
    index = ffi.new("uint32_t *")
    assert lib.udpring_index_new(table, peer, index) == 0
    return int(index[0])


@pytest.fixture
def table() -> Iterator[Any]:
    table = lib.udpring_index_open()
    assert table
    yield table
    lib.udpring_index_close(table)


def test_empty_table_finds_no_peer(table: Any) -> None:
    for index in (0, 1, 0xFFFFFFFF):
        assert lib.udpring_index_find(table, index) == NOBODY
        lib.udpring_index_remove(table, index)
    assert lib.udpring_index_count(table) == 0


def test_many_indices_come_and_go(table: Any) -> None:
    """Enough to double the table many times. All are removed in another order."""
    owners = {new(table, peer): peer for peer in range(20_000)}
    assert len(owners) == 20_000
    assert all(lib.udpring_index_find(table, index) == peer for index, peer in owners.items())
    order = list(owners)
    random.Random(20).shuffle(order)
    for position, index in enumerate(order):
        lib.udpring_index_remove(table, index)
        assert lib.udpring_index_find(table, index) == NOBODY
        probe = order[-1 - position // 2]
        if position < len(order) // 2:
            assert lib.udpring_index_find(table, probe) == owners[probe]
    assert lib.udpring_index_count(table) == 0


def test_indices_are_spread_over_all_32_bits(table: Any) -> None:
    """Each bit is set in about half of 4000 indices. 5 standard deviations are 158 off the middle."""
    indices = [new(table, 0) for _ in range(4000)]
    for bit in range(32):
        assert 1700 < sum(index >> bit & 1 for index in indices) < 2300, bit


class Indices(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.table = lib.udpring_index_open()
        self.model: dict[int, int] = {}
        self.gone: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "table"):
            lib.udpring_index_close(self.table)

    @rule(peer=st.integers(0, 5), count=st.integers(1, 40))
    def add(self, peer: int, count: int) -> None:
        for _ in range(count):
            index = new(self.table, peer)
            assert index not in self.model
            self.model[index] = peer
            self.gone.discard(index)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        victims = list(self.model)
        chosen = {data.draw(st.integers(0, len(victims) - 1)) for _ in range(len(victims) // 3 + 1)}
        for position in chosen:
            index = victims[position]
            del self.model[index]
            self.gone.add(index)
            lib.udpring_index_remove(self.table, index)

    @rule(index=st.integers(0, 2**32 - 1))
    def remove_unknown(self, index: int) -> None:
        if index not in self.model:
            lib.udpring_index_remove(self.table, index)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "table"):
            return
        assert lib.udpring_index_count(self.table) == len(self.model)
        assert all(lib.udpring_index_find(self.table, index) == peer for index, peer in self.model.items())
        assert all(lib.udpring_index_find(self.table, index) == NOBODY for index in self.gone)


TestIndices = Indices.TestCase
