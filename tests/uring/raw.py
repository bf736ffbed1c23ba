"""Raw submission entries, for malformed operations that Ring does not offer."""

from __future__ import annotations

import struct

from core_internals import lib

from udpring.uring import Ring

NOP = 0
UNKNOWN_OPCODE = 255
CQE_SKIP_SUCCESS = 64


def sqe(opcode: int, *, flags: int = 0, fd: int = -1, user_data: int = 0) -> bytes:
    """opcode, flags, ioprio, fd, off, addr, len, op_flags, user_data, and 24 more bytes."""
    return struct.pack("=BBHiQQIIQ24x", opcode, flags, 0, fd, 0, 0, 0, 0, user_data)


def queue(ring: Ring, entry: bytes) -> None:
    """Puts the entry into the submission queue unchanged."""
    assert lib.udpring_ring_raw(ring._native, entry) == 0
