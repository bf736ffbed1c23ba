"""A program that embeds a udpring.Node, takes commands on its standard input and prints each event."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from typing import Any

from lab.space import Space

#: Seconds until an expected event or answer must have come.
PATIENCE = 60.0

_PROGRAM = """
import asyncio, dataclasses, ipaddress, json, sys, time
import udpring, uvloop

async def print_events(events):
    async for event in events:
        print(json.dumps([type(event).__name__, dataclasses.asdict(event), time.monotonic()]), flush=True)
    print(json.dumps(["ended", {}, time.monotonic()]), flush=True)

async def measure_lateness():
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.1)
        measure_lateness.total += time.monotonic() - began - 0.1
measure_lateness.total = 0.0

async def do(node, said, slow):
    what, word = said[0], said[1:]
    if what == "add":
        host, _, port = word[2].rpartition(":") if word[2] else ("", "", "")
        await node.add_peer(udpring.PeerConfig(
            udpring.keys.from_base64(word[0]),
            allowed_ips=tuple(ipaddress.ip_network(each) for each in word[1]),
            endpoint=udpring.Endpoint(host.strip("[]"), int(port)) if port else None,
        ))
    elif what == "remove":
        await node.remove_peer(word[0])
    elif what in ("pause", "resume"):
        getattr(node, what)()
    elif what == "paused":
        return node.paused
    elif what == "drain":
        return await node.drain(word[0], quiet=word[1])
    elif what == "dropped":
        return node.stats.control.dropped
    elif what == "lateness":
        return measure_lateness.total
    elif what == "slow":
        return [[type(slow._queue[0]).__name__], slow.lost]
    elif what == "peers":
        return [each.public_key for each in node.peers]
    else:
        raise ValueError(what)

async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    config = udpring.Config.loads(json.loads(await reader.readline()))
    node = udpring.Node(config, name=sys.argv[1], uapi=True)
    slow = node.events(limit=1)
    printing = asyncio.ensure_future(print_events(node.events()))
    measuring = asyncio.ensure_future(measure_lateness())
    async with node:
        print(json.dumps(["up", {}, 0]), flush=True)
        while line := await reader.readline():
            print(json.dumps(["answer", await do(node, json.loads(line), slow), 0]), flush=True)
    await printing
    measuring.cancel()

{"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[2]](main())
"""


class EventProgram:
    """Runs the program. Events come in the order in which the node posted them."""

    def __init__(self, space: Space, interface: str, configuration: str, loop: str = "asyncio") -> None:
        self._process = subprocess.Popen(
            space.argv(sys.executable, "-P", "-c", _PROGRAM, interface, loop),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._events: queue.Queue[tuple[str, dict[str, Any], float]] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        #: When the program had the last expected event, by CLOCK_MONOTONIC.
        self.at = 0.0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self._write(configuration)
        assert self._answers.get(timeout=PATIENCE) == {}

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, value, at = json.loads(line)
            if kind in ("up", "answer"):
                self._answers.put(value)
            else:
                self._events.put((kind, value, at))

    def _write(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def do(self, *words: object) -> Any:
        """Carries out one command and returns its answer."""
        self._write(words)
        return self._answers.get(timeout=PATIENCE)

    def expect(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next event of this kind with these fields. Events before it are passed over."""
        end = time.monotonic() + PATIENCE
        passed = []
        while True:
            try:
                found, value, at = self._events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind} {fields}, but {passed}") from None
            if found == kind and all(value[name] == wanted for name, wanted in fields.items()):
                self.at = at
                return value
            passed.append((found, value))

    def lateness(self) -> float:
        """Seconds by which the machine has woken the program's event loop too late, in all."""
        return float(self.do("lateness"))

    def close(self) -> None:
        """Ends the node. Its program must end in order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            assert self._process.wait(PATIENCE) == 0
        finally:
            self._process.kill()
            self._process.wait()
            self._thread.join(PATIENCE)
            self._process.stdout.close()
