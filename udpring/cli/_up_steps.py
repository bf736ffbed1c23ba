"""The steps of ``udpring up`` that need root's rights: by the node itself, or by its broker.

``OwnSteps`` is for a node that is not confined. ``BrokerSteps`` asks the broker (``_up_broker``). Both may
block, so the node calls them in threads.
"""

from __future__ import annotations

import base64
import logging
import pickle
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from udpring.cli._up_request import UpRequest, load
from udpring.tunnel import up_record
from udpring.tunnel.attachment import Attached, Attachment, PlaneSettings, Tun, TunPlane
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.broker import Broker
from udpring.tunnel.config import Config, InterfaceConfig, IPAddress, Network
from udpring.tunnel.hooks import HookScope, run_hooks
from udpring.tunnel.outside import Outside, of_broker
from udpring.tunnel.plane import Plane
from udpring.tunnel.saved_config import save

if TYPE_CHECKING:
    import asyncio

__all__ = ["BrokerSteps", "OwnSteps", "Steps", "planned"]

ENDPOINTS_PART = 1000
"""Addresses in a request."""

log = logging.getLogger("udpring.node")


class Steps(Protocol):
    """``attachment`` and ``outside`` are for the node."""

    attachment: Attachment
    outside: Outside
    broker: Broker | None

    def hooks(self, key: str, config: Config, *, attached: bool, patience: int) -> None:
        """Runs the commands of ``key``, of this configuration, until the descriptor ``patience`` is ready."""

    def save(self, config: Config) -> None:
        """Writes the running configuration to the file if ``SaveConfig`` says so."""

    def load(self) -> Config:
        """Reads the file again. Raises ConfigError."""

    def up(self) -> None:
        """Writes the record for ``udpring down``."""

    def leave(self) -> None:
        """The process is about to leave its caller."""

    def forget(self) -> None:
        """Removes the record."""


class OwnSteps:
    """In this process."""

    def __init__(self, request: UpRequest) -> None:
        self._request = request
        self._record: up_record.UpRecord | None = None
        self.broker: Broker | None = None
        self.attachment: Attachment = Tun()
        self.outside = Outside()

    def hooks(self, key: str, config: Config, *, attached: bool, patience: int) -> None:
        settings = config.interface
        every = {
            "PreUp": settings.pre_up,
            "PostUp": settings.post_up,
            "PreDown": settings.pre_down,
            "PostDown": settings.post_down,
        }
        scope = HookScope(self._request.name, self._request.path, settings)
        run_hooks(scope, key, every[key], attached=attached, patience=patience)

    def save(self, config: Config) -> None:
        if config.interface.save_config:
            save(self._request.name, self._request.path, config)

    def load(self) -> Config:
        return load(self._request)

    def up(self) -> None:
        request = self._request
        self._record = up_record.write(request.name, request.path, allow_hooks=request.allow_hooks)

    def leave(self) -> None:
        pass

    def forget(self) -> None:
        if self._record is not None:
            self._record.remove()


class BrokerSteps:
    """In the broker, which has the file's configuration itself."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.broker: Broker | None = broker
        self.attachment: Attachment = _BrokerTun(broker)
        self.outside = of_broker(broker)

    def hooks(self, key: str, config: Config, *, attached: bool, patience: int) -> None:
        self._broker.call("hooks", key=key, patience=patience)

    def save(self, config: Config) -> None:
        self._broker.call("save")

    def load(self) -> Config:
        loaded = pickle.loads(base64.b64decode(self._broker.call("load")))
        assert isinstance(loaded, Config)
        return loaded

    def up(self) -> None:
        self._broker.call("up")

    def leave(self) -> None:
        self._broker.call("leave")

    def forget(self) -> None:
        self._broker.call("forget")

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Logs it if the broker ends early."""
        self._broker.watch(loop)

    def seal(self) -> None:
        """The node has made its socket files."""
        self._broker.call("seal")


def planned(broker: Broker, endpoints: Sequence[IPAddress]) -> dict[str, Any]:
    """The broker's plan for an interface whose peers have these endpoints, which may be many."""
    words = list(dict.fromkeys(map(str, endpoints)))
    for start in range(0, max(len(words), 1), ENDPOINTS_PART):
        part = words[start : start + ENDPOINTS_PART]
        broker.call("endpoints", addresses=part, first=start == 0)
    found: dict[str, Any] = broker.call("plan")
    return found


class _BrokerTun:
    """A TUN device of this process, whose addresses and routes the broker sets."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def open(self, settings: PlaneSettings) -> Attached:
        plane = await Tun(confined=True).open(settings)
        return _AttachedBrokerTun(plane.plane, self._broker)


class _AttachedBrokerTun(TunPlane):
    def __init__(self, plane: Plane, broker: Broker) -> None:
        super().__init__(plane)
        self._broker = broker

    async def set_up(
        self, config: Config, endpoints: Sequence[IPAddress], set_mark: Callable[[int], None]
    ) -> None:
        found = await run_blocking(lambda: planned(self._broker, endpoints), name="udpring-plan")
        for warning in found["warnings"]:
            log.warning("%s: %s", self.plane.name, warning)
        set_mark(found["mark"])
        await run_blocking(lambda: self._broker.call("apply"), name="udpring-setup")

    async def set_routes(
        self, settings: InterfaceConfig, added: Sequence[Network], removed: Sequence[Network]
    ) -> bool:
        return False

    async def undo(self) -> None:
        await run_blocking(lambda: self._broker.call("undo"), name="udpring-undo")
