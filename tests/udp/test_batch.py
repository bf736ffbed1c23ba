"""A batch as a sequence and as columns, with split and whole trains. Plain sockets are the oracle."""

from __future__ import annotations

import array
import os
import random
import socket
import struct
import time
import typing
from collections.abc import Callable

import pytest

from udpring._native import ffi
from udpring.errors import ClosedError
from udpring.udp import Address, AddressList, Batch, BatchSlice, Packet, RecvRing
from udpring.udp.origin import SocketOrigin
from udpring.udp.packet import RECORD

from .conftest import BOUND, Pair, cut, send_train, take

TRAINS = [(10300, 1000), (2000, 1000), (1001, 1000), (64000, 1000), (128, 2), (65000, 1300), (60001, 60000)]


def gather(ring: RecvRing, count: int, max_packets: int = 256) -> list[Batch]:
    """Batches with ``count`` datagrams in all, or fewer when the time is up."""
    batches: list[Batch] = []
    give_up = time.monotonic() + BOUND
    while sum(map(len, batches)) < count and time.monotonic() < give_up:
        batches.append(ring.recv_batch(max_packets, timeout=BOUND))
    return batches


@pytest.mark.parametrize(("length", "size"), TRAINS)
def test_a_train_is_split_into_its_datagrams(tier: str, pair: Pair, length: int, size: int) -> None:
    payload = os.urandom(length)
    expected = [*cut(payload, size), b"single"]
    with RecvRing(pair.sink, tier=tier) as ring:
        assert ring.gro
        send_train(pair.source, pair.to, payload, size)
        pair.source.sendto(b"single", pair.to)
        packets = take(ring, len(expected))
        assert [bytes(packet) for packet in packets] == expected
        assert {packet.segment_size for packet in packets} == {0}
        assert {packet.address for packet in packets} == {pair.seen_source}
        assert {packet.local for packet in packets} == {pair.local}
        assert not any(packet.truncated for packet in packets)
        stats = ring.stats
        assert (stats["trains"], stats["packets"], stats["bytes"]) == (1, len(expected), length + 6)


@pytest.mark.parametrize(("length", "size"), TRAINS)
def test_a_train_arrives_whole_when_asked_for(tier: str, pair: Pair, length: int, size: int) -> None:
    payload = os.urandom(length)
    with RecvRing(pair.sink, tier=tier, whole_trains=True) as ring:
        send_train(pair.source, pair.to, payload, size)
        pair.source.sendto(b"single", pair.to)
        first, second = take(ring, 2)
        assert (bytes(first), first.segment_size) == (payload, size)
        assert (bytes(second), second.segment_size) == (b"single", 0)
        send_train(pair.source, pair.to, payload, size)
        (batch,) = gather(ring, 1)
        assert batch.segment_sizes.tolist() == [size]
        assert batch.lengths.tolist() == [length]
        assert batch.payloads() == [payload]


@pytest.mark.parametrize("whole", [False, True])
def test_stats_count_each_datagram_of_a_train(tier: str, pair: Pair, whole: bool) -> None:
    with RecvRing(pair.sink, tier=tier, whole_trains=whole) as ring:
        send_train(pair.source, pair.to, os.urandom(64 * 100), 100)
        (batch,) = gather(ring, 1)
        assert len(batch) == (1 if whole else 64)
        assert (ring.stats["packets"], ring.stats["trains"], ring.stats["bytes"]) == (64, 1, 6400)


def test_without_gro_a_train_arrives_as_datagrams(tier: str, pair: Pair) -> None:
    payload = os.urandom(10300)
    with RecvRing(pair.sink, tier=tier, gro=False) as ring:
        assert not ring.gro
        send_train(pair.source, pair.to, payload, 1000)
        assert [bytes(packet) for packet in take(ring, 11)] == cut(payload, 1000)
        assert ring.stats["packets"] == 11


def test_a_small_buffer_leaves_gro_off_unless_asked_for(tier: str, pair4: Pair) -> None:
    payload = os.urandom(5000)
    with RecvRing(pair4.sink, buffer_size=2048, tier=tier) as ring:
        assert not ring.gro
        send_train(pair4.source, pair4.to, payload, 1000)
        assert [bytes(packet) for packet in take(ring, 5)] == cut(payload, 1000)
    with RecvRing(pair4.sink, buffer_size=2500, tier=tier, gro=True) as ring:
        send_train(pair4.source, pair4.to, payload, 1000)
        packets = take(ring, 3)
        assert [bytes(packet) for packet in packets] == [
            payload[:1000],
            payload[1000:2000],
            payload[2000:2500],
        ]
        assert [packet.truncated for packet in packets] == [False, False, True]
        assert ring.stats["truncated"] == 1


@pytest.mark.parametrize("most", [1, 3, 7, 10])
def test_a_train_that_does_not_fit_is_carried_over(tier: str, pair4: Pair, most: int) -> None:
    payloads = [os.urandom(64 * 20 + 5), b"", os.urandom(64 * 3), os.urandom(64 * 2 + 1)]
    expected = [piece for payload in payloads for piece in (cut(payload, 64) or [b""])]
    with RecvRing(pair4.sink, buffers=8, tier=tier, lease_limit=8) as ring:
        for payload in payloads:
            if payload:
                send_train(pair4.source, pair4.to, payload, 64)
            else:
                pair4.source.sendto(payload, pair4.to)
        batches = gather(ring, len(expected), most)
        assert all(0 < len(batch) <= most for batch in batches)
        assert [piece for batch in batches for piece in batch.payloads()] == expected
        assert ring.leased == 4, "the parts of a train share its buffer"
        del batches
        assert not ring.recv_batch(timeout=0)
        assert ring.leased == 0


def test_parts_of_a_cut_train_are_marked(tier: str, pair4: Pair) -> None:
    payload = os.urandom(64 * 20)
    with RecvRing(pair4.sink, buffer_size=1000, tier=tier, gro=True) as ring:
        send_train(pair4.source, pair4.to, payload, 64)
        packets = [packet for batch in gather(ring, 16, 5) for packet in batch]
        assert [bytes(packet) for packet in packets] == cut(payload[:1000], 64)
        assert [packet.truncated for packet in packets] == [False] * 15 + [True]


def test_max_packets_bounds_a_batch_and_loses_nothing(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        for number in range(30):
            pair4.source.sendto(b"%d" % number, pair4.to)
        batches = gather(ring, 30, 3)
        assert all(0 < len(batch) <= 3 for batch in batches)
        assert [one for batch in batches for one in batch.payloads()] == [b"%d" % n for n in range(30)]
        with pytest.raises(ValueError, match="max_packets"):
            ring.recv_batch(0)


def mixed(pair: Pair, other: socket.socket, seed: int) -> list[tuple[bytes, int]]:
    """Sends singles and trains from two sockets. Returns each datagram and its source port."""
    chance = random.Random(seed)
    sent: list[tuple[bytes, int]] = []
    for _ in range(12):
        sock = chance.choice([pair.source, other])
        size = chance.choice([0, 1, 63, 64, 500, 1400])
        count = chance.choice([1, 1, 2, 5, 30]) if size else 1
        payload = chance.randbytes(size * count - (chance.randrange(size) if size else 0))
        if count > 1:
            send_train(sock, pair.to, payload, size)
        else:
            sock.sendto(payload, pair.to)
        sent += [(piece, sock.getsockname()[1]) for piece in (cut(payload, max(size, 1)) or [b""])]
    return sent


@pytest.mark.parametrize("seed", range(3))
def test_columns_and_packets_and_a_plain_socket_agree(
    tier: str, pair: Pair, make_socket: Callable[..., socket.socket], seed: int
) -> None:
    other = make_socket(pair.source.family)
    sent = mixed(pair, other, seed)
    pair.sink.settimeout(BOUND)
    plain = [pair.sink.recvfrom(65536) for _ in sent]
    assert [(data, address[1]) for data, address in plain] == sent
    with RecvRing(pair.sink, tier=tier) as ring:
        assert mixed(pair, other, seed) == sent
        batches = gather(ring, len(sent))
    assert [one for batch in batches for one in zip(batch.payloads(), batch.addresses, strict=True)] == plain
    for batch in batches:
        packets = list(batch)
        assert (
            [batch[i].data for i in range(len(batch))] == [packet.data for packet in packets] == batch.views()
        )
        assert [bytes(batch.data[o : o + n]) for o, n in zip(batch.offsets, batch.lengths, strict=True)] == (
            batch.payloads()
        )
        assert [packet.address for packet in packets] == batch.addresses == list(batch.addresses)
        assert [packet.local for packet in packets] == batch.locals == [pair.local] * len(batch)
        assert [packet.tos for packet in packets] == batch.tos.tolist() == batch.ecn.tolist()
        assert [packet.segment_size for packet in packets] == batch.segment_sizes.tolist() == [0] * len(batch)
        assert set(batch.timestamps.tolist()) == {0}
        assert batch.kernel_drops == 0


def test_columns_are_plain_buffers_of_numbers(tier: str, pair4: Pair) -> None:
    payload = os.urandom(2500)
    with RecvRing(pair4.sink, tier=tier) as ring:
        send_train(pair4.source, pair4.to, payload, 1000)
        (batch,) = gather(ring, 3)
        assert (batch.lengths.format, batch.offsets.format, batch.timestamps.format) == ("I", "I", "Q")
        for column in (batch.offsets, batch.lengths, batch.tos, batch.timestamps, batch.data):
            assert column.readonly
            assert column.contiguous
        assert array.array("I", batch.lengths).tolist() == [1000, 1000, 500]
        assert struct.unpack("3I", batch.lengths) == (1000, 1000, 500)
        assert batch.data == payload, "of one train nothing lies in between"
        assert batch.offsets.tolist() == [0, 1000, 2000]


def test_columns_outlive_the_batch_and_hold_no_buffer(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier, lease_limit=8) as ring:
        send_train(pair4.source, pair4.to, b"x" * 2500, 1000)
        (batch,) = gather(ring, 3)
        lengths, addresses, views = batch.lengths, batch.addresses, batch.views()
        batch.release()
        for use in ("data", "offsets", "lengths", "addresses", "locals", "tos", "ecn", "timestamps"):
            with pytest.raises(ClosedError):
                getattr(batch, use)
        for call in (batch.payloads, batch.views, batch._columns, batch.__iter__, lambda: batch[0:1]):
            with pytest.raises(ClosedError):
                list(call())
        assert lengths.tolist() == [1000, 1000, 500]
        assert addresses == [pair4.seen_source] * 3
        assert [bytes(view) for view in views] == [b"x" * 1000, b"x" * 1000, b"x" * 500]
        assert ring.leased == 1
        del views, call
        assert not ring.recv_batch(timeout=0)
        assert ring.leased == 0


@pytest.mark.parametrize(
    "where",
    [
        slice(2, 5),
        slice(None),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(-3, None),
        slice(4, 1, -1),
        slice(3, 3),
    ],
)
def test_a_slice_has_the_same_columns(tier: str, pair4: Pair, where: slice) -> None:
    payload = os.urandom(7 * 100)
    with RecvRing(pair4.sink, tier=tier, timestamps=True) as ring:
        send_train(pair4.source, pair4.to, payload, 100)
        (batch,) = gather(ring, 7)
        part = batch[where]
        assert isinstance(part, BatchSlice)
        assert part.payloads() == cut(payload, 100)[where] == [bytes(view) for view in part.views()]
        assert [bytes(packet) for packet in part] == part.payloads()
        assert part.lengths.tolist() == batch.lengths.tolist()[where]
        assert part.offsets.tolist() == batch.offsets.tolist()[where]
        assert part.timestamps.tolist() == batch.timestamps.tolist()[where]
        assert part.addresses == batch.addresses[where] == list(batch.addresses)[where]
        assert isinstance(batch.addresses[where], AddressList)
        assert part.lengths.contiguous
        nested = part[1:]
        assert nested.payloads() == part.payloads()[1:]
        assert nested.tos.tolist() == [0] * len(nested)
        batch.release()
        assert part.payloads() == cut(payload, 100)[where]
        assert bytes(part[::-1][0]) == part.payloads()[-1] if len(part) else not part[::-1]


def test_an_empty_batch_has_empty_columns(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        batch = ring.recv_batch(timeout=0)
        assert not batch
        assert batch.payloads() == batch.views() == list(batch) == batch.locals == []
        assert batch.addresses == []
        for column in (batch.data, batch.offsets, batch.lengths, batch.tos, batch.ecn, batch.timestamps):
            assert column.tolist() == []
        with pytest.raises(IndexError):
            batch[0]


def test_timestamps_lie_between_readings_of_the_clock(tier: str, pair: Pair) -> None:
    with RecvRing(pair.sink, tier=tier, timestamps=True) as ring:
        before = time.time_ns()
        for number in range(20):
            pair.source.sendto(b"%d" % number, pair.to)
        send_train(pair.source, pair.to, b"x" * 1000, 100)
        after = time.time_ns()
        batches = gather(ring, 30)
        stamps = [stamp for batch in batches for stamp in batch.timestamps]
        assert stamps == [packet.timestamp for batch in batches for packet in batch]
        assert stamps == sorted(stamps)
        slack = 1_000_000_000  # clocks are adjusted now and then
        assert before - slack <= stamps[0]
        assert stamps[-1] <= after + slack
        assert len(set(stamps[-10:])) == 1, "a train has one time"


@pytest.mark.parametrize("before", [0, 1])
def test_timestamps_are_left_as_they_were_found(tier: str, pair4: Pair, before: int) -> None:
    option = 35  # SO_TIMESTAMPNS
    pair4.sink.setsockopt(socket.SOL_SOCKET, option, before)
    with RecvRing(pair4.sink, tier=tier, timestamps=True):
        assert pair4.sink.getsockopt(socket.SOL_SOCKET, option) == 1
    assert pair4.sink.getsockopt(socket.SOL_SOCKET, option) == before


def test_kernel_drops_come_with_their_batch(tier: str, pair4: Pair) -> None:
    pair4.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with RecvRing(pair4.sink, buffers=1, buffer_size=2048, tier=tier) as ring:
        for _ in range(100):
            pair4.source.sendto(b"x" * 1000, pair4.to)
        reported, got = 0, 0
        while batch := ring.recv_batch(timeout=0.05):
            reported, got = reported + batch.kernel_drops, got + len(batch)
        pair4.source.sendto(b"last", pair4.to)
        (batch,) = gather(ring, 1)
        reported += batch.kernel_drops
        assert reported == ring.stats["kernel_drops"] == 100 - got > 0


def test_where_the_columns_lie_in_memory(tier: str, pair4: Pair) -> None:
    """``SendRing`` takes a received batch by these addresses."""
    payload = os.urandom(2500)
    with RecvRing(pair4.sink, tier=tier) as ring:
        send_train(pair4.source, pair4.to, payload, 1000)
        (batch,) = gather(ring, 3)
        for part in (batch, batch[1:]):
            columns = part._columns()
            memory = ffi.buffer(ffi.cast("uint8_t *", columns.base), columns.size)
            pieces = [
                memory[at : at + length] for at, length in zip(columns.offsets, columns.lengths, strict=True)
            ]
            assert pieces == part.payloads()


def test_packets_describe_themselves(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as ring:
        pair4.source.sendto(b"abc", pair4.to)
        (batch,) = gather(ring, 1)
        packet = batch[-1]
        assert isinstance(packet, Packet)
        assert len(packet) == 3
        assert repr(packet) == f"<Packet of 3 bytes from {pair4.seen_source}>"
        assert repr(batch) == "<Batch of 1 packets>"
        with pytest.raises(IndexError):
            batch[1]
        batch.release()
        assert repr(batch) == "<Batch, released>"


def test_address_of_a_packet_is_never_optional(make_socket: Callable[..., socket.socket]) -> None:
    """So ``mypy --strict`` takes ``packet.address[0]``. Only a UDP socket is accepted, which has a source."""
    assert typing.get_type_hints(Packet.address.fget)["return"] == Address  # type: ignore[attr-defined]
    nowhere = bytes(RECORD)
    sock = make_socket()
    assert Packet(memoryview(b""), nowhere, SocketOrigin(sock, ipv6=False)).address == ("0.0.0.0", 0)
    assert Packet(memoryview(b""), nowhere, SocketOrigin(sock, ipv6=True)).address == ("::", 0, 0, 0)


@pytest.mark.parametrize("count", [1, 2, 16, 17, 40])
def test_columns_of_few_and_many_agree(tier: str, pair: Pair, count: int) -> None:
    """The core gives the columns of few datagrams in another way than those of many."""
    payloads = [os.urandom(1 + number % 7) for number in range(count)]
    with RecvRing(pair.sink, tier=tier) as ring:
        for payload in payloads:
            pair.source.sendto(payload, pair.to)
        (batch,) = gather(ring, count)
        pair.source.sendto(b"next", pair.to)
        (following,) = gather(ring, 1)
        data, offsets, lengths = batch.data, batch.offsets, batch.lengths
        assert [len(column) for column in (offsets, lengths, batch.addresses)] == [count] * 3
        assert [bytes(data[at : at + size]) for at, size in zip(offsets, lengths, strict=True)] == payloads
        assert list(lengths) == [len(payload) for payload in payloads]
        assert list(batch.addresses) == [pair.seen_source] * count
        assert batch.payloads() == payloads
        assert [bytes(packet) for packet in batch] == payloads
        assert batch[count // 2 :].payloads() == payloads[count // 2 :]
        assert list(batch[::-1].lengths) == list(lengths)[::-1]
        assert following.payloads() == [b"next"]
        batch.release()
        with pytest.raises(ClosedError):
            _ = batch.addresses
        with pytest.raises(ClosedError):
            _ = batch.lengths
