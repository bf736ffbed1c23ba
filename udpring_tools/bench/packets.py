"""``bench packets``: two nodes without a device in this process. One sends packets, the other receives them.

The processor time is that of the whole process: both event loops' work and both workers', with encryption
and the sockets between them. The sender keeps a window in flight, because UDP has no flow control.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import struct
import time
from collections.abc import Callable
from typing import Any

import udpring
from udpring.keys import generate_private_key, public_key
from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.samples import spread

__all__ = ["FIGURES", "SIZES", "measure_packets", "measure_size"]

SIZES = (64, 1300)
"""Bytes of UDP payload. The IP packet has 28 more."""
BATCH = 64
WINDOW = 256 << 10
"""Bytes sent and not yet received. A socket without rights holds little more than three trains."""
FIGURES = ("packets_s", "packets_cpu_s", "gbit_cpu_s", "lost")
LOSS_WAIT = 1.0
"""Seconds without an arrival after which what is in flight counts as lost."""
_ADDRESSES = "10.9.0.1", "10.9.0.2"


def _packet(payload: int) -> bytes:
    source, destination = (ipaddress.ip_address(each).packed for each in _ADDRESSES)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28 + payload, 0, 0, 64, 17, 0) + source + destination
    return header + struct.pack("!HHHH", 1000, 2000, 8 + payload, 0) + bytes(payload)


def _config(private: bytes, peer: bytes, number: int, port: int | None) -> udpring.Config:
    endpoint = None if port is None else udpring.Endpoint("127.0.0.1", port)
    allowed = ipaddress.ip_network(_ADDRESSES[1 - number])
    known = udpring.PeerConfig(public_key(peer), allowed_ips=(allowed,), endpoint=endpoint)
    return udpring.Config(udpring.InterfaceConfig(private_key=private), (known,))


class _Flow:
    """Packets of one size from one port to another, for a time."""

    def __init__(self, sender: udpring.PacketPort, receiver: udpring.PacketPort, payload: int) -> None:
        self._ports = sender, receiver
        self._size = len(_packet(payload))
        self._data = _packet(payload) * BATCH
        self._window = max(WINDOW // self._size, 2 * BATCH)
        self._arrival = asyncio.Event()
        self.sent = self.received = self.lost = 0

    async def _receive(self) -> None:
        async for batch in self._ports[1]:
            self.received += len(batch)
            self._arrival.set()

    async def run(self, seconds: float) -> None:
        """Returns when all that was sent has arrived or is lost."""
        receiving = asyncio.ensure_future(self._receive())
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await self._ports[0].send(self._data, lengths=self._size)
            self.sent += BATCH
            await self._until_below(self._window)
        await self._until_below(1)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)

    async def _until_below(self, limit: int) -> None:
        while self.sent - self.received - self.lost >= limit:
            self._arrival.clear()
            try:
                async with asyncio.timeout(LOSS_WAIT):
                    await self._arrival.wait()
            except TimeoutError:
                self.lost = self.sent - self.received


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure_size(payload: int, seconds: float, tier: str | None) -> dict[str, Any]:
    """One pair of nodes: the figures, and the choices of a node."""
    keys = [generate_private_key() for _ in range(2)]
    options: dict[str, Any] = {"attachment": udpring.Packets(), "tier": tier, "workers": 1}
    async with udpring.Node(_config(keys[1], keys[0], 1, None), **options) as second:
        config = _config(keys[0], keys[1], 0, second.listen_port)
        async with udpring.Node(config, **options) as first:
            flow = _Flow(first.packets, second.packets, payload)
            await first.packets.send([_packet(payload)])
            await second.packets.recv()  # now there is a session
            await flow.run(0.2)  # memory is touched for the first time
            before, cpu, began = flow.received, _cpu(), time.monotonic()
            await flow.run(seconds)
            count, cpu, took = flow.received - before, _cpu() - cpu, time.monotonic() - began
            return {
                "packets_s": count / took,
                "packets_cpu_s": count / cpu,
                "gbit_cpu_s": count * (28 + payload) * 8 / cpu / 1e9,
                "lost": float(flow.lost),
                "tier": first.tier,
                "tier_reason": first.tier_reason,
                "aead": first.aead,
            }


def measure_packets(
    seconds: float, runs: int, tier: str | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The sizes in turn, ``runs`` times. The figures are medians, over IP packets."""
    result, before = host_facts(), load()
    samples: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
    for run in range(runs):
        for size, results in samples.items():
            progress(f"run {run + 1} of {runs}: {size} B")
            results.append(asyncio.run(measure_size(size, seconds, tier)))
    first = samples[SIZES[0]][0]
    return {
        **result,
        "load_average": [before, load()],
        "seconds": seconds,
        "runs": runs,
        **{name: first[name] for name in ("tier", "tier_reason", "aead")},
        "sizes": [
            {"payload": size, **{name: spread([each[name] for each in results]) for name in FIGURES}}
            for size, results in samples.items()
        ],
    }
