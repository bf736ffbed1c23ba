"""Whether a node's interface is up, with the interface of ``udpring.tunnel.link.Link``, without a
descriptor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ModelLink:
    """``life`` has the real state. This is the control loop's view of it."""

    def __init__(self, life: Any, changed: Callable[[], None]) -> None:
        self._life, self._changed = life, changed
        self.up: bool = life.node.interface_up
        life.link = self

    def start(self, loop: object) -> None:
        self.up = self._life.node.interface_up

    def stop(self) -> None:
        pass

    def look(self) -> bool:
        """Whether it is up now. Reports a change first."""
        if self.up != self._life.node.interface_up:
            self.up = self._life.node.interface_up
            self._changed()
        return self.up
