"""``udpring-wg`` that appends its counters to the file named by $UDPRING_COUNTERS on SIGUSR1: a line of JSON.

For tests that check the reason of a drop, which `wg show` does not show. Run as a program.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys

from udpring.cli.wg import main
from udpring.tunnel.tunnel import Tunnel
from udpring.uring.ring import graveyard

_start = Tunnel.start


def start_watched(tunnel: Tunnel) -> None:
    _start(tunnel)
    # Opened now: a confined node opens no file later.
    target = os.open(os.environ["UDPRING_COUNTERS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write() -> None:
        said = dataclasses.asdict(tunnel.stats()) | {"graveyard": graveyard()[0]}
        os.write(target, json.dumps(said).encode() + b"\n")

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write)


if __name__ == "__main__":
    setattr(Tunnel, "start", start_watched)  # noqa: B010 - a patch, said openly
    sys.exit(main())
