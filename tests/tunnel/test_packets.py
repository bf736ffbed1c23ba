"""node.packets: IP packets between two nodes without a device, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from array import array

import pytest
from packet_nodes import (
    KEYS,
    LOOPS,
    SOURCES,
    between,
    carry,
    config,
    drops,
    node,
    packet,
    pair,
    run,
    until,
    with_mtu,
)

import udpring
from udpring.tunnel.directory_mapping import MappingDirectory
from udpring.tunnel.keys import public_key, to_base64

TIERS = ["uring-multishot", "uring-pool", "mmsg"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_packets_arrive_unchanged_in_order(host: str, tier: str, workers: int) -> None:
    """Of both IP versions and all lengths, over both."""
    chance = random.Random(1)
    made = [
        between(0, 1, chance.randbytes(chance.choice((0, 1, 15, 16, 100, 1300, 1372))), chance.choice((4, 6)))
        for _ in range(1500)
    ]

    async def body() -> None:
        async with pair(host, tier=tier, workers=workers) as (first, second):
            arrived = await carry(first, second, made)
            for version in (4, 6):
                of_version = [each for each in made if each[0] >> 4 == version]
                assert [each for each in arrived if each[0] >> 4 == version] == of_version
            assert len(arrived) == len(made)
            back = [between(1, 0, number.to_bytes(4, "big")) for number in range(300)]
            assert await carry(second, first, back) == back
            assert drops(first) == drops(second) == {}

    run(body)


def test_queues_wrap_at_every_length() -> None:
    """Many times the memory of the queues passes through them. Records end everywhere in it."""
    chance = random.Random(2)
    small = udpring.Packets(send_bytes=1 << 19, receive_bytes=1 << 19)
    made = [between(0, 1, chance.randbytes(chance.randrange(1373))) for _ in range(4000)]

    async def body() -> None:
        async with pair(attachment=small) as (first, second):
            assert await carry(first, second, made) == made

    run(body)


@pytest.mark.parametrize("loop", LOOPS)
def test_each_of_many_lone_packets_wakes_its_reader(loop: str) -> None:
    """Both sides sleep before each of them: a lost wake-up would end the exchange."""

    async def echo(second: udpring.Node) -> None:
        async for batch in second.packets:
            await second.packets.send([between(1, 0, each[28:]) for each in batch.payloads()])

    async def body() -> None:
        async with pair() as (first, second):
            echoing = asyncio.ensure_future(echo(second))
            for number in range(1000):
                payload = number.to_bytes(4, "big")
                await first.packets.send([between(0, 1, payload)])
                assert (await first.packets.recv()).payloads() == [between(1, 0, payload)]
            await second.stop()
            await echoing

    run(body, loop)


def test_packets_wait_for_first_session() -> None:
    made = [between(0, 1, bytes([number])) for number in range(100)]

    async def body() -> None:
        async with (
            node(config(1, 0)) as second,
            node(config(0, 1, ports={1: second.listen_port})) as first,
        ):
            await first.packets.send(made)
            arrived: list[bytes] = []
            while len(arrived) < len(made):
                arrived += (await second.packets.recv()).payloads()
            assert arrived == made

    run(body)


def test_flows_keep_their_order_with_several_workers() -> None:
    flows, rounds = 32, 40
    made = [
        packet(f"10.10.0.{flow}", SOURCES[4][1], number.to_bytes(4, "big"))
        for number in range(rounds)
        for flow in range(flows)
    ]

    async def body() -> None:
        async with pair(workers=2) as (first, second):
            assert first.stats.plane.workers == 2
            arrived = await carry(first, second, made)
            for flow in range(flows):
                mine = [each for each in arrived if each[15] == flow]
                assert mine == made[flow::flows]

    run(body)


# ---- columns ----


def test_columns_describe_each_packet() -> None:
    made = [between(0, 1, bytes(size), version) for size, version in ((0, 4), (33, 6), (1000, 4))]

    async def body() -> None:
        async with pair() as (first, second):
            await first.packets.send(made)
            await until(lambda: second.stats.plane.tun_packets_out == 4)
            batch = second.packets.try_recv()
            assert len(batch) == 3
            assert batch.lengths.format == batch.offsets.format == batch.peers.format == "I"
            assert batch.lengths.tolist() == [len(each) for each in made]
            for offset, length, sent in zip(batch.offsets, batch.lengths, made, strict=True):
                assert batch.data[offset : offset + length] == sent
            key = to_base64(public_key(KEYS[0]))
            assert [batch.public_key(peer) for peer in batch.peers] == [key] * 3
            assert [(bytes(each.data), each.peer) for each in batch] == [(sent, key) for sent in made]
            assert batch[-1] == batch[2] == batch[1:][1]
            with pytest.raises(IndexError, match="packet 3 of a batch of 3"):
                batch[3]
            assert batch.views() == made
            assert not second.packets.try_recv()

    run(body)


def test_packets_outlive_node() -> None:
    async def body() -> None:
        async with pair() as (first, second):
            await first.packets.send([between(0, 1, b"kept")])
            view = (await second.packets.recv())[0].data
        assert bytes(view) == between(0, 1, b"kept")

    run(body)


def test_batch_holds_no_more_than_asked_for() -> None:
    made = [between(0, 1, bytes([number])) for number in range(10)]

    async def body() -> None:
        async with pair() as (first, second):
            await first.packets.send(made)
            await until(lambda: second.stats.plane.tun_packets_out == 11)
            batches = [(await second.packets.recv(4)).payloads() for _ in range(3)]
            assert [len(each) for each in batches] == [4, 4, 2]
            assert [each for batch in batches for each in batch] == made
            with pytest.raises(ValueError, match="max_packets must be at least 1: 0"):
                second.packets.try_recv(0)

    run(body)


def test_peer_names_sender_until_it_is_removed() -> None:
    async def body() -> None:
        async with node(config(2, 0, 1)) as hub:
            ports = {2: hub.listen_port}
            async with node(config(0, 2, ports=ports)) as first, node(config(1, 2, ports=ports)) as second:
                seen: dict[str | None, bytes] = {}
                numbers = {}
                for index, sender in enumerate((first, second)):
                    await sender.packets.send([between(index, 2, b"hello")])
                    batch = await hub.packets.recv()
                    seen[batch[0].peer] = batch[0].data[12:16].tobytes()
                    numbers[index] = batch
                assert seen == {
                    to_base64(public_key(KEYS[0])): bytes((10, 9, 0, 1)),
                    to_base64(public_key(KEYS[1])): bytes((10, 9, 0, 2)),
                }
                await hub.reload(config(2, 1))
                assert numbers[0][0].peer is None
                assert numbers[1][0].peer == to_base64(public_key(KEYS[1]))

    run(body)


def test_peers_come_and_go_on_live_node() -> None:
    async def body() -> None:
        async with node(config(1)) as second, node(config(0)) as first:
            await second.add_peer(config(1, 0).peers[0])
            await first.add_peer(config(0, 1, ports={1: second.listen_port}).peers[0])
            made = [between(0, 1, bytes([number])) for number in range(3)]
            assert await carry(first, second, made) == made
            await first.remove_peer(public_key(KEYS[1]))
            await first.packets.send(made)
            await until(lambda: drops(first) == {"no_peer": 3})

    run(body)


def test_directory_serves_node_without_device() -> None:
    """Both nodes know nobody. A packet to an unknown address asks one's directory, its initiation the
    other's."""

    async def body() -> None:
        directory = MappingDirectory(config(1, 0).peers)
        async with node(config(1), peers=directory) as second:
            known = MappingDirectory(config(0, 1, ports={1: second.listen_port}).peers)
            async with node(config(0), peers=known) as first:
                made = [between(0, 1, bytes([number])) for number in range(3)]
                assert await carry(first, second, made) == made
                assert await carry(second, first, [between(1, 0, b"back")]) == [between(1, 0, b"back")]

    run(body)


@pytest.mark.parametrize("tier", TIERS)
def test_another_port_keeps_packets_flowing(tier: str) -> None:
    """The worker's rings are new then, and watch the program's queue as the former did."""
    made = [between(0, 1, bytes([number])) for number in range(3)]

    async def body() -> None:
        async with pair(tier=tier) as (first, second):
            ports = {1: second.listen_port}
            for _ in range(3):
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:
                    free.bind(("::", 0))
                    port = free.getsockname()[1]
                await first.reload(config(0, 1, ports=ports, listen_port=port))
                assert first.listen_port == port
                assert await carry(first, second, made) == made
                assert await carry(second, first, [between(1, 0, b"back")]) == [between(1, 0, b"back")]

    run(body)


# ---- valid packets ----


def test_one_buffer_with_lengths_is_cut() -> None:
    made = [between(0, 1, bytes([number]) * 16) for number in range(6)]

    async def body() -> None:
        async with pair() as (first, second):
            data = b"".join(made)
            sizes = [len(each) for each in made]
            await first.packets.send(data, lengths=sizes[0])
            await first.packets.send(bytearray(data), lengths=sizes)
            await first.packets.send(memoryview(data), lengths=array("I", sizes))
            await first.packets.send(iter(made))
            arrived: list[bytes] = []
            while len(arrived) < 24:
                arrived += (await second.packets.recv()).payloads()
            assert arrived == made * 4

    run(body)


def test_batch_is_relayed_in_place() -> None:
    """A hub changes received packets and sends them to another peer."""

    async def body() -> None:
        async with node(config(2, 0, 1)) as hub:
            ports = {2: hub.listen_port}
            # To each of the two, all of the network is behind the hub.
            async with (
                node(config(0, 2, ports=ports)) as first,
                node(config(1, 2, ports=ports)) as second,
            ):
                await second.packets.send([between(1, 2, b"here")])
                await hub.packets.recv()
                made = [packet(SOURCES[4][0], "10.12.0.9", bytes([number]) * 9) for number in range(64)]
                await first.packets.send(made)
                passed = 0
                while passed < len(made):
                    batch = await hub.packets.recv()
                    for each in batch:
                        each.data[12:20] = bytes((10, 12, 0, 9, 10, 9, 0, 2))
                    await hub.packets.send(batch)
                    passed += len(batch)
                arrived: list[bytes] = []
                while len(arrived) < len(made):
                    arrived += (await second.packets.recv()).payloads()
                assert [each[28:] for each in arrived] == [each[28:] for each in made]

    run(body)


def test_wrong_arguments_name_packet() -> None:
    async def body() -> None:
        async with pair() as (first, second):
            good = between(0, 1, b"good")
            with pytest.raises(ValueError, match="packet 1 of 65536 bytes: an IP packet has at most 65535"):
                await first.packets.send([good, bytes(65536)])
            with pytest.raises(ValueError, match=r"packet 1 of 2 bytes: .* within the buffer"):
                await first.packets.send(good, lengths=[len(good) - 1, 2])
            with pytest.raises(TypeError, match="payload 1 is not a buffer"):
                await first.packets.send([good, None])  # type: ignore[list-item]
            with pytest.raises(TypeError, match="not one bytes"):
                await first.packets.send(good)  # type: ignore[arg-type]
            await first.packets.send([])
            assert first.packets.try_send([good]) == 1
            assert (await second.packets.recv()).payloads() == [good]

    run(body)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_sent_is_counted(workers: int) -> None:
    """Garbage does not stop later packets."""
    good = between(0, 1, b"good")
    six = between(0, 1, b"good", 6)
    garbage = [b"", b"\x45", b"\x00" * 100, good[:-1], good + b"\0", six[:-1], six + b"\0", b"\xff" * 1420]
    big = between(0, 1, bytes(1420 - 27))
    most = between(0, 1, bytes(65535 - 28))
    strange = packet(SOURCES[4][0], "192.0.2.1", b"")

    async def body() -> None:
        async with pair(workers=workers) as (first, second):
            await first.packets.send([*garbage, big, most, strange, strange, good, six])
            arrived: list[bytes] = []
            while len(arrived) < 2:
                arrived += (await second.packets.recv()).payloads()
            assert sorted(arrived) == sorted([good, six])
            assert drops(first) == {"bad_outer": len(garbage), "too_big": 2, "no_peer": 2}
            # The peer's endpoint is unknown: nobody has spoken to this node yet.
            async with node(config(2, 1)) as third:
                await third.packets.send([between(2, 1, b"")])
                await until(lambda: drops(third) == {"no_endpoint": 1})

    run(body)


def test_mtu_is_that_of_configuration() -> None:
    async def body() -> None:
        async with pair() as (first, second):
            assert first.packets.mtu == 1420
            exact, longer = between(0, 1, bytes(1392)), between(0, 1, bytes(1393))
            assert len(exact) == 1420
            assert await carry(first, second, [exact]) == [exact]
            wide = with_mtu(config(0, 1, ports={1: second.listen_port}), 9000)
            await first.reload(wide)
            assert first.packets.mtu == 9000
            assert await carry(first, second, [exact, longer]) == [exact, longer]
            await first.reload(with_mtu(wide, 1280))
            await first.packets.send([longer, exact])
            await until(lambda: drops(first) == {"too_big": 2})

    run(body)


# ---- more than there is room for ----


def accounted(receiver: udpring.Node) -> int:
    """Packets that it has received, whether or not there was room for them."""
    return receiver.stats.plane.tun_packets_out + drops(receiver).get("program_full", 0)


def test_unread_packets_are_dropped_and_counted() -> None:
    """The queue to the program is full: each packet is either there or counted, and later ones arrive."""
    least = udpring.Packets(receive_bytes=1 << 19)
    made = [between(0, 1, number.to_bytes(4, "big") * 300) for number in range(1000)]

    async def body() -> None:
        async with pair(attachment=least) as (first, second):
            for at in range(0, len(made), 20):
                await first.packets.send(made[at : at + 20])
                sent = 1 + at + 20
                await until(lambda sent=sent: accounted(second) == sent)
            lost = drops(second)["program_full"]
            arrived: list[bytes] = []
            while batch := second.packets.try_recv():
                arrived += batch.payloads()
            assert 0 < lost < len(made)
            assert arrived == made[: len(made) - lost]
            assert await carry(first, second, made[:50]) == made[:50]

    run(body)


def test_try_send_takes_what_there_is_room_for() -> None:
    """No worker sees a batch before it is put, so a batch beyond the queue never fits at once."""
    least = udpring.Packets(send_bytes=1 << 19)
    made = [between(0, 1, bytes(1200))] * 1000

    async def body() -> None:
        async with pair(attachment=least) as (first, _):
            taken = first.packets.try_send(made)
            assert taken == (1 << 19) // (16 + 1232)
            await until(lambda: first.stats.plane.tun_packets_in == 1 + taken)
            await first.packets.send(made)
            await until(lambda: first.stats.plane.tun_packets_in == 1 + taken + len(made))

    run(body)


@pytest.mark.parametrize("workers", [1, 2])
def test_send_waits_for_room_as_often_as_needed(workers: int) -> None:
    """A hundred times the queue, of garbage that no socket has to carry."""
    least = udpring.Packets(send_bytes=1 << 19)
    made = [b"\0" * 1000] * (100 * (1 << 19) // 1000)

    async def body() -> None:
        async with node(config(0, 1), attachment=least, workers=workers) as one:
            await one.packets.send(made)
            await until(lambda: drops(one) == {"bad_outer": len(made)})

    run(body)


def test_other_tasks_run_while_packets_flow() -> None:
    """Neither a loop of sends with room nor one of receives with packets keeps the event loop to itself."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def body() -> None:
        async with pair() as (first, second):
            counting = asyncio.ensure_future(count())
            try:
                for _ in range(100):
                    await first.packets.send([between(0, 1, b"")])
                assert turns >= 10
                await until(lambda: second.stats.plane.tun_packets_out == 101)
                before = turns
                for _ in range(100):
                    await second.packets.recv(1)
                assert turns >= before + 10
            finally:
                counting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await counting

    run(body)
