"""One number for the sources that the tests' extension is built from."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["native_hash"]

TOP = Path(__file__).resolve().parent.parent


def native_hash() -> str:
    """The hash over the C files of the core and of tests/native."""
    folders = TOP / "udpring" / "native", TOP / "tests" / "native"
    total = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*.[ch]")):
        total.update(f"{path.relative_to(TOP).as_posix()}\0{path.read_text()}\0".encode())
    return total.hexdigest()[:16]
