"""A process that sends datagrams at a rate for a time: ``python -P -m udpring_tools.bench.spray JOB``.

JOB is a ``Job`` as JSON. It prints ``started`` when it begins. At the end it prints one JSON object: the
number of sent datagrams and the seconds. Datagrams refused by the kernel do not count as sent.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice

from udpring.errors import UdpringError
from udpring.udp.send import SendRing
from udpring.wireguard.constants import MAC_LENGTH
from udpring.wireguard.cookie import mac, mac1_key
from udpring.wireguard.messages import INITIATION_LENGTH, pack_initiation
from udpring_tools.bench.interpreter import module_argv
from udpring_tools.bench.space import Space

__all__ = ["Job", "Sent", "begin", "payloads"]

BATCH = 64
POOL = 1024
"""The number of different messages, sent in turn."""
BEHIND = 0.05
"""Seconds. Larger delays are not made up for, so that a pause is not followed by a burst."""


@dataclass(frozen=True, slots=True)
class Job:
    """The datagrams: ``size`` zero bytes, or with ``bogus``, initiations of random bytes with a mac1 that is
    ``wrong``, or ``right`` for the node with ``public_key`` (hexadecimal). They go to each of ``hosts`` in
    turn."""

    hosts: tuple[str, ...]
    port: int
    rate: float
    seconds: float
    size: int = 64
    bogus: str = ""
    public_key: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a job."""

    packets: int
    seconds: float

    @property
    def per_second(self) -> float:
        """The rate that was reached."""
        return self.packets / self.seconds if self.seconds else 0.0


def payloads(job: Job) -> list[bytes]:
    """The different messages of a job."""
    if not job.bogus:
        return [bytes(job.size)]
    made = []
    key = mac1_key(bytes.fromhex(job.public_key))
    for _ in range(POOL):
        sender = int.from_bytes(os.urandom(4))
        body = INITIATION_LENGTH - len(pack_initiation(sender, b"")) - 2 * MAC_LENGTH
        unsigned = pack_initiation(sender, os.urandom(body))
        mac1 = mac(key, unsigned) if job.bogus == "right" else os.urandom(MAC_LENGTH)
        made.append(unsigned + mac1 + bytes(MAC_LENGTH))
    return made


def _batches(job: Job) -> Iterator[tuple[list[bytes], list[tuple[str, int]]]]:
    messages = cycle(payloads(job))
    addresses = cycle([(host, job.port) for host in job.hosts])
    while True:
        yield list(islice(messages, BATCH)), list(islice(addresses, BATCH))


def spray(job: Job, started: Callable[[], None] = lambda: None) -> Sent:
    """Runs the job in this process and network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, SendRing(sock) as ring:
        batches = _batches(job)
        packets = 0
        started()
        began = due = now = time.perf_counter()
        while now < began + job.seconds:
            data, addresses = next(batches)
            report = ring.send_batch(data, addresses if len(job.hosts) > 1 else addresses[0], timeout=1.0)
            packets += report.accepted
            now = time.perf_counter()
            due = max(due + BATCH / job.rate, now - BEHIND)
            if due > now:
                time.sleep(due - now)
        return Sent(packets, time.perf_counter() - began)


def begin(space: Space, job: Job) -> Callable[[], Sent]:
    """Starts the process in a namespace and returns when it sends. The returned function waits for its end.

    Raises UdpringError if it fails. It ends after ``job.seconds``.
    """
    process = space.spawn(*module_argv("udpring_tools.bench.spray", json.dumps(asdict(job))))
    assert process.stdout
    if process.stdout.readline() != "started\n":
        process.communicate()
        raise UdpringError(f"the sender of datagrams ended at once (exit code {process.returncode})")

    def finish() -> Sent:
        said, _ = process.communicate(timeout=job.seconds + 30)
        if process.returncode:
            raise UdpringError(f"the sender of datagrams failed (exit code {process.returncode})")
        return Sent(**json.loads(said))

    return finish


def _main() -> None:
    given = json.loads(sys.argv[1])
    job = Job(**{**given, "hosts": tuple(given["hosts"])})
    print(json.dumps(asdict(spray(job, lambda: print("started", flush=True)))))


if __name__ == "__main__":
    _main()
