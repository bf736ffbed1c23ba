"""``udpring up FILE``: a node from a wg-quick configuration, with addresses, routes, MTU, DNS and its
commands."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udpring.cli import Subparsers
from udpring.errors import ConfigError, HostError, UdpringError

if TYPE_CHECKING:
    from udpring.tunnel.config import Config


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "up",
        help="bring a node up from a configuration",
        description="Brings up the interface that a wg-quick configuration describes: node, addresses, MTU, "
        "routes, DNS, PreUp and PostUp. Goes to the background when all that is done. SIGHUP reads the file "
        "again and changes what differs; sessions of peers that stay are kept. `udpring down NAME` ends it.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="a file INTERFACE.conf, or an interface of /etc/wireguard"
    )
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="do not detach, log to standard error"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Checks the configuration here, where errors can be seen, then starts the node."""
    import logging  # noqa: PLC0415

    from udpring.tunnel import config, daemon  # noqa: PLC0415

    name, path = config.locate(args.file)
    # The background process works in /, and SIGHUP reads the file again.
    path = path.absolute()
    loaded = config.Config.load(path)
    loaded.require_private_key()
    for warning in loaded.warnings:
        print(f"udpring: warning: {warning}", file=sys.stderr)
    level = logging.DEBUG if args.verbose else logging.INFO

    def work(ready: Callable[[], None]) -> tuple[int, str]:
        daemon.setup_log(name, level, foreground=args.foreground)
        return _serve(loaded, name, path, ready, os.environ if args.foreground else {})

    if args.foreground:
        return daemon.report(*work(lambda: None))
    return daemon.detach(work)


def _serve(
    loaded: Config, name: str, path: Path, ready: Callable[[], None], environment: Mapping[str, str]
) -> tuple[int, str]:
    import asyncio  # noqa: PLC0415

    try:
        failed = asyncio.run(_node(loaded, name, path, ready, environment))
    except ConfigError as wrong:
        return 2, str(wrong)
    except HostError as cannot:
        return 3, str(cannot)
    except (UdpringError, OSError) as broken:
        return 1, str(broken)
    return (1, failed) if failed else (0, "")


async def _node(
    loaded: Config, name: str, path: Path, ready: Callable[[], None], environment: Mapping[str, str]
) -> str:
    """Runs the node to its end; returns what it failed by, or nothing."""
    import asyncio  # noqa: PLC0415
    import logging  # noqa: PLC0415

    from udpring.tunnel import daemon  # noqa: PLC0415
    from udpring.tunnel.blocking import run_blocking  # noqa: PLC0415
    from udpring.tunnel.config import Config  # noqa: PLC0415
    from udpring.tunnel.device import Node  # noqa: PLC0415
    from udpring.tunnel.interface import hook_commands  # noqa: PLC0415
    from udpring.tunnel.interface_setup import run_hooks  # noqa: PLC0415
    from udpring.tunnel.service_manager import ServiceManager  # noqa: PLC0415

    log = logging.getLogger("udpring.node")

    async def hooks(commands: tuple[str, ...]) -> None:
        if commands:
            await run_blocking(lambda: run_hooks(hook_commands(commands, name)), name="udpring-hooks")

    class HookedNode(Node):
        """Runs PreUp where wg-quick does: when the interface is there and has nothing set."""

        async def _interface_made(self) -> None:
            await hooks(self.config.interface.pre_up)

    loop = asyncio.get_running_loop()
    stop = daemon.stop_signal(loop)
    manager = ServiceManager(environment)
    node = HookedNode(loaded, name=name, set_up_interface=True, uapi=True)
    reloading: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        manager.reloading()
        try:
            await node.reload(await run_blocking(lambda: Config.load(path), name="udpring-load"))
            log.info("%s was read again", path)
        except (UdpringError, OSError) as wrong:
            log.error("not reloaded: %s", wrong)
        manager.ready()

    def hang_up() -> None:
        task = loop.create_task(reload())
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    async with node:
        await hooks(loaded.interface.post_up)
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        log.info("%s is up: tier %s, AEAD %s, UDP port %d", name, node.tier, node.aead, node.listen_port)
        ready()
        manager.ready()
        ended = loop.create_task(node.wait())
        ends: list[asyncio.Future[Any]] = [stop, ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        end = ended.result() if ended.done() else None
        manager.stopping()
        ended.cancel()
        loop.remove_signal_handler(signal.SIGHUP)
        for task in reloading:
            task.cancel()
        await _try_hooks(hooks, node.config.interface.pre_down, log.error)
    await _try_hooks(hooks, node.config.interface.post_down, log.error)
    return end.reason if end is not None and end.failed else ""


async def _try_hooks(
    hooks: Callable[[tuple[str, ...]], Awaitable[None]],
    commands: tuple[str, ...],
    complain: Callable[..., None],
) -> None:
    """On the way down a command that fails is told and does not stop the rest."""
    try:
        await hooks(commands)
    except (UdpringError, OSError) as failed:
        complain("%s", failed)
