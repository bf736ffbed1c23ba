"""The process behind ``udpring up``: a node with the commands of its wg-quick file.

The flow:
1. PreUp; 2. the node: interface, peers, addresses, MTU, DNS, routes; 3. PostUp. Then it is ready. A failure
   undoes everything done so far.
4. SIGHUP and ``udpring reload`` read the file again.
5. SIGTERM, SIGINT, the end of the interface or of its socket file: PreDown, SaveConfig, the node is taken
   down, PostDown. ``udpring down`` does the hooks itself and sends SIGUSR1, which only takes the node down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from udpring.cli._reload_report import changes, stays
from udpring.cli._up_request import UpRequest
from udpring.cli._up_steps import BrokerSteps, OwnSteps, Steps
from udpring.errors import HostError, UdpringError
from udpring.tunnel import daemon
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.broker import Broker
from udpring.tunnel.config import InterfaceConfig
from udpring.tunnel.confinement import Profile, complete
from udpring.tunnel.node import Node
from udpring.tunnel.patience import Patience
from udpring.tunnel.service_manager import ServiceManager
from udpring.tunnel.timestamp_file import timestamp_path
from udpring.tunnel.uapi_report import Report
from udpring.tunnel.worker_weight import WorkerWeight

if TYPE_CHECKING:
    from udpring.cli._metrics_server import MetricsServer

HOOK_SECONDS = 60.0
"""For the commands of the file on the way down, as for one of the way up that was interrupted."""
MAX_NOTES = 32
"""Notes in the report of a reload."""

log = logging.getLogger("udpring.node")


async def run_node(request: UpRequest, ready: Callable[[], None], broker: Broker | None = None) -> str:
    """Runs the node to its end, confined if it has a broker. Returns its error, or nothing."""
    return await _UpNode(request, OwnSteps(request) if broker is None else BrokerSteps(broker)).run(ready)


class _UpNode:
    def __init__(self, request: UpRequest, steps: Steps) -> None:
        self.request = request
        self.steps = steps
        self.loop = asyncio.get_running_loop()
        self.stop = daemon.stop_signal(self.loop)
        self.handed_over: asyncio.Future[None] = self.loop.create_future()
        self.manager = ServiceManager(request.environment)
        self.node = Node(
            request.loaded,
            name=request.name,
            set_up_interface=True,
            uapi=True,
            key_later=True,
            reporters={"reload": self._reload},
            attachment=steps.attachment,
            outside=steps.outside,
        )
        self.reloading: set[asyncio.Task[None]] = set()
        self.attached = True
        self.up = False

    async def run(self, ready: Callable[[], None]) -> str:
        name, settings = self.request.name, self.request.loaded.interface
        require_free(name)
        with contextlib.closing(_metrics_server(self.request)) as metrics:
            return await self._run(name, settings, metrics, ready)

    async def _run(
        self,
        name: str,
        settings: InterfaceConfig,
        metrics: MetricsServer | NoMetrics,
        ready: Callable[[], None],
    ) -> str:
        await self._hooks("PreUp", settings.pre_up)
        async with self.node as node:
            await self._hooks("PostUp", settings.post_up)
            if self.stop.done() and not self.request.foreground:
                raise UdpringError(f"{name}: interrupted. The interface was taken down again")
            self.loop.add_signal_handler(signal.SIGHUP, self._hang_up)
            # Before the record, which `udpring down` reads.
            self.loop.add_signal_handler(signal.SIGUSR1, self._hand_over)
            await run_blocking(self.steps.up, name="udpring-record")
            try:
                log.info(
                    "%s is up: tier %s, AEAD %s, UDP port %d", name, node.tier, node.aead, node.listen_port
                )
                self.attached = self.request.foreground
                metrics.serve()
                if isinstance(self.steps, BrokerSteps):
                    await run_blocking(self.steps.leave, name="udpring-leave")
                    ready()  # it opens files
                    await self._raise_workers()
                    await self._confine(self.steps)
                else:
                    ready()
                    await self._raise_workers()
                self.manager.ready()
                self.up = True
                failure = await self._serve()
                if not self.handed_over.done():
                    await self._try_hooks("PreDown", node.config.interface.pre_down)
                    await self._try_save()
            finally:
                await run_blocking(self.steps.forget, name="udpring-record")
        if not self.handed_over.done():
            await self._try_hooks("PostDown", node.config.interface.post_down)
        return failure

    async def _raise_workers(self) -> None:
        """Gives the workers their nice value. Call it after the process has left its caller's session."""
        weight = WorkerWeight(self.request.nice)
        await run_blocking(lambda: weight.apply(self.node, self.steps.broker), name="udpring-weight")

    async def _confine(self, steps: BrokerSteps) -> None:
        profile = Profile.NODE
        if self.request.metrics is not None:
            profile |= Profile.READING
        if timestamp_path(None, self.request.name) is not None:
            profile |= Profile.FILES
        await run_blocking(steps.seal, name="udpring-seal")
        complete(profile)
        steps.watch(self.loop)

    async def _serve(self) -> str:
        """Waits for the end. Returns the node's error."""
        ended = self.loop.create_task(self.node.wait())
        ends: list[asyncio.Future[Any]] = [self.stop, self.handed_over, ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        end = ended.result() if ended.done() else None
        self.manager.stopping()
        ended.cancel()
        self.loop.remove_signal_handler(signal.SIGHUP)
        for task in self.reloading:
            task.cancel()
        return end.reason if end is not None and end.failed else ""

    # ---- signals ----

    def _hand_over(self) -> None:
        if not self.handed_over.done():
            self.handed_over.set_result(None)

    def _hang_up(self) -> None:
        task = self.loop.create_task(self._reload_quietly())
        self.reloading.add(task)
        task.add_done_callback(self.reloading.discard)

    async def _reload_quietly(self) -> None:
        with contextlib.suppress(UdpringError, OSError):
            await self._reload()

    async def _reload(self) -> Report:
        """Applies the file as it is now. Raises UdpringError or OSError, which it has logged."""
        if not self.up:
            raise UdpringError("the interface is not up yet")
        self.manager.reloading()
        try:
            loaded = await run_blocking(self.steps.load, name="udpring-load")
            before = self.node.config
            await self.node.reload(loaded)
            log.info("%s was read again", self.request.path)
        except (UdpringError, OSError) as wrong:
            log.error("not reloaded: %s", wrong)
            raise
        finally:
            self.manager.ready()
        notes = (*loaded.warnings, *stays(before, loaded))
        return {
            "changes": changes(before, loaded),
            "notes": {str(number): note for number, note in enumerate(notes[:MAX_NOTES])},
        }

    # ---- hooks ----

    async def _hooks(self, key: str, hooks: tuple[str, ...]) -> None:
        """Runs them. They have no time limit until the interface is to go down."""
        if not hooks:
            return
        config, attached = self.node.config, self.attached
        with Patience() as patience:
            work = partial(self.steps.hooks, key, config, attached=attached, patience=patience.descriptor)
            running = asyncio.ensure_future(run_blocking(work, name="udpring-hooks"))
            ends: list[asyncio.Future[Any]] = [running, self.stop]
            try:
                if key in ("PreUp", "PostUp"):
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if not (await asyncio.wait({running}, timeout=HOOK_SECONDS))[0]:
                    raise HostError(
                        f"{key} did not end within {HOOK_SECONDS:g} s of the interface's end and was killed",
                        cure="see what its commands wait for, or run them in the background",
                    )
            finally:
                patience.end()
                await asyncio.wait({running})
                failed = running.exception()
            if failed is not None:
                raise failed

    async def _try_hooks(self, key: str, hooks: tuple[str, ...]) -> None:
        """On the way down a failed hook is logged and does not stop the others."""
        try:
            await self._hooks(key, hooks)
        except (UdpringError, OSError) as failed:
            log.error("%s", failed)

    async def _try_save(self) -> None:
        config = self.node.config
        if not config.interface.save_config:
            return
        try:
            await run_blocking(lambda: self.steps.save(config), name="udpring-save")
        except (UdpringError, OSError) as failed:
            log.error("%s", failed)


class NoMetrics:
    """In place of a MetricsServer where none is wanted."""

    def serve(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _metrics_server(request: UpRequest) -> MetricsServer | NoMetrics:
    """It has its address before anything is changed."""
    if request.metrics is None:
        return NoMetrics()
    from udpring.cli._metrics_server import MetricsServer  # noqa: PLC0415

    return MetricsServer(request.metrics, [request.name])


def require_free(name: str) -> None:
    """Raises HostError where there is an interface of this name: PreUp must not run then."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return
    raise HostError(
        f"the interface {name} exists already",
        cure=f"take it down: udpring down {name}. If another program made it: ip link delete dev {name}",
    )
