"""Builds tests.native._internals: the core once more, with functions that only tests call.

setup.py builds it only where UDPRING_TESTS=1, which the scripts set that run tests: no wheel holds it.
"""

import runpy
from pathlib import Path

HERE = Path(__file__).resolve().parent
core = runpy.run_path(str(HERE.parent.parent / "udpring" / "native" / "build.py"))
native_hash = runpy.run_path(str(HERE.parent / "native_hash.py"))["native_hash"]

ffibuilder = core["make_builder"](
    "tests.native._internals",
    [HERE / "abi.h"],
    [*core["sources"](HERE), *core["sources"](core["HERE"])],
    ("internals_hash", native_hash()),
    types_of=core["ffibuilder"],
)
