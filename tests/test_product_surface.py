"""The product's modules offer only functions that the product uses. Those for tests are in tests/native."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from core_internals import lib as internals
from native_graph import NATIVE, objects_folder, sources, symbols

from udpring import _native
from udpring_tools import _native as tools

TOP = Path(__file__).resolve().parent.parent


def used_by(*packages: str) -> set[str]:
    """The names that Python modules take from a compiled module: ``lib.name``, ``core.name``, or a function's
    name for ``ffi.addressof``."""
    names = set()
    for package in packages:
        for path in (TOP / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute):
                    names.add(node.attr)
                elif isinstance(node, ast.Constant) and str(node.value).startswith("udpring_"):
                    names.add(str(node.value))
    return names


def functions(lib: Any) -> set[str]:
    return {name for name in dir(lib) if callable(getattr(lib, name))}


def unused(names: Iterable[str], used: set[str]) -> list[str]:
    return sorted(set(names) - used)


@pytest.mark.parametrize("module", [_native._core, tools._bench], ids=lambda module: str(module.__name__))
def test_a_module_exports_only_its_entry(module: Any) -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", module.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"\S+$", listed, re.MULTILINE) == [f"PyInit_{module.__name__.rpartition('.')[2]}"]


def test_the_product_uses_every_function_of_its_module() -> None:
    assert not unused(functions(_native.lib), used_by("udpring")), "what only tests call: tests/native"
    assert not unused(functions(tools.lib), used_by("udpring_tools"))


def test_the_product_uses_every_constant_of_its_module() -> None:
    """In Python, or in the core outside the abi.h."""
    core = " ".join(path.read_text() for path in sources() if path.name != "abi.h")
    used = used_by("udpring") | set(re.findall(r"\bUDPRING_\w+", core))
    assert not unused(set(dir(_native.lib)) - functions(_native.lib), used)


def test_a_function_for_tests_alone_is_seen() -> None:
    added = functions(internals) - functions(_native.lib)
    assert len(added) > 30
    assert unused(added, used_by("udpring")) == sorted(added)


def test_the_core_uses_every_function_that_it_defines() -> None:
    found = symbols(objects_folder())
    used = functions(_native.lib).union(*(needed for _, needed in found.values()))
    dead = [
        f"{name}: {symbol}"
        for name, (defined, _) in found.items()
        for symbol in defined - used
        if len(re.findall(rf"\b{symbol}\b", (NATIVE / name).read_text())) < 2
    ]
    assert not dead, "remove it, or move it to tests/native"
