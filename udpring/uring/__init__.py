"""io_uring for Python: a ring whose operations own their memory, and a probe of the host's features."""

from udpring.uring.completion import Completion, CompletionFlag, ControlMessage, MessageAddress
from udpring.uring.operations import Flag, Operations, SupportsFileno
from udpring.uring.probe import Feature, UringProbe, ZeroCopy, probe_uring
from udpring.uring.ring import Ring, RingInfo, graveyard

__all__ = [
    "Completion",
    "CompletionFlag",
    "ControlMessage",
    "Feature",
    "Flag",
    "MessageAddress",
    "Operations",
    "Ring",
    "RingInfo",
    "SupportsFileno",
    "UringProbe",
    "ZeroCopy",
    "graveyard",
    "probe_uring",
]
