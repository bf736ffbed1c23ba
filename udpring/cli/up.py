"""``udpring up FILE``: a node from a wg-quick configuration, with addresses, routes, MTU, DNS and its
commands."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from udpring.cli import Subparsers
from udpring.errors import ConfigError, HostError, UdpringError

if TYPE_CHECKING:
    from udpring.cli._up_request import UpRequest
    from udpring.tunnel.broker import Broker
    from udpring.tunnel.config import Config


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "up",
        help="bring an interface up from a wg-quick configuration",
        description="Bring up the interface of a wg-quick configuration: node, addresses, MTU, routes, DNS "
        "and firewall. Run PreUp before and PostUp after it. Go to the background when all is "
        "done. `udpring reload NAME` (or SIGHUP) reads the file again and applies the differences. Peers "
        "that stay keep their sessions. `udpring down NAME` takes the interface down.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="a file INTERFACE.conf, or the name of an interface in /etc/wireguard"
    )
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="stay in the foreground, log to standard error"
    )
    parser.add_argument(
        "--allow-hooks",
        action="store_true",
        help="run PreUp, PostUp, PreDown and PostDown even if users other than root can change the file",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print each step as a command, as wg-quick does, and change nothing",
    )
    parser.add_argument(
        "--metrics",
        metavar="ADDR:PORT|PATH",
        help="serve the node's metrics to Prometheus, as udpring exporter does",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json", "journald"),
        help="lines of the log: text, an object a line, or fields for the journal (default: journald where "
        "the journal reads standard error, else text)",
    )
    parser.add_argument(
        "--unconfined",
        action="store_true",
        help="keep all capabilities and system calls after the start (docs/least-privilege.md)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Checks the configuration here, where errors can be seen, then starts the node."""
    import logging  # noqa: PLC0415

    from udpring.tunnel import config, confinement, daemon, process_log, worker_weight  # noqa: PLC0415
    from udpring.tunnel.hooks import has_hooks  # noqa: PLC0415
    from udpring.tunnel.log_format import log_format  # noqa: PLC0415
    from udpring.tunnel.socket_path import SOCKET_DIRECTORY  # noqa: PLC0415
    from udpring.tunnel.trusted_file import require_trusted  # noqa: PLC0415

    name, path = config.locate(args.file)
    # The background process works in /, and SIGHUP reads the file again.
    path = path.resolve()
    loaded = config.Config.load(path)
    loaded.require_private_key_or_hook()
    for warning in loaded.warnings:
        print(f"udpring: warning: {warning}", file=sys.stderr)
    metrics = None
    if args.metrics:
        from udpring.cli._metrics_server import MetricsAddress, require_client  # noqa: PLC0415

        metrics = MetricsAddress.parse(args.metrics)
        require_client()
    if args.dry_run:
        return _show_steps(name, path, loaded)
    if has_hooks(loaded.interface) and not args.allow_hooks:
        require_trusted(path)
    level = logging.DEBUG if args.verbose else logging.INFO
    style = log_format(args.log_format, os.environ)

    nice = worker_weight.nice_asked(os.environ)
    confined = confinement.wanted({confinement.VARIABLE: "off"} if args.unconfined else os.environ)

    def work(ready: Callable[[], None]) -> tuple[int, str]:
        # After the fork, so that the parent is small.
        from udpring.cli import _up_broker  # noqa: PLC0415
        from udpring.cli._up_request import UpRequest  # noqa: PLC0415

        environment = os.environ if args.foreground else {}
        request = UpRequest(name, path, loaded, args.foreground, args.allow_hooks, environment, metrics, nice)
        process_log.setup_log(
            name, level, foreground=args.foreground, attached=not args.foreground, style=style
        )
        worker_weight.WorkerWeight(nice).prepare()
        if not confined:
            return _serve(request, ready)
        with contextlib.closing(_up_broker.start(request)) as broker:  # while there is one thread
            listening = [Path(metrics.path).parent] if metrics is not None and metrics.path else []
            confinement.begin([SOCKET_DIRECTORY, *listening])
            return _serve(request, ready, broker)

    if args.foreground:
        return process_log.report(*work(lambda: None), bounded=True)
    return daemon.detach(work, attached=True)


def _show_steps(name: str, path: Path, loaded: Config) -> int:
    from udpring.cli._dry_run import plan_of, refusals, steps  # noqa: PLC0415

    planned = plan_of(name, loaded)
    for warning in (*planned.warnings, *refusals(name, path, loaded)):
        print(f"udpring: warning: {warning}", file=sys.stderr)
    print("\n".join(steps(name, path, loaded, planned)))
    return 0


def _serve(request: UpRequest, ready: Callable[[], None], broker: Broker | None = None) -> tuple[int, str]:
    from udpring.tunnel.daemon import load_modules  # noqa: PLC0415

    load_modules("udpring.cli._up_node")
    from udpring.cli._up_node import run_node  # noqa: PLC0415
    from udpring.tunnel.refusals import explained, run_loop  # noqa: PLC0415

    up = False

    def is_up() -> None:
        nonlocal up
        ready()
        up = True

    try:
        failed = run_loop(lambda: run_node(request, is_up, broker))
    except ConfigError as wrong:
        return 2, str(wrong)
    except HostError as cannot:
        return 3, str(cannot)
    except Exception as broken:
        refusal = explained(broken)
        if refusal is None and not isinstance(broken, UdpringError):
            raise
        return 1 if up or refusal is None else 3, str(refusal or broken)
    return (1, failed) if failed else (0, "")
