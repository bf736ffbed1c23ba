"""Many datagrams a call: ``RecvRing`` and ``SendRing`` on the three tiers."""

from udpring.udp.address import Address, AddressList
from udpring.udp.batch import Batch, BatchSlice, Packet
from udpring.udp.receive import RecvRing
from udpring.udp.send import SendReport, SendRing, Ticket
from udpring.udp.tiers import TIERS

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
    "Ticket",
]
