"""The configuration of a live node, where ``wg`` or the program changed its settings."""

from __future__ import annotations

from dataclasses import replace

from udpring.tunnel.config import InterfaceConfig
from udpring.tunnel.keys import clamp
from udpring.tunnel.tunnel import Tunnel

__all__ = ["changed_interface"]


def changed_interface(own: InterfaceConfig, tunnel: Tunnel, applied: tuple[int, int, int]) -> InterfaceConfig:
    """``own`` with the settings that the tunnel has now. ``applied``: ``Tunnel.settings`` when ``own`` was
    true. A port or a mark that the node itself chose stays out of it."""
    _, port, mark = applied
    key = tunnel.private_key
    if key is not None and own.private_key is not None and clamp(own.private_key) == key:
        key = own.private_key
    return replace(
        own,
        private_key=key,
        listen_port=own.listen_port if tunnel.listen_port == port else tunnel.listen_port,
        fwmark=own.fwmark if tunnel.fwmark == mark else tunnel.fwmark,
        offload=tunnel.offload,
    )
