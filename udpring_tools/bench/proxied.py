"""``udpring proxy --socks`` on one side, a node with a TUN device on the other."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
from ipaddress import IPv4Address
from pathlib import Path
from socket import AF_INET

from udpring.errors import HostError
from udpring.tunnel import keys, uapi
from udpring.tunnel.keys import to_base64
from udpring_tools.bench import usage
from udpring_tools.bench.interpreter import module_argv
from udpring_tools.bench.pair import INNER, MTU, OUTER, PORT, Ground
from udpring_tools.bench.program import NodeProcess, Program
from udpring_tools.bench.space import Space

__all__ = ["ProxiedPair"]

SOCKS_PORT = 1080
STOP_WAIT = 10.0


class ProxiedPair:
    """The proxy is in ``here`` and listens at ``socks`` on loopback there. ``target`` is an address in
    ``there``, which only the tunnel reaches. Raises HostError if a program does not start."""

    socks = SOCKS_PORT
    target = INNER[1]

    def __init__(self, ground: Ground, kind: str = "auto") -> None:
        self.here: Space = ground.here
        self._stack = contextlib.ExitStack()
        try:
            self._start(ground, kind)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, ground: Ground, kind: str) -> None:
        private = [keys.generate_private_key() for _ in INNER]
        public = [keys.public_key(key) for key in private]
        self._node = NodeProcess(ground.there, Program.ours(), f"bench{secrets.token_hex(3)}s")
        self._stack.callback(self._node.close)
        self._node.uapi.set(
            [
                uapi.SetPrivateKey(private[1]),
                uapi.SetListenPort(PORT),
                uapi.PeerBegin(public[0]),
                uapi.AllowedIp(AF_INET, IPv4Address(INNER[0]).packed, 32),
            ]
        )
        self.there = self._node.inside
        self.there.command("ip", "addr", "add", f"{INNER[1]}/24", "dev", self._node.interface)
        self.there.command("ip", "link", "set", self._node.interface, "mtu", str(MTU), "up")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "proxy.conf"
        file.touch(0o600)
        file.write_text(
            f"[Interface]\nPrivateKey = {to_base64(private[0])}\nAddress = {INNER[0]}/24\nMTU = {MTU}\n"
            f"[Peer]\nPublicKey = {to_base64(public[1])}\nAllowedIPs = {INNER[1]}/32\n"
            f"Endpoint = {OUTER[1]}:{PORT}\n"
        )
        self._proxy = ground.here.spawn(
            *module_argv("udpring.cli.main", "proxy", str(file)),
            *("--device", kind, "--socks", str(SOCKS_PORT)),
            stderr=subprocess.PIPE,
        )
        self._stack.callback(self._stop)
        assert self._proxy.stdout
        if not self._proxy.stdout.readline():
            _, errors = self._proxy.communicate(timeout=STOP_WAIT)
            raise HostError(f"udpring proxy ended at once: {errors.strip()}", cure="run it by itself")

    def _stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._proxy.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._proxy.communicate(timeout=STOP_WAIT)
                break

    def cpu_seconds(self) -> float:
        """Of both sides, the proxy's copying included."""
        return usage.cpu_seconds(self._proxy.pid) + self._node.cpu_seconds()

    def facts(self) -> dict[str, str | int | None]:
        """The choices of the node with a TUN device."""
        return self._node.facts()

    def __enter__(self) -> ProxiedPair:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
