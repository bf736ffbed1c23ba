"""Many datagrams a call: ``RecvRing`` and ``SendRing`` on the three tiers."""

import importlib
import typing

from udpring.udp.tiers import TIERS

if typing.TYPE_CHECKING:
    from udpring.udp.address import Address, AddressList, SourceList
    from udpring.udp.batch import Batch, BatchSlice, Packet
    from udpring.udp.receive import RecvRing
    from udpring.udp.send import SendReport, SendRing, Ticket

__all__ = [
    "TIERS",
    "Address",
    "AddressList",
    "Batch",
    "BatchSlice",
    "Packet",
    "RecvRing",
    "SendReport",
    "SendRing",
    "SourceList",
    "Ticket",
]

# Imported when a name is first used: a node needs the tiers alone.
_LAZY = {
    "Address": "udpring.udp.address",
    "AddressList": "udpring.udp.address",
    "Batch": "udpring.udp.batch",
    "BatchSlice": "udpring.udp.batch",
    "Packet": "udpring.udp.batch",
    "RecvRing": "udpring.udp.receive",
    "SendReport": "udpring.udp.send",
    "SendRing": "udpring.udp.send",
    "SourceList": "udpring.udp.address",
    "Ticket": "udpring.udp.send",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
