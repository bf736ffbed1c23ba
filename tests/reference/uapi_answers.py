"""The answer to a get request of the UAPI, in Python: what ``native/tunnel/worker/peers_text.c`` writes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from udpring.tunnel.uapi_values import (
    NO_KEY,
    OFFLOAD_WORDS,
    DeviceInfo,
    PeerInfo,
    format_endpoint,
    format_prefix,
)
from udpring.wireguard.cipher import Cipher

SETTINGS = struct.Struct("=32s32sQIII44s")
"""``struct udpring_peer_settings``."""


def format_get(state: DeviceInfo) -> Iterator[bytes]:
    """The lines of an answer, without its status."""
    if state.private_key is not None:
        yield b"private_key=%s\n" % state.private_key.hex().encode()
    if state.listen_port:
        yield b"listen_port=%d\n" % state.listen_port
    if state.fwmark:
        yield b"fwmark=%d\n" % state.fwmark
    if state.paused:
        yield b"paused=true\n"
    if state.offload is not None:
        yield b"offload=%s\n" % OFFLOAD_WORDS[state.offload].encode()
    for peer in state.peers:
        yield from peer_lines(peer)


def peer_lines(peer: PeerInfo) -> Iterator[bytes]:
    """The lines of one peer."""
    seconds, nanoseconds = divmod(peer.last_handshake, 1_000_000_000)
    yield b"public_key=%s\npreshared_key=%s\nprotocol_version=1\n" % (
        peer.public_key.hex().encode(),
        (peer.preshared_key or NO_KEY).hex().encode(),
    )
    if peer.endpoint is not None:
        yield b"endpoint=%s\n" % format_endpoint(*peer.endpoint).encode()
    yield b"last_handshake_time_sec=%d\nlast_handshake_time_nsec=%d\n" % (seconds, nanoseconds)
    yield b"tx_bytes=%d\nrx_bytes=%d\n" % (peer.tx_bytes, peer.rx_bytes)
    yield b"persistent_keepalive_interval=%d\n" % peer.persistent_keepalive
    if peer.cipher is not Cipher.CHACHA20_POLY1305:
        yield b"cipher=%s\n" % peer.cipher.encode()
    if peer.offload is not None:
        yield b"offload=%s\n" % OFFLOAD_WORDS[peer.offload].encode()
    for ip, cidr in peer.allowed_ips:
        yield b"allowed_ip=%s\n" % format_prefix(ip, cidr).encode()
