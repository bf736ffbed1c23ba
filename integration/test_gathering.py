"""Single datagrams at a high rate: workers pause so that they gather, and yield to their reader.

Nothing is lost, changed or reordered, and slow datagrams are not delayed.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Program, Rig, Tunnel, until
from lab.counters import counters, watched
from lab.traffic import TcpStream
from lab.weight import nice_of_session, sessions

from udpring.tunnel.worker_weight import DEFAULT

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="counts what udpring counts")

TIERS = ("uring-multishot", "uring-pool", "mmsg")
SO_RCVBUFFORCE = 33


def two_nodes(rig: Rig, directory: Path, tier: str) -> Tunnel:
    programs = []
    for name in "ab":
        (directory / name).mkdir()
        programs.append(watched(directory / name).with_env(UDPRING_TIER=tier))
    tunnel = rig.tunnel((programs[0], programs[1]))
    tunnel.ping()
    return tunnel


@contextmanager
def sockets(tunnel: Tunnel) -> Iterator[tuple[socket.socket, socket.socket]]:
    """From a to b, connected. The reader has room for everything."""
    with (
        tunnel.a.space.socket(tunnel.a.inner4, socket.SOCK_DGRAM) as source,
        tunnel.b.space.socket(tunnel.b.inner4, socket.SOCK_DGRAM) as sink,
    ):
        sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        source.connect(sink.getsockname())
        sink.connect(source.getsockname())
        for end in (source, sink):
            end.settimeout(30)
        yield source, sink


def drained(sink: socket.socket, last: int, lost: Callable[[], object] | None = None) -> list[int]:
    """The numbers that arrived, up to ``last`` or a later one. ``lost`` is called when none comes."""
    numbers: list[int] = []
    while not numbers or numbers[-1] < last:
        if lost and not select.select([sink], [], [], 1)[0]:
            lost()
        else:
            numbers.append(struct.unpack_from("!I", sink.recv(2000))[0])
    return numbers


@pytest.mark.parametrize("tier", TIERS)
def test_a_stream_of_single_datagrams_gathers(rig: Rig, tmp_path: Path, tier: str) -> None:
    tunnel = two_nodes(rig, tmp_path, tier)
    number, deadline = 0, time.monotonic() + 60
    payload = bytes(48)
    with sockets(tunnel) as (source, sink):

        def send() -> None:
            nonlocal number
            number += 1
            source.send(struct.pack("!I", number) + payload)

        while time.monotonic() < deadline:
            before = counters(tunnel.a)["plane"]
            for _ in range(20_000):
                send()
            after = counters(tunnel.a)["plane"]
            send()  # the device's queue may still be full: then another one
            got = drained(sink, number, send)
            assert got == sorted(set(got))
            passes = after["passes"] - before["passes"]
            found = after["tun_packets_in"] - before["tun_packets_in"]
            # A worker slower than the sender finds enough datagrams each time.
            if after["pauses"] > before["pauses"] or found >= 32 * passes:
                return
        raise AssertionError(f"{after['pauses']} pauses, {found} datagrams in {passes} passes")


@pytest.mark.parametrize("tier", TIERS)
def test_single_packets_are_not_delayed(rig: Rig, tmp_path: Path, tier: str) -> None:
    """At any speed: four windows of 4 ms at 30 000 a second are more than 400."""
    tunnel = two_nodes(rig, tmp_path, tier)
    with sockets(tunnel) as (source, sink):
        for number in range(400):
            source.send(struct.pack("!I", number))
            sink.send(sink.recv(100))
            assert source.recv(100) == struct.pack("!I", number)
    assert counters(tunnel.a)["plane"]["pauses"] == counters(tunnel.b)["plane"]["pauses"] == 0


def test_readers_get_their_turn(rig: Rig, tmp_path: Path) -> None:
    """This holds only for datagrams. TCP has a window."""
    tunnel = two_nodes(rig, tmp_path, "uring-multishot")
    tunnel.tcp_both_ways(4 << 20, 4)
    assert counters(tunnel.b)["plane"]["yields"] == 0
    with sockets(tunnel) as (source, sink):
        for number in range(100):
            source.send(struct.pack("!I", number))
        assert drained(sink, 99) == list(range(100))
    until(lambda: counters(tunnel.b)["plane"]["yields"] > 0, "the worker gives way")


def node_nice(node: Node) -> int:
    assert node.process
    return nice_of_session(node.process.pid)


def leading(program: Program) -> Program:
    """In a session of its own."""
    return Program(program.name, ("setsid", *program.argv), program.env)


@sessions
def test_session_is_raised_unless_many_datagrams_come(rig: Rig, tmp_path: Path) -> None:
    """The node is confined: its broker writes the file."""
    raising = watched(tmp_path).with_env(UDPRING_NICE="")
    tunnel = rig.tunnel((leading(raising), SUBJECT))
    tunnel.ping()
    assert node_nice(tunnel.a) == DEFAULT
    deadline = time.monotonic() + 60
    with sockets(tunnel) as (source, _):
        while node_nice(tunnel.a) != 0:
            before = counters(tunnel.a)["plane"]
            for _ in range(20_000):
                source.send(bytes(48))
            after = counters(tunnel.a)["plane"]
            passes = after["passes"] - before["passes"]
            if after["tun_packets_in"] - before["tun_packets_in"] >= 32 * passes:
                return  # a worker slower than the sender finds enough datagrams each time
            assert time.monotonic() < deadline, f"{after['pauses']} pauses"

    # No packet wakes the workers now.
    until(lambda: node_nice(tunnel.a) == DEFAULT, "the session is raised again", timeout=60)


@sessions
def test_session_is_raised_while_a_flow_is_sparse(rig: Rig, tmp_path: Path) -> None:
    """Under a bulk transfer, which alone has the usual weight."""
    tunnel = rig.tunnel((leading(watched(tmp_path).with_env(UDPRING_NICE="")), SUBJECT))
    tunnel.ping()
    stream = TcpStream(tunnel.a.space, tunnel.b.space, tunnel.b.inner4)
    try:
        until(lambda: node_nice(tunnel.a) == 0, "it has its usual weight", timeout=60)
        with sockets(tunnel) as (source, _):

            def is_raised() -> bool:
                source.send(b"now and then")
                return node_nice(tunnel.a) == DEFAULT

            until(is_raised, "it is raised", timeout=60, interval=0.02)
        until(lambda: node_nice(tunnel.a) == 0, "it has its usual weight again", timeout=60)
    finally:
        stream.finish()


@sessions
def test_variable_leaves_the_session_alone(rig: Rig) -> None:
    tunnel = rig.tunnel((leading(SUBJECT.with_env(UDPRING_NICE="0")), SUBJECT))
    tunnel.ping()
    assert node_nice(tunnel.a) == 0
