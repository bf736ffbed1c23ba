"""Compiled module, made by cffi from udpring/native: untyped; imported by udpring/_native.py only."""

from typing import Any

ffi: Any
lib: Any
