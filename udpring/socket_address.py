"""How the ``socket`` module writes the address of a UDP endpoint. The one definition for all rooms."""

from __future__ import annotations

__all__ = ["Address"]

Address = tuple[str, int] | tuple[str, int, int, int]
"""(host, port), or for IPv6 (host, port, flowinfo, scope_id)."""
