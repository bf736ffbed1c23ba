"""Comparison of secrets in constant time, by CPython's own function.

``hmac`` exports the same function, but also loads OpenSSL for its hashes (see ``blake2s``).
"""

from __future__ import annotations

from _operator import _compare_digest as compare_digest

__all__ = ["compare_digest"]
