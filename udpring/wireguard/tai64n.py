"""TAI64N timestamps: 8 bytes of seconds and 4 of nanoseconds, big-endian, so they compare as byte strings."""

from __future__ import annotations

import struct
from typing import Final

from .constants import SECOND, TIMESTAMP_MASK

__all__ = ["next_timestamp"]

_LAYOUT: Final = struct.Struct(">QI")
_EPOCH: Final = (
    0x400000000000000A  # 1970-01-01 in TAI64 plus ten leap seconds, the constant of all implementations
)
_STEP: Final = TIMESTAMP_MASK + 1


def next_timestamp(wall: int, previous: bytes | None) -> bytes:
    """The timestamp of a new initiation at ``wall`` (UTC epoch ns, not negative), later than ``previous``.

    The nanoseconds are masked. So two initiations within a step, and any after the clock was set back, would
    not be later than the last one, and the other side would drop them as replays. In these cases the last
    timestamp advances by one step.
    """
    seconds, nanoseconds = divmod(max(wall, 0), SECOND)
    stamp = _LAYOUT.pack(_EPOCH + seconds, nanoseconds & ~TIMESTAMP_MASK)
    if previous is None or stamp > previous:
        return stamp
    seconds, nanoseconds = _LAYOUT.unpack(previous)
    nanoseconds += _STEP
    if nanoseconds >= SECOND:
        seconds, nanoseconds = seconds + 1, 0
    return _LAYOUT.pack(seconds, nanoseconds)
