"""A node with a directory, as a program: ``on_demand.py CONFIG OPTIONS``, OPTIONS as JSON.

It says ``ready`` and then answers each line on its standard input with one line of JSON. The directory is an
SQLite database (``database``). Other options: ``closed`` (nobody is asked), ``idle_timeout``, ``timestamps``,
``uvloop``, ``name``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import udpring
from udpring.tunnel.directory_sqlite import SqliteDirectory

if TYPE_CHECKING:
    from lab.space import Space


def _resident() -> int:
    """KiB of memory that this process holds."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def answer(node: udpring.Node, question: str) -> Any:
    if question == "peers":
        return {peer.public_key: [peer.rx_bytes, peer.tx_bytes, peer.last_handshake] for peer in node.peers}
    if question == "memory":
        return _resident()
    stats = node.stats
    return {"dropped": stats.control.dropped, "drops": stats.plane.drops, "failures": stats.control.failures}


async def serve(config: udpring.Config, options: dict[str, Any]) -> None:
    directory = SqliteDirectory(options["database"], poll=0.2)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with contextlib.closing(directory):
        node = udpring.Node(
            config,
            name=options.get("name"),
            peers=None if options.get("closed") else directory,
            idle_timeout=options.get("idle_timeout", 300.0),
            timestamps=options.get("timestamps"),
        )
        async with node:
            print("ready", flush=True)
            while line := await reader.readline():
                print(json.dumps(answer(node, line.decode().strip())), flush=True)


def main() -> None:
    config, options = udpring.Config.load(sys.argv[1]), json.loads(sys.argv[2])
    if options.get("uvloop"):
        import uvloop  # noqa: PLC0415

        uvloop.run(serve(config, options))
    else:
        asyncio.run(serve(config, options))


class OnDemand:
    """The program in a namespace, for a test."""

    def __init__(self, space: Space, config: Path, **options: Any) -> None:
        self._process = subprocess.Popen(
            space.argv(sys.executable, "-P", __file__, str(config), json.dumps(options)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "it starts"

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def peers(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = self.ask("peers")
        return found

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            assert self._process.wait(30) == 0
        finally:
            self._process.kill()
            self._process.wait(30)
            self._process.stdout.close()


if __name__ == "__main__":
    main()
