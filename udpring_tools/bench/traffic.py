"""iperf3 and ping between two namespaces, and what they say as numbers."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from udpring.errors import UdpringError
from udpring_tools.bench.space import Space

__all__ = ["RoundTrips", "TcpRun", "UdpRun", "percentile", "ping", "tcp", "tcp_load", "udp"]

PATIENCE = 30.0
"""Seconds that a run may take longer than it should."""
WARM_UP = 1.0


@dataclass(frozen=True, slots=True)
class TcpRun:
    """``gbit_per_s``: as received. ``seconds``: of the transfer. ``retransmits``: None where iperf3 tells
    none."""

    gbit_per_s: float
    seconds: float
    retransmits: int | None

    @property
    def gbit(self) -> float:
        """What arrived."""
        return self.gbit_per_s * self.seconds

    @classmethod
    def parse(cls, end: dict[str, Any]) -> TcpRun:
        """From the ``end`` of iperf3's JSON."""
        received, sent = end["sum_received"], end["sum_sent"]
        return cls(received["bits_per_second"] / 1e9, received["seconds"], sent.get("retransmits"))


@dataclass(frozen=True, slots=True)
class UdpRun:
    """Datagrams that were sent and that arrived, in ``seconds``."""

    sent: int
    arrived: int
    seconds: float

    @property
    def lost_percent(self) -> float:
        """Of those sent; 100 where none was."""
        return 100.0 * (self.sent - self.arrived) / self.sent if self.sent else 100.0

    @property
    def per_second(self) -> float:
        """Datagrams that arrived each second."""
        return self.arrived / self.seconds if self.seconds else 0.0

    @classmethod
    def parse(cls, end: dict[str, Any]) -> UdpRun:
        """From the ``end`` of iperf3's JSON."""
        total = end["sum"]
        return cls(total["packets"], total["packets"] - total["lost_packets"], total["seconds"])


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Milliseconds of those echoes that were answered, in rising order; how many were sent."""

    times: tuple[float, ...]
    sent: int

    @classmethod
    def parse(cls, text: str, sent: int) -> RoundTrips:
        """From the output of ping(8)."""
        return cls(tuple(sorted(float(time) for time in re.findall(r"time=([\d.]+) ms", text))), sent)


def percentile(ordered: tuple[float, ...], part: float) -> float:
    """The value below which ``part`` (0 to 1) of the others lie; ``ordered`` rises and is not empty."""
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


@contextlib.contextmanager
def _server(space: Space) -> Iterator[None]:
    """An iperf3 that serves one client; it listens when this is entered."""
    process = space.spawn("iperf3", "-s", "-1", "--forceflush")
    try:
        assert process.stdout
        for line in process.stdout:
            if "Server listening" in line:
                break
        else:
            raise UdpringError("iperf3 -s ended at once: is its port 5201 free in the namespace?")
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _client(here: Space, there: Space, target: str, seconds: float, *options: str) -> dict[str, Any]:
    command = ["iperf3", "-c", target, "-J", "-t", str(max(1, round(seconds))), *options]
    with _server(there):
        said = json.loads(here.command(*command, timeout=seconds + PATIENCE))
    if "error" in said:
        raise UdpringError(f"iperf3: {said['error']}")
    end: dict[str, Any] = said["end"]
    return end


def tcp(
    here: Space, there: Space, target: str, seconds: float, streams: int = 1, reverse: bool = False
) -> TcpRun:
    """TCP to ``target`` in ``there``, or back from it, for whole seconds (at least one)."""
    options = ["-P", str(streams)] if streams > 1 else []
    options += ["-R"] if reverse else []
    return TcpRun.parse(_client(here, there, target, seconds, *options))


def udp(here: Space, there: Space, target: str, seconds: float, size: int, rate: float) -> UdpRun:
    """Datagrams of ``size`` bytes of payload, ``rate`` a second, paced as iperf3 does."""
    options = ["-u", "-l", str(size), "-b", str(int(rate * size * 8))]
    return UdpRun.parse(_client(here, there, target, seconds, *options))


@contextlib.contextmanager
def tcp_load(here: Space, there: Space, target: str, seconds: float) -> Iterator[None]:
    """One TCP stream as fast as it goes, for ``seconds`` after it has warmed up, while the body runs."""
    length = str(max(1, round(seconds + WARM_UP)))
    with _server(there):
        client = here.spawn("iperf3", "-c", target, "-t", length, "-i", "1", "--forceflush")
        try:
            assert client.stdout
            for line in client.stdout:  # the first interval's report: it has run for a second
                if "sec" in line:
                    break
            else:
                raise UdpringError("iperf3 could not connect through the tunnel")
            yield
        finally:
            client.terminate()
            client.communicate()


def ping(here: Space, target: str, count: int, interval: float) -> RoundTrips:
    """Echoes, one each ``interval`` seconds, whether the one before was answered or not."""
    try:
        text = here.command(
            "ping", "-c", str(count), "-i", str(interval), target, timeout=count * interval + PATIENCE
        )
    except UdpringError:  # ping exits 1 when not one was answered
        return RoundTrips((), count)
    return RoundTrips.parse(text, count)
