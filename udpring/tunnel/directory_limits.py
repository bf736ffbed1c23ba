"""How much a node asks a directory for, and remembers of it. docs/limits.md lists these limits."""

from __future__ import annotations

from udpring._native import lib

KEYS_AT_ONCE = 256
"""Questions by key that may be open. Strangers cause them."""
ADDRESSES_AT_ONCE = 256
"""Questions by address that may be open. Packets from the interface cause them."""
KEYS_PER_SOURCE = 8
"""Of the questions by key, those that one source address (IPv6: one /64) may have open."""
INITIATIONS_PER_KEY = 4
"""Initiations that wait for the answer about their key; newer ones take the place of older ones."""
UNKNOWN_A_SECOND = 128
"""Initiations of unknown keys in a second. With more, the node takes itself to be under load."""
KEYS_REFUSED = 16384
"""Keys that are remembered as refused."""
ADDRESSES_REFUSED = 4096
"""And addresses."""
REFUSED_SECONDS = 30.0
"""An answer "no" counts for so long."""
FAILED_SECONDS = 5.0
"""A failure, a time-out or a wrong answer counts as "no" for so long."""
ANSWER_SECONDS_MAX = 30.0
"""The longest time that a program may give the directory. The plane keeps packets for twice as long."""
DEPARTED: int = lib.UDPRING_PEERS_MAX
"""Peers that left whose last timestamp and endpoint are remembered."""
LEAVING_A_TURN = 64
"""Peers that are looked at for idleness in one turn of the event loop."""
