"""How long the core may wait at once.

A signal that another thread takes, or that arrives just before a wait begins, does not interrupt the wait:
Python has noted it and handles it when the core returns. So the core returns now and then.
"""

from __future__ import annotations

__all__ = ["WAIT_SLICE_NS", "wait_slice"]

WAIT_SLICE_NS = 200_000_000


def wait_slice(left: int) -> int:
    """The next wait in nanoseconds, of ``left`` that remain; -1: for ever."""
    return WAIT_SLICE_NS if left < 0 else min(left, WAIT_SLICE_NS)
