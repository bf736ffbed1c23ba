"""An interface index that becomes another interface's: whether that one is a tunnel is asked anew."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest
import single_commands
from test_plane import INNER_PEER, TIERS, WIREGUARD, Bench, pytestmark

from udpring._native import ffi

__all__ = ["pytestmark"]

INDEX = 4242
NAME = "reused"
ENDPOINT = "10.55.0.2"
DATA_MESSAGE = bytes([4]) + bytes(47)
TUNSETIFF, TUNSETIFINDEX = 0x400454CA, 0x400454DA
IFF_TUN, IFF_TAP, IFF_NO_PI = 1, 2, 0x1000


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(TIERS["mmsg"], 1, WIREGUARD)
    yield made
    made.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _make(flags: int) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFINDEX, struct.pack("I", INDEX))
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), flags | IFF_NO_PI))
    for words in (f"addr add 10.55.0.1/24 dev {NAME}", f"link set {NAME} up"):
        subprocess.run(["ip", *words.split()], check=True)
    return device


def hear_peer(bench: Bench) -> None:
    """A handshake message of the peer was authentic. The route to it leads by the interface."""
    source = ffi.new("struct udpring_address *", {"family": socket.AF_INET, "port": 51820})
    ffi.memmove(source.ip, socket.inet_aton(ENDPOINT), 4)
    code = single_commands.authenticated(bench.plane, bench.peer, 148, source, ffi.NULL, INDEX)
    assert code == 0


def leads_into_tunnel(bench: Bench) -> bool:
    """Whether the plane asks what becomes of a tunnel's message to the peer; else it sends the message."""
    sent = bench.stats().tx.packets
    dropped = bench.drops().get("routing_loop", 0)
    bench.events()
    bench.app.sendto(DATA_MESSAGE, (INNER_PEER, 6000))
    bench.wait(lambda: bench.stats().tx.packets > sent or bench.drops().get("routing_loop", 0) > dropped)
    return bench.drops().get("routing_loop", 0) > dropped


@pytest.mark.parametrize("kinds", [(IFF_TAP, IFF_TUN), (IFF_TUN, IFF_TAP)], ids=["to-tunnel", "from-tunnel"])
def test_reused_index_is_asked_anew(bench: Bench, kinds: tuple[int, int]) -> None:
    """Only TUN devices have no link layer, as tunnels have none."""
    bench.key()
    for kind in kinds:
        device = bench.inside(lambda kind=kind: _make(kind))
        hear_peer(bench)
        hear_peer(bench)
        bench.wait(lambda kind=kind: leads_into_tunnel(bench) is (kind == IFF_TUN))
        os.close(device)
