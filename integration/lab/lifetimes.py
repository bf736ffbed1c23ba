"""A program that starts and stops nodes and prints what it holds after each of them.

    lifetimes.py ATTACHMENT LOOP LIVES WARM_UP AT_ONCE

``rootless`` takes both devices in turn. It prints JSON: what the process held after the warm-up and at the
end, and how many starts waited for the kernel to free earlier namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

import udpring
from udpring.keys import generate_private_key

#: Seconds for the kernel to free the namespaces of earlier lives, which it does in the background.
PATIENCE = 60.0
DEVICES = itertools.cycle(("tun", "packet"))
ATTACHMENTS: dict[str, Callable[[], Any]] = {
    "tun": udpring.Tun,
    "packets": udpring.Packets,
    "rootless": lambda: udpring.Rootless(next(DEVICES)),
}


class MallInfo(ctypes.Structure):
    """struct mallinfo2, mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks"),
            "keepcost",
        )
    )


libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallInfo


def held() -> dict[str, object]:
    """Of this process: descriptors by kind, threads, children. Of its namespace: interfaces. Memory in KiB:
    what malloc(3) has given out, and what is resident."""
    gc.collect()
    kinds = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            kinds.append(entry.readlink().name.partition("[")[0])
        except FileNotFoundError:
            continue  # the one that lists them
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    tasks = list(Path("/proc/self/task").iterdir())
    children = []
    for task in tasks:
        with contextlib.suppress(OSError):  # the thread has ended
            children += (task / "children").read_text().split()
    heap = libc.mallinfo2()
    return {
        "descriptors": sorted(kinds),
        "threads": len(tasks),
        "children": children,
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "allocated": (heap.uordblks + heap.hblkhd) >> 10,
        "resident": resident,
    }


async def started(node: udpring.Node) -> int:
    """Starts it. 1 if it had to wait for the kernel."""
    waited, end = 0, time.monotonic() + PATIENCE
    while True:
        try:
            await node.start()
        except udpring.HostError as refused:
            # The limit of namespaces is reached: a leak, or the kernel is late.
            if refused.errno != errno.ENOSPC or time.monotonic() > end:
                raise
            waited = 1
            await asyncio.sleep(0.1)
        else:
            return waited


async def main(attachment: str, lives: int, warm_up: int, at_once: int) -> None:
    config = udpring.Config.loads(
        f"[Interface]\nPrivateKey = {udpring.keys.to_base64(generate_private_key())}\nAddress = 10.9.0.1/24\n"
        f"[Peer]\nPublicKey = {udpring.keys.to_base64(udpring.keys.public_key(generate_private_key()))}\n"
        "AllowedIPs = 10.9.0.2/32\nEndpoint = 127.0.0.1:9\nPersistentKeepalive = 25\n"
    )
    left, waited = lives, 0

    async def live() -> None:
        nonlocal left, waited
        while left > 0:
            left -= 1
            node = udpring.Node(config, attachment=ATTACHMENTS[attachment]())
            waited += await started(node)
            await node.stop()

    async def run(count: int) -> None:
        nonlocal left
        left = count
        await asyncio.gather(*(live() for _ in range(at_once)))
        await asyncio.sleep(0)

    await run(warm_up)
    before = held()
    await run(lives)
    print(json.dumps({"before": before, "after": held(), "waited": waited}))


if __name__ == "__main__":
    _, chosen, loop, *numbers = sys.argv
    {"asyncio": asyncio.run, "uvloop": uvloop.run}[loop](main(chosen, *map(int, numbers)))
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        sys.exit(0)
    sys.exit("a child is left")
