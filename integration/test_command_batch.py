"""Batches of commands on a real plane: their order, their results, and that they cross at once."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from test_plane import INNER_PEER, RECEIVE_KEY, REMOTE_INDEX, SEND_KEY, TIERS, WIREGUARD, Bench, pytestmark

from udpring._native import ffi, lib
from udpring.errors import ClosedError, RingError
from udpring.tunnel.command_batch import COMMANDS_MAX, CommandBatch
from udpring.tunnel.plane_values import SocketAddress

__all__ = ["pytestmark"]

LOOPBACK = bytes([127, 0, 0, 1])


@pytest.fixture(params=[1, 2], ids=["alone", "two-workers"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(TIERS["mmsg"], request.param, WIREGUARD)
    yield made
    made.close()


@pytest.fixture
def batch(bench: Bench) -> CommandBatch:
    return CommandBatch(lambda: bench.plane)


def new_index(bench: Bench) -> int:
    index = ffi.new("uint32_t *")
    assert lib.udpring_plane_indices(bench.plane, bench.peer, index, 1) == 0
    return int(index[0])


def put_keypair(bench: Bench, batch: CommandBatch, index: int) -> None:
    batch.keypair(
        bench.peer,
        SEND_KEY,
        RECEIVE_KEY,
        local_index=index,
        remote_index=REMOTE_INDEX,
        initiator=True,
        birth=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    )


def errnos(results: list[Any]) -> list[int]:
    """0 where a command succeeded."""
    return [result.errno if isinstance(result, RingError) else 0 for result in results]


def test_commands_run_in_order(bench: Bench, batch: CommandBatch) -> None:
    """Each message goes to the endpoint that the command before it set."""
    with bench.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(30)
        places = [SocketAddress(LOOPBACK, sock.getsockname()[1]) for sock in (other, bench.peer_socket)]
        for turn in range(10):
            batch.authenticated(bench.peer, 148, places[turn % 2], None)
            batch.send(bench.peer, b"message %d" % turn)
        assert batch.run() == [0] * 20
        for turn in range(10):
            assert (bench.peer_socket if turn % 2 else other).recv(100) == b"message %d" % turn
    assert bench.state().rx_bytes == 10 * 148


def test_reserved_index_is_the_first_peers_that_uses_it(bench: Bench, batch: CommandBatch) -> None:
    many = ffi.new("uint32_t[]", 64)
    before = bench.stats().keypairs
    assert lib.udpring_plane_indices(bench.plane, lib.UDPRING_PEER_NONE, many, 64) == 0
    assert len(set(many)) == 64
    assert bench.stats().keypairs == before, "an index in reserve counted as a keypair"
    put_keypair(bench, batch, many[0])
    batch.index_release(many[1])
    other = ffi.new("uint32_t *")
    assert lib.udpring_plane_peer_add(bench.plane, other) == 0
    batch.keypair(
        other[0], SEND_KEY, RECEIVE_KEY, local_index=many[0], remote_index=1, initiator=True, birth=1
    )
    assert errnos(batch.run()) == [0, 0, errno.ENOENT]
    assert bench.stats().keypairs == before + 1


def test_a_failed_command_stops_no_other(bench: Bench, batch: CommandBatch) -> None:
    index = new_index(bench)
    batch.send(bench.peer, b"first")
    put_keypair(bench, batch, index ^ 1)
    batch.keepalive(bench.peer + 1)
    put_keypair(bench, batch, index)
    put_keypair(bench, batch, index)
    batch.index_release(index)
    batch.send(bench.peer, b"last", cookie_key=bytes(32))
    batch.send(bench.peer, b"last")
    results = batch.run()
    assert errnos(results) == [
        0, errno.ENOENT, errno.ENOENT, 0, errno.EEXIST, errno.EBUSY, errno.EMSGSIZE, 0,
    ]  # fmt: skip
    assert str(results[2]) == f"keepalive to peer {bench.peer + 1}: No such file or directory"
    assert [bench.peer_socket.recv(100) for _ in range(2)] == [b"first", b"last"]


def test_a_batch_is_one_command(bench: Bench, batch: CommandBatch) -> None:
    before = bench.stats().commands
    for turn in range(COMMANDS_MAX):
        batch.send(bench.peer, b"%d" % turn)
    assert batch.run() == [0] * COMMANDS_MAX
    # the batch, this look, and perhaps look-ups of routes by the watch thread
    assert bench.stats().commands < before + COMMANDS_MAX
    assert [bench.peer_socket.recv(100) for _ in range(COMMANDS_MAX)] == [
        b"%d" % turn for turn in range(COMMANDS_MAX)
    ]


@pytest.mark.parametrize("staged", [0, 1])
def test_staged_packet_opens_session_without_keepalive(
    bench: Bench, batch: CommandBatch, staged: int
) -> None:
    if staged:
        bench.app.sendto(b"waits", (INNER_PEER, 6000))
        bench.wait(lambda: bench.state().staged == 1)
    put_keypair(bench, batch, new_index(bench))
    batch.keepalive(bench.peer)
    batch.keepalive(bench.peer)
    assert batch.run() == [staged, staged, 0]
    packets = [bench.receive()[1] for _ in range(2)]
    assert [bool(packet) for packet in packets] == [bool(staged), False]


def test_keys_do_not_stay_in_the_batch(bench: Bench, batch: CommandBatch) -> None:
    index = new_index(bench)
    for wrong in (index ^ 1, index):
        put_keypair(bench, batch, wrong)
    assert SEND_KEY in batch._memory
    batch.run()
    assert SEND_KEY not in batch._memory
    assert RECEIVE_KEY not in batch._memory


def test_closed_plane_empties_the_batch(bench: Bench) -> None:
    def closed() -> None:
        raise ClosedError("the plane is closed")

    batch = CommandBatch(closed)
    put_keypair(bench, batch, 1)
    with pytest.raises(ClosedError):
        batch.run()
    assert len(batch) == 0
    assert not any(batch._memory)
    assert batch.run() == []


def test_more_commands_than_fit_are_refused(bench: Bench) -> None:
    commands = ffi.new("struct udpring_command[]", COMMANDS_MAX + 1)
    assert lib.udpring_plane_commands(bench.plane, commands, COMMANDS_MAX + 1) == -errno.EINVAL
    assert lib.udpring_plane_commands(bench.plane, commands, 1) == 0
    assert commands[0].result == -errno.EINVAL, "there is no kind 0"
