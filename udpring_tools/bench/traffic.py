"""iperf3 and ping between two namespaces, with results as numbers."""

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
"""Seconds by which a run may exceed its duration."""
WARM_UP = 1.0


@dataclass(frozen=True, slots=True)
class TcpRun:
    """``gbit_per_s``: received. ``seconds``: of the transfer. ``retransmits``: None if iperf3 reports
    none."""

    gbit_per_s: float
    seconds: float
    retransmits: int | None

    @property
    def gbit(self) -> float:
        """The bytes that arrived."""
        return self.gbit_per_s * self.seconds

    @classmethod
    def parse(cls, end: dict[str, Any]) -> TcpRun:
        """From the ``end`` of iperf3's JSON."""
        received, sent = end["sum_received"], end["sum_sent"]
        return cls(received["bits_per_second"] / 1e9, received["seconds"], sent.get("retransmits"))


@dataclass(frozen=True, slots=True)
class UdpRun:
    """Datagrams sent and received in ``seconds``."""

    sent: int
    arrived: int
    seconds: float

    @property
    def lost_percent(self) -> float:
        """Percentage of the sent ones. 100 if none was sent."""
        return 100.0 * (self.sent - self.arrived) / self.sent if self.sent else 100.0

    @property
    def per_second(self) -> float:
        """Datagrams received per second."""
        return self.arrived / self.seconds if self.seconds else 0.0

    @classmethod
    def parse(cls, end: dict[str, Any]) -> UdpRun:
        """From the ``end`` of iperf3's JSON."""
        total = end["sum"]
        return cls(total["packets"], total["packets"] - total["lost_packets"], total["seconds"])


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Milliseconds of the answered echoes, ascending, and the number of sent ones."""

    times: tuple[float, ...]
    sent: int

    @classmethod
    def parse(cls, text: str, sent: int) -> RoundTrips:
        """From the output of ping(8)."""
        return cls(tuple(sorted(float(time) for time in re.findall(r"time=([\d.]+) ms", text))), sent)


def percentile(ordered: tuple[float, ...], part: float) -> float:
    """The value that exceeds ``part`` (0 to 1) of the others. ``ordered`` is ascending and not empty."""
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


@contextlib.contextmanager
def _server(space: Space) -> Iterator[None]:
    """An iperf3 server for one client. It listens when this is entered."""
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
    """TCP to ``target`` in ``there``, or in reverse, for whole seconds (at least one)."""
    options = ["-P", str(streams)] if streams > 1 else []
    options += ["-R"] if reverse else []
    return TcpRun.parse(_client(here, there, target, seconds, *options))


def udp(here: Space, there: Space, target: str, seconds: float, size: int, rate: float) -> UdpRun:
    """Datagrams with ``size`` bytes of payload, ``rate`` per second, paced by iperf3."""
    options = ["-u", "-l", str(size), "-b", str(int(rate * size * 8))]
    return UdpRun.parse(_client(here, there, target, seconds, *options))


@contextlib.contextmanager
def tcp_load(here: Space, there: Space, target: str, seconds: float) -> Iterator[None]:
    """One unlimited TCP stream while the body runs, for ``seconds`` after a warm-up."""
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
    """Echoes, one per ``interval`` seconds, whether or not the previous one was answered."""
    try:
        text = here.command(
            "ping", "-c", str(count), "-i", str(interval), target, timeout=count * interval + PATIENCE
        )
    except UdpringError:  # ping exits with 1 if none was answered
        return RoundTrips((), count)
    return RoundTrips.parse(text, count)
