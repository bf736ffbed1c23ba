"""Compiled module, made by cffi from udpring_tools/native: untyped; imported by _native.py only."""

from typing import Any

ffi: Any
lib: Any
