"""The kernel's own WireGuard as a node: an interface without a process, configured like the others."""

from __future__ import annotations

import subprocess

from lab.node import Node, Program

#: For `Rig.node` and `Rig.tunnel`, if `missing` returns an empty text.
KERNEL = Program("kernel", ())


def missing() -> str:
    """The reason why this host has none, empty if it has. The attempt is made in its own namespace and ends
    with it."""
    done = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "probe", "type", "wireguard"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if done.returncode == 0 else f"this kernel has no WireGuard (CONFIG_WIREGUARD): {done.stderr}"


class KernelNode(Node):
    """Exists as long as its interface. It has no log and no UAPI socket."""

    def spawn(self) -> None:
        self.space.ip("link", "add", self.interface, "type", "wireguard")

    def stop(self) -> None:
        if self.exists():
            self.space.ip("link", "del", self.interface)

    def kill(self) -> None:
        """The same as `stop`: the kernel notifies no peer of its end."""
        self.stop()
