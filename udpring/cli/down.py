"""``udpring down NAME``: takes an interface down as wg-quick does, and waits until it is gone.

The flow, for an interface of ``udpring up``:
1. The file is read again. 2. PreDown and SaveConfig; if one fails, the interface stays up. 3. The node's
   process takes the interface down without hooks, and ends. 4. PostDown.
If the file cannot be used any more, the node's process runs the hooks that it has loaded. An interface of
another program is only ended: its hooks belong to that program.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from udpring.cli import Subparsers
from udpring.errors import ConfigError

if TYPE_CHECKING:
    from udpring.tunnel.config import Config

WAIT_SECONDS = 60.0


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "down",
        help="take an interface down",
        description="Take an interface down: run PreDown, end its node, remove routes, addresses, DNS and "
        "firewall, run PostDown. With SaveConfig = true, write the running configuration to the file first. "
        "Return when the interface is gone. If PreDown fails, the interface stays up.",
    )
    parser.add_argument("name", metavar="NAME", help="the name of an interface, or its configuration file")
    parser.add_argument(
        "--allow-hooks",
        action="store_true",
        help="run PreDown and PostDown even if users other than root can change the file",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the hooks. Between them, ends the process at the other end of the UAPI socket."""
    from udpring.tunnel import config, up_record  # noqa: PLC0415
    from udpring.tunnel.hooks import HookScope, run_hooks  # noqa: PLC0415
    from udpring.tunnel.process import end_server  # noqa: PLC0415
    from udpring.tunnel.saved_config import save  # noqa: PLC0415

    name, path = config.locate(args.name)
    record = up_record.find(name)
    if record is None:
        end_server(name, WAIT_SECONDS)
        return 0
    loaded = _load(
        path.resolve() if args.name != name else record.file, args.allow_hooks or record.allow_hooks
    )
    if loaded is None:
        end_server(name, WAIT_SECONDS)
        return 0
    scope = HookScope(name, Path(loaded.file), loaded.interface)
    run_hooks(scope, "PreDown", loaded.interface.pre_down)
    if loaded.interface.save_config:
        save(name, scope.file, loaded)
    end_server(name, WAIT_SECONDS, number=signal.SIGUSR1)
    run_hooks(scope, "PostDown", loaded.interface.post_down)
    return 0


def _load(file: Path, allow_hooks: bool) -> Config | None:
    """The configuration as it is now. None: it cannot be used."""
    from udpring.tunnel.config import Config  # noqa: PLC0415
    from udpring.tunnel.hooks import has_hooks  # noqa: PLC0415
    from udpring.tunnel.trusted_file import require_trusted  # noqa: PLC0415

    try:
        loaded = Config.load(file)
        if has_hooks(loaded.interface) and not allow_hooks:
            require_trusted(file)
        return loaded
    except ConfigError as wrong:
        print(
            f"udpring: warning: {wrong}. The node uses the configuration that it has loaded", file=sys.stderr
        )
        return None
