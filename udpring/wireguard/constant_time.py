"""Comparison of secrets in constant time, by CPython's own function.

``hmac`` has the same one, and takes it from there, but also loads OpenSSL for its hashes (``blake2s``).
"""

from __future__ import annotations

from _operator import _compare_digest as compare_digest

__all__ = ["compare_digest"]
