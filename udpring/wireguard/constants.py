"""The numbers of the protocol (whitepaper sections 5 and 6), apart from the limits this implementation chose.

The core counts messages on a key, pads packets and keeps the replay window. Those numbers are in
native/tunnel/messages.h and replay.h. All times are nanoseconds. Where the whitepaper leaves room, the values
are those of the kernel's ``src/messages.h``.
"""

from __future__ import annotations

from typing import Final

__all__: list[str] = []  # read as a module: ``from udpring.wireguard import constants``

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000

# ---- specification: names (whitepaper section 5.4) ----
CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"

# ---- specification: sizes in bytes ----
KEY_LENGTH: Final = 32
TAG_LENGTH: Final = 16
MAC_LENGTH: Final = 16
TIMESTAMP_LENGTH: Final = 12

# ---- specification: time (sections 6.1 to 6.5) ----
REKEY_AFTER_TIME: Final = 120 * SECOND
REJECT_AFTER_TIME: Final = 180 * SECOND
REKEY_TIMEOUT: Final = 5 * SECOND
REKEY_TIMEOUT_JITTER: Final = 333 * MILLISECOND
REKEY_ATTEMPT_TIME: Final = 90 * SECOND
KEEPALIVE_TIMEOUT: Final = 10 * SECOND
COOKIE_SECRET_LIFETIME: Final = 120 * SECOND
ERASE_AFTER_TIME: Final = 3 * REJECT_AFTER_TIME

# Derived from those.
NEW_HANDSHAKE_TIMEOUT: Final = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
MAX_RETRIES: Final = REKEY_ATTEMPT_TIME // REKEY_TIMEOUT

# ---- implementation: as the kernel chose them ----
COOKIE_LATENCY: Final = 5 * SECOND
"""A cookie is used for this much less than its secret's life: it may have been in transit for as long."""
INITIATION_INTERVAL: Final = 20 * MILLISECOND
"""Initiations of one peer that follow each other faster than this are not answered (50 a second)."""
TIMESTAMP_MASK: Final = 0xFFFFFF
"""These bits of a timestamp's nanoseconds are sent as zero: steps of 16.8 ms reveal less about the clock."""
RATE_PER_SECOND: Final = 20
RATE_BURST: Final = 5

# ---- implementation: ours ----
CROSSING_TIME: Final = 1 * SECOND
"""An initiation that arrives this soon after our own may have crossed it: see ``peer.py``."""
PATH_CHANGE_TIMEOUT: Final = 1 * SECOND
"""In place of REKEY_TIMEOUT if the path of packets has changed since the last handshake message."""
RATE_TABLE_SIZE: Final = 16384
"""Sources in the table of the rate limiter. A source is forgotten when its bucket is full again (250 ms)."""
MAX_PERSISTENT_KEEPALIVE: Final = 65535
"""Seconds; the UAPI's limit."""
