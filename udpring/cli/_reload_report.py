"""The report of ``udpring reload``: what has changed, and what only ``down`` and ``up`` can change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from udpring.tunnel.config import Config

__all__ = ["changes", "stays"]

_KEYS = {
    "private_key": "PrivateKey",
    "listen_port": "ListenPort",
    "fwmark": "FwMark",
    "addresses": "Address",
    "dns": "DNS",
    "dns_search": "DNS",
    "mtu": "MTU",
    "table": "Table",
    "pre_up": "PreUp",
    "post_up": "PostUp",
    "pre_down": "PreDown",
    "post_down": "PostDown",
    "save_config": "SaveConfig",
    "offload": "Offload",
}
"""The key in the file of each setting of the interface."""


def changes(before: Config, now: Config) -> str:
    """The differences, by name, without values. Empty: there are none."""
    own, new = before.interface, now.interface
    changed = {
        _KEYS[field.name]: None
        for field in fields(own)
        if getattr(own, field.name) != getattr(new, field.name)
        # Without one in the file, the key that PostUp or wg set stays.
        and not (field.name == "private_key" and new.private_key is None)
    }
    former = {peer.public_key: peer for peer in before.peers}
    wanted = {peer.public_key: peer for peer in now.peers}
    counts = (
        (len(wanted.keys() - former.keys()), "added"),
        (len(former.keys() - wanted.keys()), "removed"),
        (sum(peer != former[key] for key, peer in wanted.items() if key in former), "changed"),
    )
    peers = ", ".join(f"{count} {word}" for count, word in counts if count)
    return "; ".join(filter(None, (", ".join(changed), f"peers: {peers}" if peers else "")))


def stays(before: Config, now: Config) -> Iterator[str]:
    """A sentence for each change that a running node does not make."""
    own, new = before.interface, now.interface
    for key, former, hooks in (("PreUp", own.pre_up, new.pre_up), ("PostUp", own.post_up, new.post_up)):
        if former != hooks:
            yield f"{key} has changed. Its commands run at the next udpring up"
    for key, had, has in (
        ("ListenPort", own.listen_port, new.listen_port),
        ("MTU", own.mtu, new.mtu),
    ):
        if had and not has:
            yield f"{key} is no longer set. The present value stays until udpring down and udpring up"
