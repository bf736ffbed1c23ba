"""What ``udpring up`` was asked for, and how its file is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from udpring.tunnel.config import Config
from udpring.tunnel.hooks import has_hooks
from udpring.tunnel.trusted_file import require_trusted

if TYPE_CHECKING:
    from udpring.cli._metrics_server import MetricsAddress

__all__ = ["UpRequest", "load"]


@dataclass(frozen=True, slots=True)
class UpRequest:
    """Settings from the command line and the environment."""

    name: str
    path: Path
    loaded: Config
    foreground: bool
    allow_hooks: bool
    environment: Mapping[str, str]
    metrics: MetricsAddress | None = None
    nice: int = 0
    """Of the workers (``worker_weight``)."""


def load(request: UpRequest) -> Config:
    """The file as it is now. Raises ConfigError."""
    loaded = Config.load(request.path)
    loaded.require_private_key_or_hook()
    if has_hooks(loaded.interface) and not request.allow_hooks:
        require_trusted(request.path)
    return loaded
