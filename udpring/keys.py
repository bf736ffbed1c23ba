"""WireGuard keys for programs: ``udpring.keys``.

A key is 32 bytes. ``generate_private_key``, ``generate_preshared_key`` and ``public_key`` make keys as ``wg``
does. ``from_base64`` and ``to_base64`` convert to and from the text of configuration files, ``from_hex`` and
``to_hex`` those of the UAPI. A text that is no key raises ``KeyFormatError``, which shows nothing of it.
"""

from __future__ import annotations

from udpring.tunnel.keys import (
    KEY_LENGTH,
    KeyFormatError,
    from_base64,
    from_hex,
    generate_preshared_key,
    generate_private_key,
    public_key,
    to_base64,
    to_hex,
)

__all__ = [
    "KEY_LENGTH",
    "KeyFormatError",
    "from_base64",
    "from_hex",
    "generate_preshared_key",
    "generate_private_key",
    "public_key",
    "to_base64",
    "to_hex",
]
