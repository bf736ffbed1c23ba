"""A device that refuses super-packets gets the same packets one by one, and soon no more of that kind.

The device is that of test_coalesce.py, in a process where tun_refuses.c replaces writev.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
from offload_model import NONE, PSH, TCP, UDP, Vnet, segment
from packet_streams import TIMESTAMPS, check_order, random_plans, stream, v4, v6
from preload import build, preload

HERE = Path(__file__).parent
IN_A_ROW = 8
"""COALESCE_REFUSALS of coalesce.h."""

CHILD = """
import pickle, sys
from test_coalesce import Device
streams = pickle.load(sys.stdin.buffer)
pickle.dump([Device().write(packets) for packets in streams], sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(HERE / "tun_refuses.c", tmp_path_factory.mktemp("tun_refuses"))


def write_all(library: Path, refuse: str, streams: list[list[bytes]]) -> list[list[tuple[Vnet, bytes]]]:
    """The messages that these packets became. Each stream has its own device that refuses in this way."""
    environment = dict(
        os.environ, LD_PRELOAD=preload(library), REFUSE=refuse, PYTHONPATH=os.pathsep.join(sys.path)
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD],
        input=pickle.dumps(streams),
        capture_output=True,
        env=environment,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    written: list[list[tuple[Vnet, bytes]]] = pickle.loads(done.stdout)
    return written


def write(library: Path, refuse: str, packets: list[bytes]) -> list[tuple[Vnet, bytes]]:
    return write_all(library, refuse, [packets])[0]


def sizes(written: list[tuple[Vnet, bytes]]) -> list[int]:
    return [len(segment(vnet, packet) or ()) for vnet, packet in written]


@pytest.mark.parametrize("refuse", ["all", "short", "once", "memory"])
def test_refused_packets_are_written_as_they_came(library: Path, refuse: str) -> None:
    streams = []
    for seed in range(4 if refuse != "once" else 1):
        generator = random.Random(f"{refuse} {seed}")
        streams.append(stream(random_plans(generator, 22), generator, v4(), v6()))
    for packets, written in zip(streams, write_all(library, refuse, streams), strict=True):
        pieces = [piece for vnet, packet in written for piece in segment(vnet, packet) or ()]
        assert sorted(pieces) == sorted(packets)
        check_order(packets, pieces)
        assert any(vnet.gso_type != NONE for vnet, _ in written) == (refuse in ("short", "once"))


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("make", [v4, v6])
def test_flow_is_segmented_exactly(library: Path, make: object, protocol: int) -> None:
    """Also the PSH flag, which the super-packet's header took from its last packet."""
    flow = make(protocol=protocol, options=TIMESTAMPS if protocol == TCP else b"", ip_id=0xFFF0)  # type: ignore[operator]
    packets = [
        flow.packet(random.Random(number).randbytes(size), flags)
        for number, (size, flags) in enumerate(
            [(700, 0x10)] * 30 + [(700, 0x10 | PSH), (700, 0x10), (1, 0x10)]
        )
    ]
    assert [packet for _, packet in write(library, "all", packets)] == packets


def test_repeatedly_refused_kind_is_given_up(library: Path) -> None:
    """Other kinds continue, and a device that refuses only now and then gets further super-packets."""
    flow = v4()
    bursts = [flow.packet(bytes(size)) for _ in range(IN_A_ROW + 4) for size in (500, 500, 500, 9)]
    assert sizes(write(library, "short", bursts)) == [1, 1, 1, 1] * IN_A_ROW + [3, 1] * 4
    assert sizes(write(library, "once", bursts)) == [1, 1, 1, 1] + [4] * (IN_A_ROW + 3)
    assert sizes(write(library, "all", bursts)) == [1] * len(bursts)


def test_no_memory_for_one_says_nothing_of_the_next(library: Path) -> None:
    flow = v4(protocol=UDP)
    packets = [flow.packet(bytes(64)) for _ in range(64 * (IN_A_ROW + 2))]
    assert [packet for _, packet in write(library, "memory", packets)] == packets
