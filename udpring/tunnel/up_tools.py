"""The programs that ``udpring up`` may need, and the setting of a wg-quick file that needs each."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from udpring.uring.probe import Feature

__all__ = ["UP_TOOLS", "UpTool", "find_tools"]


@dataclass(frozen=True, slots=True)
class UpTool:
    """``programs``: any of them will do. ``effect``: what goes wrong without. ``package``: Debian's name."""

    name: str
    programs: tuple[str, ...]
    effect: str
    package: str


UP_TOOLS = (
    UpTool("hooks", ("bash",), "`udpring up` fails where a file has PreUp, PostUp or the like", "bash"),
    UpTool("DNS", ("resolvconf", "resolvectl"), "`udpring up` fails where a file has DNS", "openresolv"),
    UpTool(
        "firewall",
        ("nft", "iptables-restore"),
        "a default route into the tunnel comes up without its firewall",
        "nftables",
    ),
    UpTool("sysctl", ("sysctl",), "`udpring up` fails for a default route into the tunnel", "procps"),
)


def find_tools() -> tuple[Feature, ...]:
    """Each of ``UP_TOOLS``: where its program is, or that it has none."""
    found = []
    for tool in UP_TOOLS:
        places = filter(None, map(shutil.which, tool.programs))
        where = next(places, None)
        none = f"there is no program called {' or '.join(tool.programs)}"
        found.append(Feature(tool.name, where is not None, where or none, 0))
    return tuple(found)
