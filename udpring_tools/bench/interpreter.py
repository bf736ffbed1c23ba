"""Command lines that run a module of this installation in another process.

The interpreter's option -m puts the current directory first on ``sys.path``, so a folder named ``udpring``
there would be executed, as root. ``-P`` omits the directory. ``-I`` would also ignore PYTHONPATH, which
selects the build under test.
"""

from __future__ import annotations

import sys

__all__ = ["module_argv"]


def module_argv(module: str, *words: str) -> list[str]:
    """The command line that runs ``module`` with these arguments, with any current directory."""
    return [sys.executable, "-P", "-m", module, *words]
