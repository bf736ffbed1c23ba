"""``udpring.tunnel.command_batch`` over a plane in Python, whose methods are the commands."""

from __future__ import annotations

from typing import Any

from udpring.errors import RingError
from udpring.tunnel.command_batch import COMMANDS_MAX, Result

KINDS = frozenset(
    {
        "authenticated",
        "index_release",
        "keepalive",
        "keypair",
        "keys_erase",
        "keys_expire",
        "send",
        "source_clear",
        "staged_drop",
    }
)


class CommandBatch:
    """Calls the plane's method of the same name for each queued command."""

    def __init__(self, plane: Any) -> None:
        self._plane = plane
        self._queued: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.crossings: list[int] = []
        """How many commands each had."""

    def __len__(self) -> int:
        return len(self._queued)

    def __getattr__(self, name: str) -> Any:
        if name not in KINDS:
            raise AttributeError(name)

        def put(*arguments: Any, **named: Any) -> None:
            assert len(self._queued) < COMMANDS_MAX, "there is no room for another command"
            self._queued.append((name, arguments, named))

        return put

    def run(self) -> list[Result]:
        queued, self._queued = self._queued, []
        self.crossings.append(len(queued))
        results: list[Result] = []
        opened = None
        for name, arguments, named in queued:
            if name == "keepalive" and arguments[0] == opened:
                opened = None
                results.append(1)
                continue
            try:
                results.append(int(getattr(self._plane, name)(*arguments, **named) or 0))
            except RingError as failed:
                results.append(failed)
            if name == "keypair":
                opened = arguments[0] if results[-1] == 1 else None
        return results

    def clear(self) -> None:
        self._queued.clear()
