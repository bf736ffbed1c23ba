"""Timestamps: TAI64N, masked, and always later than the last one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from udpring.wireguard.constants import MILLISECOND, SECOND, TIMESTAMP_MASK
from udpring.wireguard.tai64n import next_timestamp


def test_the_epoch_and_the_byte_order() -> None:
    assert next_timestamp(0, None) == bytes.fromhex("400000000000000a00000000")
    assert next_timestamp(0x01020304 * SECOND + 0x05000000, None) == bytes.fromhex("400000000102030e05000000")
    assert next_timestamp(-SECOND, None) == bytes.fromhex("400000000000000a00000000")


def test_nanoseconds_are_masked() -> None:
    base = 1_700_000_000 * SECOND
    assert next_timestamp(base + 16 * MILLISECOND, None) == next_timestamp(base, None)
    assert next_timestamp(base + 17 * MILLISECOND, None) > next_timestamp(base, None)


def test_two_within_a_step_still_increase() -> None:
    first = next_timestamp(SECOND, None)
    second = next_timestamp(SECOND, first)
    third = next_timestamp(SECOND + 1, second)
    assert first < second < third


def test_a_step_carries_into_the_seconds() -> None:
    last = next_timestamp(2 * SECOND - 1, None)
    following = next_timestamp(2 * SECOND - 1, last)
    assert following == next_timestamp(2 * SECOND, None)


@given(st.lists(st.integers(0, 2**62), min_size=2, max_size=30))
def test_always_later_whatever_the_clock_does(walls: list[int]) -> None:
    last = None
    for wall in walls:
        stamp = next_timestamp(wall, last)
        assert len(stamp) == 12
        assert last is None or stamp > last
        nanoseconds = int.from_bytes(stamp[8:], "big")
        assert nanoseconds & TIMESTAMP_MASK == 0
        assert nanoseconds < SECOND
        last = stamp
