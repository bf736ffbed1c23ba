"""The internals of the core for tests, which the product's module does not offer.

``lib`` has the functions of tests/native/abi.h, and all of the product's ``lib``. ``ffi`` shares the types of
the product's ``ffi``. A function that takes a plane or a ring works on those of the product's module: both
modules are built from the same sources. A module that was built from others is refused.
"""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from native_hash import native_hash

from udpring import _native

__all__ = ["ffi", "lib"]

_NAME = "tests.native._internals"
_CURE = "build it: scripts/bootstrap, or UDPRING_TESTS=1 python setup.py build_ext --inplace"


def _load() -> ModuleType:
    """The module that was built together with the product's: of a sanitised core the sanitised one."""
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    top = Path(_native._core.__file__).parent.parent
    found = list((top / "tests" / "native").glob("_internals.*so"))
    if not found:
        raise ImportError(f"no _internals module in {top}/tests/native: {_CURE}")
    spec = spec_from_file_location(_NAME, found[0], loader=ExtensionFileLoader(_NAME, str(found[0])))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    built: str = module.ffi.string(module.lib.internals_hash()).decode()
    if built != native_hash():
        raise ImportError(f"{found[0]} was built from other sources than the checkout has: {_CURE}")
    sys.modules[_NAME] = module
    return module


_module = _load()
ffi: Any = _module.ffi
lib: Any = _module.lib
