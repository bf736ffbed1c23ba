"""io_uring for Python: a ring whose operations own their memory, an awaitable ring, and a probe of the host's
features."""

from udpring.uring.buffer_group import BufferGroup
from udpring.uring.call import Call
from udpring.uring.columns import Columns
from udpring.uring.completion import Completion, CompletionFlag, ControlMessage, MessageAddress
from udpring.uring.files import File, open_file
from udpring.uring.listener import Listener
from udpring.uring.net import Net
from udpring.uring.net_protocols import NetProtocol, NetTransport, ProtocolNet
from udpring.uring.net_turn import NetInfo, Turn
from udpring.uring.operations import ANY_PLACE, Flag, Operations, RWFlag, SupportsFileno, SupportsRing
from udpring.uring.prepared import PreparedBatch
from udpring.uring.probe import Feature, UringProbe, ZeroCopy, probe_uring, supported_operations
from udpring.uring.reactor import Reactor
from udpring.uring.read_files import read_files
from udpring.uring.results import ChildState, Stat
from udpring.uring.ring import Ring, RingInfo, graveyard
from udpring.uring.rows import OPERATIONS, OperationRow
from udpring.uring.shots import Shots
from udpring.uring.special_groups import LegacyGroup, SendGroup
from udpring.uring.streams import Connection, connect, connect_unix
from udpring.uring.text_files import TextFile
from udpring.uring.thread import ReactorThread

__all__ = [
    "ANY_PLACE",
    "OPERATIONS",
    "BufferGroup",
    "Call",
    "ChildState",
    "Columns",
    "Completion",
    "CompletionFlag",
    "Connection",
    "ControlMessage",
    "Feature",
    "File",
    "Flag",
    "LegacyGroup",
    "Listener",
    "MessageAddress",
    "Net",
    "NetInfo",
    "NetProtocol",
    "NetTransport",
    "OperationRow",
    "Operations",
    "PreparedBatch",
    "ProtocolNet",
    "RWFlag",
    "Reactor",
    "ReactorThread",
    "Ring",
    "RingInfo",
    "SendGroup",
    "Shots",
    "Stat",
    "SupportsFileno",
    "SupportsRing",
    "TextFile",
    "Turn",
    "UringProbe",
    "ZeroCopy",
    "connect",
    "connect_unix",
    "graveyard",
    "open_file",
    "probe_uring",
    "read_files",
    "supported_operations",
]
