"""The names that a configuration gives to peers, for commands that show them."""

from __future__ import annotations

from pathlib import Path

from udpring.errors import ConfigError
from udpring.tunnel import config, up_record

__all__ = ["PeerNames", "file_of", "names_of"]


def file_of(interface: str) -> Path | None:
    """The configuration of a running interface: the file of ``udpring up``, or the one in /etc/wireguard.
    None: no file can have this name."""
    record = up_record.find(interface)
    if record is not None:
        return record.file
    try:
        return config.locate(interface)[1]
    except ConfigError:
        return None


def names_of(interface: str) -> dict[bytes, str]:
    """Public key -> the peer's name. Empty where the file cannot be read."""
    file = file_of(interface)
    try:
        loaded = None if file is None else config.Config.load(file)
    except ConfigError:
        return {}
    return {} if loaded is None else {peer.public_key: peer.name for peer in loaded.peers if peer.name}


class PeerNames:
    """The same for a command that runs on. Reads a file again only when it has changed."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[object, dict[bytes, str]]] = {}

    def of(self, interface: str) -> dict[bytes, str]:
        """The names now."""
        file = file_of(interface)
        try:
            found = file.stat() if file is not None else None
            state = found and (file, found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            state = None
        before = self._read.get(interface)
        if before is None or before[0] != state:
            before = self._read[interface] = state, names_of(interface)
        return before[1]

    def keep(self, interfaces: set[str]) -> None:
        """Forgets the names of all other interfaces."""
        self._read = {name: read for name, read in self._read.items() if name in interfaces}
