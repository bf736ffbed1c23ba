"""One number for the interface between the core and Python: a hash of the abi.h files.

The build puts it into the compiled module, and ``_native`` compares it with the files next to the Python
code. So nobody has to raise a number after a change of an abi.h, and an outdated module is refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["abi_hash"]


def abi_hash(native: Path) -> str:
    """The hash over all abi.h below ``native``. Empty if there are none, as in an installed wheel."""
    files = sorted(native.rglob("abi.h"))
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(native).as_posix()}\0{path.read_text()}\0".encode())
    return total.hexdigest()[:16] if files else ""
