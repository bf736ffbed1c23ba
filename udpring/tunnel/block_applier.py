"""Applies the plain peers of a UAPI set request to a tunnel, up to ``BLOCKS_MAX`` at a time.

1. C reads blocks from the text (``peer_blocks``).
2. The plane gets the new peers in one command, and endpoints and allowed IPs of all blocks in a second one.
   It leaves alone what is so already.
3. The protocol gets the new peers, and the settings that differ.

The result is the same as that of ``RequestApplier``, line by line. A block that cannot be applied is left to
that one, which then fails at the right line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from udpring._native import lib
from udpring.tunnel.peer_blocks import BLOCK_BEGIN, PeerBlocks, Record
from udpring.tunnel.tunnel import MAX_PEERS, Tunnel
from udpring.tunnel.uapi_values import NO_KEY
from udpring.wireguard.peer import Peer

__all__ = ["BlockApplier"]

_PRESHARED_KEY: int = lib.UDPRING_BLOCK_PRESHARED_KEY
_KEEPALIVE: int = lib.UDPRING_BLOCK_KEEPALIVE
_SETTINGS = _PRESHARED_KEY | _KEEPALIVE
_ENDPOINT: int = lib.UDPRING_BLOCK_ENDPOINT
_CHANGED: int = lib.UDPRING_BLOCK_CHANGED
_STAGED: int = lib.UDPRING_BLOCK_STAGED


class BlockApplier:
    """For all clients of a server: no call waits for anything."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._read: PeerBlocks | None = None  # many nodes never get a request
        self.lines = 0
        """That the last ``take`` applied."""
        self.unfinished = False
        """The text ends within a block. With its rest, ``take`` may apply it."""

    def take(self, text: bytes, start: int) -> int:
        """Applies blocks from the beginning of one on. Returns how many bytes they have. 0: none was
        applied."""
        read = self._read = self._read or PeerBlocks()
        try:
            size = read.read(text, start)
            self.lines, self.unfinished = read.lines, read.unfinished
            blocks = read.records()
            done = self._apply(read, self._suitable(blocks))
        finally:
            read.zeroise()
        if done == len(blocks):
            return size
        self.unfinished = False
        return self._measure(text, start, done)

    def _measure(self, text: bytes, start: int, blocks: int) -> int:
        """The bytes of the first blocks, and their lines."""
        end = start
        for _ in range(blocks):
            end = text.index(b"\n" + BLOCK_BEGIN, end) + 1
        self.lines = text.count(b"\n", start, end)
        return end - start

    def _suitable(self, blocks: list[Record]) -> list[Record]:
        """The first ones that may be applied together: no key twice, and not the node's own, which is
        ignored."""
        own = self._tunnel.device.public_key
        keys = {block[0] for block in blocks}
        if len(keys) == len(blocks) and own not in keys:
            return blocks
        keys = set() if own is None else {own}
        for position, block in enumerate(blocks):
            if block[0] in keys:
                return blocks[:position]
            keys.add(block[0])
        return blocks

    def _apply(self, read: PeerBlocks, blocks: Sequence[Record]) -> int:
        """Returns how many were applied."""
        tunnel = self._tunnel
        known = tunnel.device.peers
        peers = [known.get(block[0]) for block in blocks]
        new = peers.count(None)
        fresh: list[int] = []
        if new and len(known) + new <= MAX_PEERS:
            fresh = tunnel.plane.peers_add(new)
        if len(fresh) < new:
            tunnel.plane.peers_remove(fresh)
            return 0
        unused = iter(fresh)
        numbers = [next(unused) if peer is None else peer.id for peer in peers]
        outcomes = b""
        try:
            outcomes = tunnel.plane.apply_blocks(read, numbers) if numbers else b""
        finally:
            self._remove_new(zip(numbers[len(outcomes) :], peers[len(outcomes) :], strict=True))
        changed = False
        applied = zip(blocks, numbers, peers, outcomes, strict=False)
        try:
            for block, number, peer, outcome in applied:
                if block[6] & _ENDPOINT:
                    tunnel.control.following.forget(block[0])
                if outcome or peer is None or block[6] & _SETTINGS:
                    added = peer or tunnel.register_peer(number, block[0])
                    changed |= self._settle(block, added, outcome, new=peer is None)
        except BaseException:
            self._remove_new((number, peer) for _, number, peer, _ in applied)  # the rest
            raise
        finally:
            if changed:
                tunnel.note_change()
        return len(outcomes)

    def _remove_new(self, peers: Iterable[tuple[int, Peer | None]]) -> None:
        """Takes from the plane those that the protocol does not know."""
        self._tunnel.plane.peers_remove([number for number, peer in peers if peer is None])

    def _settle(self, block: Record, peer: Peer, outcome: int, *, new: bool) -> bool:
        """Gives the protocol what the block says of a peer. Whether anything differs."""
        tunnel = self._tunnel
        _, preshared_key, _, _, _, _, flags, keepalive, _, _ = block
        changed = new or bool(outcome & _CHANGED)
        if flags & _PRESHARED_KEY and preshared_key != (peer.preshared_key or NO_KEY):
            peer.set_preshared_key(preshared_key)
            changed = True
        if flags & _KEEPALIVE and keepalive != peer.persistent_keepalive:
            tunnel.set_keepalive(peer.id, keepalive)
            changed = True
        if (changed and not new) or outcome & _STAGED:
            tunnel.start_peer(peer.id)
        return changed
