"""A TUN device node in the test's own mount namespace. The host's may be closed to all but root."""

from __future__ import annotations

import functools
import subprocess

#: The device: the real one (tun(4): major 10, minor 200), or a number without a driver.
TUN, DRIVERLESS = "10 200", "10 254"


def with_node(mode: int = 0o666, device: str | None = TUN, options: str = "mode=0755") -> list[str]:
    """The beginning of a command line. The command after it sees a /dev/net with such a node (None: without
    one), on a filesystem mounted with ``options``. Needs root."""
    make = f"mknod -m {mode:04o} /dev/net/tun c {device} && " if device else ""
    script = f'mount -t tmpfs -o {options} tmpfs /dev/net && {make}exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


@functools.cache
def why_no_node() -> str:
    """The reason why no device node can be made and opened here. Empty if it works. Root of a user namespace
    and containers without CAP_MKNOD may not."""
    command = [*with_node(), "sh", "-c", ": <>/dev/net/tun"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return f"no device node can be made: {tried.stderr.strip()}" if tried.returncode else ""
