"""BLAKE2s, the hash of the protocol, from CPython's own module.

``hashlib`` has the same class, but first loads OpenSSL for other hashes. The core of a wheel has an OpenSSL,
so a node would have two.
"""

from __future__ import annotations

try:
    from _blake2 import blake2s
except ImportError:  # an interpreter that has it elsewhere
    from hashlib import blake2s

__all__ = ["blake2s"]
