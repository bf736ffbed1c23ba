"""Builds udpring_tools._bench: the C of the benchmarks, and the AEADs of the core that they measure."""

import runpy
from pathlib import Path

HERE = Path(__file__).resolve().parent
core = runpy.run_path(str(HERE.parent.parent / "udpring" / "native" / "build.py"))
NATIVE = core["HERE"]

ffibuilder = core["make_builder"](
    "udpring_tools._bench",
    [HERE / "abi.h"],
    [
        *core["sources"](HERE),
        *core["sources"](NATIVE, "base.c"),
        *core["sources"](NATIVE, "secret.c"),
        *core["sources"](NATIVE, "tunnel/crypto/aead*.c"),
    ],
    ("bench_abi_hash", core["abi_hash"](NATIVE)),
)
