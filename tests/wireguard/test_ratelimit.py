"""20 a second and 5 at once per source, an IPv6 source by its /64, in a table of fixed size."""

from __future__ import annotations

from udpring.wireguard.constants import MILLISECOND, RATE_TABLE_SIZE, SECOND
from udpring.wireguard.ratelimit import RateLimiter


def v4(number: int) -> bytes:
    return number.to_bytes(4, "big")


def test_burst_then_rate() -> None:
    limiter = RateLimiter()
    assert [limiter.allow(v4(1), 0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not limiter.allow(v4(1), 49 * MILLISECOND)
    assert limiter.allow(v4(1), 50 * MILLISECOND)
    assert not limiter.allow(v4(1), 51 * MILLISECOND)
    assert limiter.allow(v4(2), 51 * MILLISECOND)


def test_twenty_a_second_for_ever() -> None:
    limiter = RateLimiter()
    allowed = sum(limiter.allow(v4(1), at * MILLISECOND) for at in range(10_000))
    assert 200 <= allowed <= 205


def test_refusals_do_not_cost() -> None:
    limiter = RateLimiter()
    for _ in range(5):
        limiter.allow(v4(1), 0)
    for at in range(1, 50):
        assert not limiter.allow(v4(1), at * MILLISECOND)
    assert limiter.allow(v4(1), 50 * MILLISECOND)


def test_ipv6_counts_by_64() -> None:
    limiter = RateLimiter()
    network = bytes.fromhex("20010db800000001")
    assert all(limiter.allow(network + bytes(7) + bytes((host,)), 0) for host in range(5))
    assert not limiter.allow(network + bytes.fromhex("ffffffffffffffff"), 0)
    assert limiter.allow(bytes.fromhex("20010db800000002") + bytes(8), 0)


def test_a_mapped_address_is_its_ipv4_address() -> None:
    limiter = RateLimiter()
    mapped = bytes(10) + b"\xff\xff"
    assert all(limiter.allow(mapped + v4(1), 0) for _ in range(5))
    assert not limiter.allow(v4(1), 0)
    assert limiter.allow(mapped + v4(2), 0)


def test_the_table_is_bounded_and_forgets() -> None:
    limiter = RateLimiter(size=100)
    assert [limiter.allow(v4(n), 0) for n in range(101)] == [True] * 100 + [False]
    assert len(limiter) == 100
    assert limiter.allow(v4(5), 0)  # a known source is still served
    assert not limiter.allow(v4(200), 249 * MILLISECOND)
    # the longest idle source has a full bucket again and is forgotten
    assert limiter.allow(v4(201), 250 * MILLISECOND)
    for n in range(1000):
        assert limiter.allow(v4(1000 + n), SECOND + n * SECOND)
    assert len(limiter) <= 100
    assert RATE_TABLE_SIZE >= 4096


def test_stalled_clock_grants_no_tokens() -> None:
    """A clock that was set back grants none either."""
    limiter = RateLimiter()
    for _ in range(5):
        limiter.allow(v4(1), SECOND)
    assert not limiter.allow(v4(1), 0)
    assert not limiter.allow(v4(1), 0)
