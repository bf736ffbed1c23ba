"""The only importer of the compiled module. It maps the return codes of the core to exceptions.

All other modules import ``ffi`` and ``lib`` from here. A C function returns a value >= 0, or -errno. Where
the cause needs words it also fills a ``struct udpring_reason``.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from udpring.errors import HostError, RingError, WrongThreadError

try:
    from udpring import _core
except ImportError as missing:
    text, cure = str(missing), "build it: scripts/bootstrap, or pip install ."
    if os.strerror(errno.EMFILE) in text:
        cure = "raise the limit: ulimit -n 1024"
    elif "map segment" in text or os.strerror(errno.ENOMEM) in text:
        cure = "free memory, or raise the limits (ulimit -v, the cgroup's memory.max)"
    raise HostError(f"udpring's compiled module cannot be loaded: {text}", cure=cure) from missing

ffi: Any = _core.ffi
lib: Any = _core.lib

# A wheel has no sources: its module and Python code were built together.
_native = os.path.join(os.path.dirname(__file__), "native")
if os.path.exists(os.path.join(_native, "abi.h")):
    from pathlib import Path

    from udpring._abi import abi_hash

    if abi_hash(Path(_native)) != ffi.string(lib.udpring_abi_hash()).decode():
        raise HostError(
            f"the compiled module {_core.__file__} was built from other abi.h files than {_native} has",
            cure="build it again: scripts/bootstrap",
        )

# Codes that concern the host rather than this call, and their cures.
_HOST_CURES = {
    errno.ENOSYS: "the kernel or a sandbox lacks the system call; use tier mmsg or another host",
}


def reason() -> Any:
    """A fresh ``struct udpring_reason`` to pass as the last argument."""
    return ffi.new("struct udpring_reason *")


def reason_text(why: Any) -> str:
    """The text in a ``struct udpring_reason``; empty where the core wrote none."""
    text: str = ffi.string(why.text).decode("utf-8", "replace")
    return text


def check(code: int, what: str, why: Any = None) -> int:
    """Returns ``code`` unless it is an error.

    ``what`` names the operation and its object; ``why`` is the reason struct that went with the call.
    Raises WrongThreadError (EEXIST from a ring of another thread is reported as EXDEV by the core),
    HostError (ENOSYS), RingError (all else).
    """
    if code >= 0:
        return code
    number = -code
    detail = reason_text(why) if why is not None else ""
    text = f"{what}: {detail or os.strerror(number)}"
    if number == errno.EXDEV:
        owner = "this ring belongs to another thread, or to the process that this one was forked from"
        raise WrongThreadError(f"{what}: {detail}: {owner}" if detail else f"{what}: {owner}")
    if number in _HOST_CURES:
        raise HostError(text, errno=number, cure="" if detail else _HOST_CURES[number])
    raise RingError(text, errno=number)
