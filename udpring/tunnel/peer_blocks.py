"""Peers of a UAPI set request, read by C many at a time (``native/tunnel/peers/peer_blocks.c``).

C reads the blocks that ``wg`` writes for nearly every peer. It stops at a block with any other line, which
``uapi.RequestParser`` then reads line by line: that parser has the rules, and the words for what is wrong.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple, TypeAlias

from udpring._native import ffi, lib

__all__ = ["BLOCKS_MAX", "BLOCK_BEGIN", "Block", "PeerBlocks", "Record"]

BLOCK_BEGIN = b"public_key="
"""A block's first line begins so."""
BLOCKS_MAX: int = lib.UDPRING_BLOCKS_MAX

_BLOCK = struct.Struct("=32s32sHHI16sIIII")
assert _BLOCK.size == ffi.sizeof("struct udpring_peer_block")
_PREFIX = struct.Struct("=16sHBBI")
assert _PREFIX.size == ffi.sizeof("struct udpring_prefix")
_INET = int(socket.AF_INET)

Record: TypeAlias = tuple[Any, ...]


class Block(NamedTuple):
    """``struct udpring_peer_block``. Those that set no preshared key or endpoint have zeros there."""

    public_key: bytes
    preshared_key: bytes
    family: int
    port: int
    scope_id: int
    ip: bytes
    flags: int
    keepalive: int
    first_prefix: int
    prefix_count: int

    def __repr__(self) -> str:
        return f"Block(public_key={self.public_key.hex()})"


class PeerBlocks:
    """Room for ``BLOCKS_MAX`` blocks, used over and over. Zeroise it once they have been applied."""

    def __init__(self) -> None:
        self._memory = bytearray(BLOCKS_MAX * _BLOCK.size)
        self._prefixes = ffi.new("struct udpring_prefix[]", lib.UDPRING_BLOCK_PREFIXES_MAX)
        self.raw: Any = ffi.new("struct udpring_peer_blocks *")
        self.raw.blocks = self._blocks = ffi.from_buffer("struct udpring_peer_block[]", self._memory)
        self.raw.prefixes = self._prefixes
        self.lines = 0
        """Of the blocks that were read."""
        self.unfinished = False
        """The text ends within a further block, which may be like these."""

    def read(self, text: bytes, start: int) -> int:
        """Reads blocks from there on and returns how many bytes they have. 0: none was read."""
        raw = self.raw
        lib.udpring_peer_blocks_read(ffi.from_buffer("uint8_t[]", text) + start, len(text) - start, raw)
        self.lines = raw.lines
        self.unfinished = bool(raw.more)
        return int(raw.bytes)

    def records(self) -> list[Record]:
        """Those that were read last, as plain tuples in the order of ``Block``."""
        with memoryview(self._memory) as view:
            return list(_BLOCK.iter_unpack(view[: self.raw.count * _BLOCK.size]))

    def blocks(self) -> list[Block]:
        """Those that were read last."""
        return [Block._make(record) for record in self.records()]

    def allowed_ips(self, block: Block) -> list[tuple[bytes, int]]:
        """The allowed IPs of a block as (network, bits)."""
        start, size = block.first_prefix * _PREFIX.size, block.prefix_count * _PREFIX.size
        listed = _PREFIX.iter_unpack(ffi.buffer(self._prefixes)[start : start + size])
        return [(ip[:4] if family == _INET else ip, bits) for ip, family, bits, _, _ in listed]

    def zeroise(self) -> None:
        """The memory may hold preshared keys."""
        self._memory[: self.raw.count * _BLOCK.size] = bytes(self.raw.count * _BLOCK.size)
        self.raw.count = 0
