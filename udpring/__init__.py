"""udpring: WireGuard nodes and fast UDP sockets for Linux, on io_uring.

``Node`` runs a WireGuard tunnel inside an asyncio program. ``RecvRing`` and ``SendRing`` receive and send
datagrams in batches. ``open_datagram_endpoint`` runs a protocol written for asyncio's
``create_datagram_endpoint``. ``probe`` reports what this host can do. README.md has an example of each.
"""

import importlib
import typing

from udpring.errors import (
    ClosedError,
    ConfigError,
    HostError,
    RingError,
    UdpringError,
    WrongThreadError,
)

if typing.TYPE_CHECKING:
    from udpring.tunnel.attachment import Tun
    from udpring.tunnel.config import Config
    from udpring.tunnel.directory import Directory
    from udpring.tunnel.directory_folder import FolderDirectory
    from udpring.tunnel.directory_mapping import MappingDirectory
    from udpring.tunnel.directory_sqlite import SqliteDirectory
    from udpring.tunnel.node import Node
    from udpring.tunnel.probe import HostProbe, probe
    from udpring.tunnel.rootless import Rootless
    from udpring.udp import (
        Address,
        AddressList,
        Batch,
        BatchSlice,
        Packet,
        RecvRing,
        SendReport,
        SendRing,
        Ticket,
    )
    from udpring.udp.endpoint import open_datagram_endpoint

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AddressList",
    "Batch",
    "BatchSlice",
    "ClosedError",
    "Config",
    "ConfigError",
    "Directory",
    "FolderDirectory",
    "HostError",
    "HostProbe",
    "MappingDirectory",
    "Node",
    "Packet",
    "RecvRing",
    "RingError",
    "Rootless",
    "SendReport",
    "SendRing",
    "SqliteDirectory",
    "Ticket",
    "Tun",
    "UdpringError",
    "WrongThreadError",
    "__version__",
    "open_datagram_endpoint",
    "probe",
]

# Modules are imported when a name is first used: `udpring genkey` needs neither the core nor asyncio.
_LAZY = {
    "Address": "udpring.udp",
    "AddressList": "udpring.udp",
    "Batch": "udpring.udp",
    "BatchSlice": "udpring.udp",
    "Config": "udpring.tunnel.config",
    "Directory": "udpring.tunnel.directory",
    "FolderDirectory": "udpring.tunnel.directory_folder",
    "HostProbe": "udpring.tunnel.probe",
    "MappingDirectory": "udpring.tunnel.directory_mapping",
    "Node": "udpring.tunnel.node",
    "Packet": "udpring.udp",
    "RecvRing": "udpring.udp",
    "Rootless": "udpring.tunnel.rootless",
    "SendReport": "udpring.udp",
    "SendRing": "udpring.udp",
    "SqliteDirectory": "udpring.tunnel.directory_sqlite",
    "Ticket": "udpring.udp",
    "Tun": "udpring.tunnel.attachment",
    "open_datagram_endpoint": "udpring.udp.endpoint",
    "probe": "udpring.tunnel.probe",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
