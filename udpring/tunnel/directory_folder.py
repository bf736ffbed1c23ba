"""A directory from a folder of files: each ``*.conf`` has one ``[Peer]`` section."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

from udpring.errors import ConfigError
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.config import Config, IPAddress, PeerConfig
from udpring.tunnel.directory_mapping import MappingDirectory
from udpring.tunnel.flood_gate import FloodGate

__all__ = ["FolderDirectory"]

log = logging.getLogger("udpring.node")

_Mark = tuple[int, int, int]
"""Of a file: inode, size, time of the last change. Another one: it is read again."""


class FolderDirectory:
    """Peers of the ``*.conf`` files in a folder. The constructor reads them all and blocks. Files that are
    added, changed or removed are noticed every ``poll`` seconds while a node runs.

    A file that cannot be read, has no or several ``[Peer]`` sections, or a key or prefix of another file, is
    left out with a warning. The others are used. Write a file under another name and rename it: a file that
    is read half-written is wrong until the next look.

    Raises ConfigError where the folder cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, poll: float = 2.0) -> None:
        self.path = Path(path)
        self._poll = poll
        self._gate = FloodGate()
        self._peers = MappingDirectory()
        self._files: dict[str, tuple[_Mark, PeerConfig | None]] = {}
        self._taken: dict[bytes, PeerConfig] = {}
        self._adopt(self._read())

    def __len__(self) -> int:
        return len(self._peers)

    async def by_key(self, public_key: bytes) -> PeerConfig | None:
        """See ``Directory``."""
        return await self._peers.by_key(public_key)

    async def by_address(self, ip: IPAddress) -> PeerConfig | None:
        """See ``Directory``."""
        return await self._peers.by_address(ip)

    async def changes(self) -> AsyncIterator[bytes]:
        """See ``ChangingDirectory``. Looks at the folder every ``poll`` seconds. Raises ConfigError while the
        folder cannot be read."""
        while True:
            for key in self._adopt(await run_blocking(self._read, name="udpring-folder", abandon=True)):
                yield key
            await asyncio.sleep(self._poll)

    def _read(self) -> dict[str, tuple[_Mark, PeerConfig | None]]:
        """Every file with its peer, None where it is wrong; unchanged files are not read again."""
        found: dict[str, tuple[_Mark, PeerConfig | None]] = {}
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".conf")]
        except OSError as failed:
            raise ConfigError(
                f"the folder cannot be read: {failed.strerror or failed}",
                file=str(self.path),
                cure="name a folder of .conf files with one [Peer] each",
            ) from failed
        for name in sorted(names):
            try:
                facts = (self.path / name).stat()
            except OSError:
                continue  # removed since
            mark = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            before = self._files.get(name)
            found[name] = before if before and before[0] == mark else (mark, self._peer(name))
        return found

    def _peer(self, name: str) -> PeerConfig | None:
        try:
            peers = Config.load(self.path / name).peers
            if len(peers) != 1:
                raise ConfigError(
                    f"has {len(peers)} [Peer] sections", file=str(self.path / name), cure="one in each file"
                )
        except ConfigError as wrong:
            self._warn(wrong)
            return None
        return peers[0]

    def _adopt(self, files: dict[str, tuple[_Mark, PeerConfig | None]]) -> list[bytes]:
        """Takes the peers that were read. Returns the keys of those that have changed."""
        self._files = files
        wanted: dict[bytes, PeerConfig] = {}
        for name, (_, peer) in files.items():
            if peer is not None and wanted.setdefault(peer.public_key, peer) is not peer:
                self._warn(ConfigError("another file has its PublicKey", file=str(self.path / name)))
        changed = [key for key, peer in self._taken.items() if wanted.get(key) != peer]
        for key in changed:
            self._peers.remove(key)
            del self._taken[key]
        for key, peer in wanted.items():
            if key not in self._taken:  # also what was left out before: its prefixes may be free now
                try:
                    self._peers.put(peer)
                except ConfigError as wrong:
                    self._warn(wrong)
                else:
                    self._taken[key] = peer
                    changed.append(key)
        return list(dict.fromkeys(changed))

    def _warn(self, wrong: ConfigError) -> None:
        passes, _ = self._gate.passes("file")
        if passes:
            log.warning("%s: left out", wrong)
