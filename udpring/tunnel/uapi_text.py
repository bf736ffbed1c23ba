"""The answer to ``get``. C writes the lines of peers (``native/tunnel/worker/peers_text.c``), from what the
plane knows of each and from what is packed here: keys and settings, which are Python's."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from udpring._native import ffi
from udpring.tunnel.tunnel import Tunnel
from udpring.tunnel.uapi_values import NO_KEY, OFFLOAD_WORDS
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.peer import Peer

__all__ = ["get_answer", "pack_settings"]

PEERS_A_PIECE = 256
_SETTINGS = struct.Struct("=32s32sQIII44s")
assert _SETTINGS.size == ffi.sizeof("struct udpring_peer_settings")
_pack = _SETTINGS.pack
_SECOND = 1_000_000_000


def pack_settings(peer: Peer, offload: bool | None) -> bytes:
    """``struct udpring_peer_settings``. Lines that ``wg`` does not know are there where they say more."""
    extra = b""
    if peer.cipher is not Cipher.CHACHA20_POLY1305:
        extra = b"cipher=%s\n" % peer.cipher.encode()
    if offload is not None:
        extra += b"offload=%s\n" % OFFLOAD_WORDS[offload].encode()
    wall = peer.last_handshake_wall
    return _pack(
        peer.public_key,
        peer.preshared_key or NO_KEY,
        wall // _SECOND,
        wall % _SECOND,
        peer.persistent_keepalive,
        peer.id,
        extra,
    )


def get_answer(tunnel: Tunnel) -> Iterator[bytes]:
    """The answer in pieces, without the status that ``uapi.format_status`` adds. Counters are current.
    Contains private and preshared keys for ``wg showconf``, so only root may use the socket."""
    lines = b""
    if tunnel.private_key is not None:
        lines += b"private_key=%s\n" % tunnel.private_key.hex().encode()
    if tunnel.listen_port:
        lines += b"listen_port=%d\n" % tunnel.listen_port
    if tunnel.fwmark:
        lines += b"fwmark=%d\n" % tunnel.fwmark
    if tunnel.paused:
        lines += b"paused=true\n"
    if tunnel.offload is not None:
        lines += b"offload=%s\n" % OFFLOAD_WORDS[tunnel.offload].encode()
    yield lines
    known = tunnel.device.by_id
    peers = list(known.values())
    for start in range(0, len(peers), PEERS_A_PIECE):
        some = peers[start : start + PEERS_A_PIECE]
        # Between two pieces another client may have removed one of them.
        settings = [pack_settings(peer, tunnel.peer_offload(peer.id)) for peer in some if peer.id in known]
        yield from tunnel.plane.peers_text(settings)
