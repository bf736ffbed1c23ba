"""The kernel's own WireGuard as a node: an interface without a process, configured as the others."""

from __future__ import annotations

import subprocess

from lab.node import Node, Program

#: For `Rig.node` and `Rig.tunnel`, where `missing` says nothing.
KERNEL = Program("kernel", ())


def missing() -> str:
    """Why this host has none; empty if it has. The try is made in a namespace of its own and ends with it."""
    done = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "probe", "type", "wireguard"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if done.returncode == 0 else f"this kernel has no WireGuard (CONFIG_WIREGUARD): {done.stderr}"


class KernelNode(Node):
    """It is there as long as its interface is. It has no log and no UAPI socket."""

    def spawn(self) -> None:
        self.space.ip("link", "add", self.interface, "type", "wireguard")

    def stop(self) -> None:
        if self.exists():
            self.space.ip("link", "del", self.interface)

    def kill(self) -> None:
        """The same as `stop`: the kernel tells nobody of an end."""
        self.stop()
