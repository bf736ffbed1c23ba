"""The search for the largest packet, and series of echoes over a real socket on loopback."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.errors import HostError
from udpring.tunnel import icmp_echo
from udpring.tunnel.icmp_echo import EchoSocket, EchoTarget, smallest
from udpring.tunnel.path_probe import TRIES, EchoProber, Loss, largest_answered, sizes_to_try

HOSTS = ["127.0.0.1", "::1"]


class Path:
    """Takes packets up to a size, and loses each n-th of them."""

    def __init__(self, most: int, loses_each: int = 0) -> None:
        self.most = most
        self.asked: list[int] = []
        self._numbers = itertools.count(1)
        self._loses = loses_each

    def series(self, size: int, count: int, pace: float = 0, *, enough: int = 0) -> Loss:
        self.asked.append(size)
        lost = self._loses and next(self._numbers) % self._loses == 0
        received = count if size <= self.most and not lost else 0
        return Loss(size, count, received, 0.001 if received else None)


@given(st.integers(36, 9000), st.integers(1, 9000), st.integers(0, 9500), st.sampled_from([0, 3, 4, 7]))
def test_largest_packet_is_found(low: int, more: int, most: int, loses_each: int) -> None:
    path = Path(most, loses_each)
    high = low + more
    assert largest_answered(path, low, high) == (0 if most < low else min(most, high))
    assert len(path.asked) <= TRIES * 17
    assert all(low <= size <= high for size in path.asked)


def test_lost_packet_is_tried_again_only_so_often() -> None:
    path = Path(0)
    assert largest_answered(path, 36, 1500) == 0
    assert path.asked == [36] * TRIES


@pytest.mark.parametrize(("smallest_", "largest"), [(36, 36), (56, 1280), (36, 1420), (56, 65535)])
def test_sizes_are_within_the_path(smallest_: int, largest: int) -> None:
    sizes = sizes_to_try(smallest_, largest)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == largest
    assert all(smallest_ <= size <= largest for size in sizes)


@pytest.fixture(params=HOSTS)
def echo(request: pytest.FixtureRequest) -> Iterator[EchoSocket]:
    try:
        opened = EchoSocket(EchoTarget(ipaddress.ip_address(request.param)))
    except HostError as refused:
        pytest.skip(f"no raw sockets here: {refused}")
    with opened:
        yield opened


def test_echoes_of_all_sizes_are_answered(echo: EchoSocket) -> None:
    prober = EchoProber(echo, 30)
    low = smallest(echo.target.address)
    for size in (low, low + 1, 1280, 1501, 20000):
        loss = prober.series(size, 3, enough=3)
        assert (loss.size, loss.sent, loss.lost) == (size, 3, 0)
        assert loss.seconds is not None
        assert loss.seconds > 0
    assert str(echo.source) == str(echo.target.address)


def test_packet_that_the_link_refuses_is_lost(echo: EchoSocket) -> None:
    low, most = smallest(echo.target.address), echo.route_mtu()
    too_big = EchoProber(echo, 1).series(most + 1, 2)
    assert (too_big.received, too_big.seconds) == (0, None)
    assert EchoProber(echo, 30).series(low, 1, enough=1).received == 1, "an error before does no harm"


def test_answers_of_others_are_not_taken(echo: EchoSocket) -> None:
    """Each raw socket gets all echoes of the host."""
    with EchoSocket(echo.target) as other:
        size = smallest(echo.target.address)
        mine = EchoProber(echo, 30)
        other.send(size)
        other.send(size)
        assert mine.series(size, 1, enough=1).received == 1
        assert not echo.answers()
        other.forget()
        assert not other.answers()


def test_rights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(icmp_echo.socket, "socket", refuse)
    with pytest.raises(HostError, match="run this as root"):
        EchoSocket(EchoTarget(ipaddress.ip_address("127.0.0.1")))
