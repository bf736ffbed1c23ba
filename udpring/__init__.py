"""udpring: WireGuard nodes and fast UDP sockets for Linux, on io_uring.

``Node`` runs a WireGuard tunnel inside an asyncio program. ``Config``, ``InterfaceConfig`` and ``PeerConfig``
describe it, ``keys`` makes its keys, and ``Node.events`` gives its events. ``RecvRing`` and ``SendRing``
receive and send datagrams in batches. ``open_datagram_endpoint`` runs a protocol written for asyncio's
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
    from udpring import keys
    from udpring.tunnel.attachment import Tun
    from udpring.tunnel.config import Cipher, Config, Endpoint, InterfaceConfig, PeerConfig
    from udpring.tunnel.control_values import ControlStats, End
    from udpring.tunnel.directory import Directory
    from udpring.tunnel.directory_folder import FolderDirectory
    from udpring.tunnel.directory_mapping import MappingDirectory
    from udpring.tunnel.directory_sqlite import SqliteDirectory
    from udpring.tunnel.node import Node
    from udpring.tunnel.node_events import (
        EndpointFailedOver,
        EventReader,
        EventsLost,
        HandshakeCompleted,
        InterfaceGone,
        NodeEvent,
        OverloadBegan,
        OverloadEnded,
        PeerRefused,
        PeerRoamed,
        PeerSilent,
        PeerUp,
        SilenceReason,
    )
    from udpring.tunnel.node_peers import NodePeer
    from udpring.tunnel.packet_batch import PacketBatch, TunnelPacket
    from udpring.tunnel.packets import Packets
    from udpring.tunnel.plane_packets import PacketPort
    from udpring.tunnel.plane_values import PlaneStats
    from udpring.tunnel.probe import HostProbe, probe
    from udpring.tunnel.rootless import Rootless
    from udpring.tunnel.tunnel import TunnelStats
    from udpring.udp import (
        Address,
        AddressList,
        Batch,
        BatchSlice,
        Packet,
        RecvRing,
        SendReport,
        SendRing,
        SourceList,
        Ticket,
    )
    from udpring.udp.endpoint import open_datagram_endpoint
    from udpring.udp.install import install, uninstall, use_in
    from udpring.udp.transport import RingTransport

try:
    from udpring._version import version as __version__  # written by the build
except ModuleNotFoundError:
    __version__ = "0+unknown"

__all__ = [
    "Address",
    "AddressList",
    "Batch",
    "BatchSlice",
    "Cipher",
    "ClosedError",
    "Config",
    "ConfigError",
    "ControlStats",
    "Directory",
    "End",
    "Endpoint",
    "EndpointFailedOver",
    "EventReader",
    "EventsLost",
    "FolderDirectory",
    "HandshakeCompleted",
    "HostError",
    "HostProbe",
    "InterfaceConfig",
    "InterfaceGone",
    "MappingDirectory",
    "Node",
    "NodeEvent",
    "NodePeer",
    "OverloadBegan",
    "OverloadEnded",
    "Packet",
    "PacketBatch",
    "PacketPort",
    "Packets",
    "PeerConfig",
    "PeerRefused",
    "PeerRoamed",
    "PeerSilent",
    "PeerUp",
    "PlaneStats",
    "RecvRing",
    "RingError",
    "RingTransport",
    "Rootless",
    "SendReport",
    "SendRing",
    "SilenceReason",
    "SourceList",
    "SqliteDirectory",
    "Ticket",
    "Tun",
    "TunnelPacket",
    "TunnelStats",
    "UdpringError",
    "WrongThreadError",
    "__version__",
    "install",
    "keys",
    "open_datagram_endpoint",
    "probe",
    "uninstall",
    "use_in",
]

# Modules are imported when a name is first used: `udpring genkey` needs neither the core nor asyncio.
_LAZY = {
    "Address": "udpring.udp",
    "AddressList": "udpring.udp",
    "Batch": "udpring.udp",
    "BatchSlice": "udpring.udp",
    "Cipher": "udpring.tunnel.config",
    "Config": "udpring.tunnel.config",
    "ControlStats": "udpring.tunnel.control_values",
    "Directory": "udpring.tunnel.directory",
    "End": "udpring.tunnel.control_values",
    "Endpoint": "udpring.tunnel.config",
    "EndpointFailedOver": "udpring.tunnel.node_events",
    "EventReader": "udpring.tunnel.node_events",
    "EventsLost": "udpring.tunnel.node_events",
    "FolderDirectory": "udpring.tunnel.directory_folder",
    "HandshakeCompleted": "udpring.tunnel.node_events",
    "HostProbe": "udpring.tunnel.probe",
    "InterfaceConfig": "udpring.tunnel.config",
    "InterfaceGone": "udpring.tunnel.node_events",
    "MappingDirectory": "udpring.tunnel.directory_mapping",
    "Node": "udpring.tunnel.node",
    "NodeEvent": "udpring.tunnel.node_events",
    "NodePeer": "udpring.tunnel.node_peers",
    "OverloadBegan": "udpring.tunnel.node_events",
    "OverloadEnded": "udpring.tunnel.node_events",
    "Packet": "udpring.udp",
    "PacketBatch": "udpring.tunnel.packet_batch",
    "PacketPort": "udpring.tunnel.plane_packets",
    "Packets": "udpring.tunnel.packets",
    "PeerConfig": "udpring.tunnel.config",
    "PeerRefused": "udpring.tunnel.node_events",
    "PeerRoamed": "udpring.tunnel.node_events",
    "PeerSilent": "udpring.tunnel.node_events",
    "PeerUp": "udpring.tunnel.node_events",
    "PlaneStats": "udpring.tunnel.plane_values",
    "RecvRing": "udpring.udp",
    "RingTransport": "udpring.udp.transport",
    "Rootless": "udpring.tunnel.rootless",
    "SendReport": "udpring.udp",
    "SendRing": "udpring.udp",
    "SilenceReason": "udpring.tunnel.node_events",
    "SourceList": "udpring.udp",
    "SqliteDirectory": "udpring.tunnel.directory_sqlite",
    "Ticket": "udpring.udp",
    "Tun": "udpring.tunnel.attachment",
    "TunnelPacket": "udpring.tunnel.packet_batch",
    "TunnelStats": "udpring.tunnel.tunnel",
    "install": "udpring.udp.install",
    "open_datagram_endpoint": "udpring.udp.endpoint",
    "probe": "udpring.tunnel.probe",
    "uninstall": "udpring.udp.install",
    "use_in": "udpring.udp.install",
}
_SUBMODULES = ("keys",)


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return importlib.import_module(f"udpring.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
