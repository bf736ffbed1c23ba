"""The compiled modules of the tests and of the benchmarks go with the product's module, or are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def refusal(program: str) -> str:
    """The standard error of a Python program, which must fail."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(HERE)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    return done.stderr


def test_internals_of_other_sources_are_refused() -> None:
    said = refusal("import native_hash\nnative_hash.native_hash = lambda: 'other'\nimport core_internals")
    assert "was built from other sources than the checkout has: build it" in said


def test_benchmarks_of_another_core_are_refused() -> None:
    said = refusal(
        "from types import SimpleNamespace\n"
        "from udpring import _native\n"
        "other = _native.ffi.new('char[]', b'other')\n"
        "_native.lib = SimpleNamespace(udpring_abi_hash=lambda: other)\n"
        "import udpring_tools._native"
    )
    assert "was built for another udpring than the one that is installed" in said
    assert "build it again: scripts/bootstrap" in said
