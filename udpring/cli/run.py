"""``udpring run``: runs a program whose only network is the tunnel, without root.

1. A rootless node is started from the file.
2. The program starts in its namespaces, with the standard streams of this command. Signals are passed on.
3. When it ends, the node is stopped, and its exit code is this command's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from udpring.cli import Subparsers
from udpring.errors import HostError

if TYPE_CHECKING:
    from udpring.tunnel.broker import Broker

NOT_FOUND = 127
"""As of a shell."""
PASSED_ON = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT,
)  # fmt: skip
FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
END_WAIT = 10.0
"""Seconds for the program to end after SIGTERM, where the node has ended first."""


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    from udpring.cli._rootless import add_arguments  # noqa: PLC0415

    parser = subparsers.add_parser(
        "run",
        help="run a program whose only network is the tunnel, without root",
        description="Runs CMD in a network namespace whose only way out is the tunnel of FILE. Names are "
        "looked up by its DNS servers. No packet of CMD leaves while the tunnel is down. Needs no root.",
        epilog="exit code: CMD's, 128 + N if signal N ended it, 127 if there is no such program; "
        "2 and 3 as of all commands",
    )
    add_arguments(parser)
    parser.add_argument("program", metavar="CMD", nargs="+", help="after --: the program and its arguments")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from udpring.cli._rootless import helper  # noqa: PLC0415
    from udpring.tunnel.refusals import ROOTLESS_DESCRIPTORS, run_loop  # noqa: PLC0415

    with helper() as broker:
        return run_loop(lambda: _run(args, broker), ROOTLESS_DESCRIPTORS)


async def _run(args: argparse.Namespace, broker: Broker | None) -> int:
    from udpring.cli._rootless import confine, node_of  # noqa: PLC0415

    async with node_of(args, broker) as node:
        signals, loop = _Signals(), asyncio.get_running_loop()
        for number in PASSED_ON:
            loop.add_signal_handler(number, signals.pass_on, number)
        try:
            child = await node.spawn(*args.program)
        except FileNotFoundError:
            print(f"udpring: {args.program[0]}: no such program", file=sys.stderr)
            return NOT_FOUND
        try:
            signals.begin(child.pid)
        except OSError:
            child.kill()  # nothing could end it later
            raise
        confine(broker)
        ended, lost = asyncio.ensure_future(child.wait()), asyncio.ensure_future(node.wait())
        ends: list[asyncio.Future[Any]] = [ended, lost]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await _end(signals, ended)
            raise HostError(f"the tunnel ended, and {args.program[0]} was ended: {lost.result().reason}")
        lost.cancel()
        code = ended.result()
        return 128 - code if code < 0 else code


class _Signals:
    """Sends signals to the program. It uses descriptors that it opens at once, because a confined process can
    neither open the terminal nor signal a process by its number."""

    def __init__(self) -> None:
        self._group = os.getpgrp()
        self._program = self._terminal = -1
        self._early: list[int] | None = []
        with contextlib.suppress(OSError):
            self._terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)

    def begin(self, process: int) -> None:
        """The program has this number, and gets the signals that came before. Raises OSError."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            self._program = os.pidfd_open(process)
        early, self._early = self._early or [], None
        for number in early:
            self.send(number)

    def pass_on(self, number: int) -> None:
        """Sends a signal, unless it is from the terminal and the program has received it, too."""
        if self._early is not None:
            self._early.append(number)
            return
        with contextlib.suppress(OSError):
            if number in FROM_TERMINAL and os.tcgetpgrp(self._terminal) == self._group:
                return
        self.send(number)

    def send(self, number: int) -> None:
        """To the program, unless it has ended."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._program, number)


async def _end(signals: _Signals, ended: asyncio.Future[int]) -> None:
    signals.send(signal.SIGTERM)
    if not (await asyncio.wait({ended}, timeout=END_WAIT))[0]:
        signals.send(signal.SIGKILL)
    await ended
