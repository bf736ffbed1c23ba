"""The only importer of the compiled module of the benchmarks."""

from __future__ import annotations

from typing import Any

from udpring._native import lib as core
from udpring.errors import HostError

try:
    from udpring_tools import _bench
except ImportError as missing:
    raise HostError(
        f"the compiled module of the benchmarks cannot be loaded: {missing}",
        cure="build it: scripts/bootstrap, or pip install .",
    ) from missing

ffi: Any = _bench.ffi
lib: Any = _bench.lib

if ffi.string(lib.bench_abi_hash()) != ffi.string(core.udpring_abi_hash()):
    raise HostError(
        f"the compiled module {_bench.__file__} was built for another udpring than the one that is installed",
        cure="build it again: scripts/bootstrap, or pip install .",
    )
