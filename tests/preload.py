"""Builds a library that replaces functions of the C library in a program, by LD_PRELOAD (ld.so(8)).

A seccomp filter (seccomp.py) sees the numbers passed to a system call. Such a library also sees the memory
behind pointers and can count calls. Use it for failures that depend on either.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

__all__ = ["build", "preload"]


def build(source: Path, directory: Path) -> Path:
    """The library of one C file, in ``directory``."""
    library = directory / f"{source.stem}.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    # The compiler must not run under the sanitisers of this interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [*compiler, *flags, source, "-o", library, "-ldl"]
    subprocess.run(command, check=True, env=environment, timeout=300)
    return library


def preload(library: Path, *, first: bool = False) -> str:
    """The value of LD_PRELOAD. The sanitisers want to be first; ``before`` puts the library before them."""
    inherited = os.environ.get("LD_PRELOAD", "")
    return (f"{library} {inherited}" if first else f"{inherited} {library}").strip()
