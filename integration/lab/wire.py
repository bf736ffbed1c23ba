"""Packets on the wire, captured by tcpdump and parsed by scapy."""

from __future__ import annotations

import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import rdpcap

from lab.space import Space, until

INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4


@dataclass(frozen=True)
class Message:
    """One UDP payload of a capture. time: seconds since the epoch. tos: from the IP header."""

    payload: bytes
    source: tuple[str, int]
    target: tuple[str, int]
    time: float
    tos: int

    @property
    def type(self) -> int:
        return self.payload[0] if self.payload else -1

    @property
    def receiver(self) -> int:
        """The receiver index of a data message."""
        return int(struct.unpack_from("<I", self.payload, 4)[0])

    @property
    def counter(self) -> int:
        """The counter of a data message."""
        return int(struct.unpack_from("<Q", self.payload, 8)[0])


def singly(*spaces: Space, link: str = "under") -> None:
    """From now on the links of these namespaces send each datagram separately."""
    for space in spaces:
        space.ip("link", "set", link, "gso_max_segs", "1")


class Capture:
    """``with Capture(space, file) as capture: ...``, then ``capture.messages()`` returns the UDP of a link.

    A veth would carry a train of datagrams as one packet. `singly` makes it cut trains as a wire does.
    """

    def __init__(self, space: Space, path: Path, link: str = "under", only: str = "udp") -> None:
        self.space, self.path, self.link, self.only = space, path, link, only

    def __enter__(self) -> Capture:
        self._said = self.path.with_suffix(".err")
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                self.space.argv(
                    "tcpdump",
                    "-i",
                    self.link,
                    "-s",
                    "65535",
                    "-B",
                    "65536",  # KiB: each packet takes the room of a whole snapshot in the ring
                    "-U",
                    "-Z",
                    "root",
                    "--immediate-mode",
                    "-w",
                    str(self.path),
                    self.only,
                ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        until(lambda: "listening on" in self._said.read_text(), "tcpdump listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait(30)

    def messages(self) -> list[Message]:
        """The UDP payloads so far, in order, without fragments."""
        found: list[Message] = []
        if not self.path.stat().st_size:
            return found  # tcpdump listens, but has not written the file header yet
        for packet in rdpcap(str(self.path)):
            if UDP not in packet:
                continue
            if IP in packet:
                if packet[IP].flags.MF or packet[IP].frag:
                    continue
                outer, tos = packet[IP], packet[IP].tos
            else:
                outer, tos = packet[IPv6], packet[IPv6].tc
            udp = packet[UDP]
            found.append(
                Message(
                    bytes(udp.payload)[: udp.len - 8],
                    (outer.src, udp.sport),
                    (outer.dst, udp.dport),
                    float(packet.time),
                    int(tos),
                )
            )
        return found

    def wait(self, count: int, kind: int, timeout: float = 30.0) -> list[Message]:
        """Waits until ``count`` messages of a type were seen. Returns those of that type."""
        deadline = time.monotonic() + timeout
        while True:
            have = [message for message in self.messages() if message.type == kind]
            if len(have) >= count:
                return have
            assert time.monotonic() < deadline, (
                f"{len(have)} messages of type {kind} within {timeout} s, not {count}"
            )
            time.sleep(0.1)
