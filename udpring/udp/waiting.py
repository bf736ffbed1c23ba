"""The longest wait in the core.

A signal does not interrupt a wait if another thread takes it, or if it arrives just before the wait begins.
Python handles it when the core returns, so the core returns every fifth of a second.
"""

from __future__ import annotations

__all__ = ["WAIT_SLICE_NS", "nanoseconds", "wait_slice"]

WAIT_SLICE_NS = 200_000_000
_FOR_EVER = 1e9  # seconds: 31 years


def nanoseconds(timeout: float) -> int:
    """A timeout in seconds as nanoseconds. 0: it has passed. -1: it never does (infinity).

    Raises TypeError if it is no number, ValueError for NaN.
    """
    try:
        if timeout <= 0:
            return 0
        if timeout >= _FOR_EVER:
            return -1
        return int(timeout * 1e9)
    except TypeError:
        raise TypeError(
            f"a timeout is a number of seconds, or None to wait for ever, not {timeout!r}"
        ) from None
    except ValueError:
        raise ValueError(
            f"a timeout is a number of seconds, or None to wait for ever, not {timeout}"
        ) from None


def wait_slice(left: int) -> int:
    """The next wait in nanoseconds, when ``left`` remain. -1: for ever."""
    return WAIT_SLICE_NS if left < 0 else min(left, WAIT_SLICE_NS)
