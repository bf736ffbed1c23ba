"""The nice value of a daemon's workers. With one below 0, packets wait less for a busy CPU.

1. ``prepare``, while the process has its rights: RLIMIT_NICE is raised, so that the workers may change their
   own nice value after the rights are gone.
2. ``apply``, once the process has its final session. Where the kernel weighs sessions, the session gets the
   nice value, through the broker if there is one (``session_weight``). Otherwise each worker gets it.

If the host refuses, nothing changes. docs/design/workers.md, "Weight".
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Mapping
from typing import TYPE_CHECKING

from udpring.errors import ConfigError, UdpringError
from udpring.tunnel.decimal_text import parse_decimal
from udpring.tunnel.session_weight import SessionWeight

if TYPE_CHECKING:
    from udpring.tunnel.broker import Broker
    from udpring.tunnel.node import Node
    from udpring.tunnel.plane import Plane

__all__ = ["DEFAULT", "LOWEST", "VARIABLE", "WorkerWeight", "nice_asked"]

VARIABLE = "UDPRING_NICE"
LOWEST = -20
DEFAULT = -10
"""Of ``udpring up`` and ``udpring-wg``."""


def nice_asked(environment: Mapping[str, str]) -> int:
    """The nice value of a daemon's workers, from ``LOWEST`` to 0 (none). Raises ConfigError."""
    text = environment.get(VARIABLE, "")
    if not text:
        return DEFAULT
    number = parse_decimal(text.removeprefix("-"), -LOWEST)
    if number is None or (number and not text.startswith("-")):
        cure = f"use a whole number from {LOWEST} to 0"
        raise ConfigError(
            f"{VARIABLE} is not a nice value of workers", file="<environment>", text=text, cure=cure
        )
    return -number


class WorkerWeight:
    """``nice``: the value asked for. 0: the workers stay as they are."""

    def __init__(self, nice: int) -> None:
        self.nice = nice

    def prepare(self) -> None:
        """Raises RLIMIT_NICE. Call it while the process has its rights."""
        wanted = 20 - self.nice  # in the units of RLIMIT_NICE
        soft, hard = resource.getrlimit(resource.RLIMIT_NICE)
        if not self.nice or resource.RLIM_INFINITY in (soft, hard) or soft >= wanted:
            return
        with contextlib.suppress(OSError, ValueError):  # no CAP_SYS_RESOURCE
            resource.setrlimit(resource.RLIMIT_NICE, (wanted, max(hard, wanted)))

    def apply(self, plane: Plane | Node, broker: Broker | None = None) -> None:
        """Gives the workers or their session the nice value. Blocks until the broker answers."""
        if not self.nice:
            return
        session = SessionWeight(os.getpid())
        try:
            if broker is None:
                plane.weigh(self.nice, group=session.fileno(), usual=session.permit(self.nice))
            else:
                plane.weigh(self.nice, group=broker.fileno(), usual=broker.call("weigh"))
        except UdpringError as refused:  # also no descriptor for a copy
            import logging  # noqa: PLC0415 - a broker process does not load it

            logging.getLogger("udpring.node").debug("the session was not raised: %s", refused)
            plane.weigh(self.nice)
        finally:
            session.close()
