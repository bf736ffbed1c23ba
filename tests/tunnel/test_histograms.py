"""Histograms of batches and trains: each size in its bucket, and the sums are those of the counters."""

from __future__ import annotations

from core_internals import ffi, lib
from hypothesis import given
from hypothesis import strategies as st
from packet_nodes import between, carry, pair, run, until

from udpring.tunnel.plane_values import Histogram

BUCKETS = 16


def bucket_of(size: int) -> int:
    """By the definition: the first whose bound holds it, the last one without a bound."""
    return next((bucket for bucket in range(BUCKETS - 1) if size <= 1 << bucket), BUCKETS - 1)


@given(st.lists(st.one_of(st.integers(1, 70), st.integers(1, 1 << 40)), max_size=50))
def test_each_size_is_in_its_bucket(sizes: list[int]) -> None:
    histogram = ffi.new("struct udpring_histogram *")
    expected = [0] * BUCKETS
    for size in sizes:
        lib.udpring_histogram_count(histogram, size)
        expected[bucket_of(size)] += 1
    assert list(histogram.buckets) == expected
    assert histogram.sum == sum(sizes)


def test_bounds_belong_to_the_smaller_bucket() -> None:
    histogram = ffi.new("struct udpring_histogram *")
    for size in (1, 2, 3, 4, 5, 8, 1 << 14, (1 << 14) + 1, 1 << 63):
        lib.udpring_histogram_count(histogram, size)
    assert list(histogram.buckets) == [1, 1, 2, 2, *[0] * 10, 1, 2]


def test_sums_are_those_of_the_counters() -> None:
    """Whatever the kernel makes of the traffic. Handshake messages come by sockets of their own."""

    async def body() -> None:
        made = [between(0, 1, bytes(1000)) for _ in range(2000)]
        async with pair() as (first, second):
            assert len(await carry(first, second, made)) == len(made)
            # The last passes may still be running.
            await until(lambda: first.stats.plane.histograms["send_batches"].sum >= len(made))
            await until(lambda: second.stats.plane.histograms["receive_batches"].sum >= len(made))
            for node in (first, second):
                now = node.stats.plane
                sizes = now.histograms
                assert sizes["send_batches"].sum == now.tx["packets"]
                assert sizes["receive_batches"].sum <= now.rx["packets"]
                assert 0 < sizes["send_batches"].count <= now.passes
                for trains, counted in (("send_trains", now.tx), ("receive_trains", now.rx)):
                    assert sizes[trains].count >= counted["trains"]
                    assert sizes[trains].buckets[0] == 0, "a train has two datagrams or more"
                    assert 2 * sizes[trains].count <= sizes[trains].sum <= counted["packets"]
            if first.stats.plane.tx["trains"]:
                assert first.stats.plane.histograms["send_trains"].count

    run(body)


def test_count_is_that_of_all_buckets() -> None:
    assert Histogram((1, 2, 3), 20).count == 6
