"""The table of operations, as the core has it (UDPRING_OPERATIONS in native/uring/abi.h)."""

from __future__ import annotations

from dataclasses import dataclass

from udpring._native import ffi, lib

__all__ = ["OPERATIONS", "OperationRow", "row_of"]


@dataclass(frozen=True, slots=True)
class OperationRow:
    """What the table says about an operation."""

    number: int
    name: str
    opcode: int
    """The kernel's IORING_OP_*."""
    since: tuple[int, int]
    """The kernel that first has it, by its release. Distributions may have it earlier."""
    registered_files: bool
    """Whether it takes ``Flag.FIXED_FILE``."""
    skips: bool
    """Whether it takes ``Flag.SKIP_SUCCESS``: it owns no memory, and its errors have completions."""
    breaks_chain: bool
    """Whether an error cancels the operations that are linked behind it. The kernel takes errors of fsync and
    of operations on paths for successes."""


def _read() -> dict[str, OperationRow]:
    native = ffi.new("struct udpring_operation_row *")
    found = {}
    for number in range(lib.UDPRING_OP_COUNT):
        lib.udpring_operation_row(number, native)
        name = ffi.string(native.name).decode()
        found[name] = OperationRow(
            number,
            name,
            native.opcode,
            divmod(native.since, 100),
            bool(native.registered_files),
            bool(native.skips),
            bool(native.breaks),
        )
    return found


OPERATIONS: dict[str, OperationRow] = _read()
"""By name. Most names are those of the methods of ``Ring``."""
NAMES = [row.name for row in OPERATIONS.values()]


def row_of(operation: str) -> OperationRow:
    """The row of an operation. Raises ValueError if there is none of this name."""
    try:
        return OPERATIONS[operation]
    except KeyError:
        raise ValueError(f"no operation {operation}: {', '.join(NAMES)}") from None
