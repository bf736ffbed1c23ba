"""A WireGuard interface in a namespace: a program compatible with wireguard-go, configured by `wg` and
`ip`."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lab import processes
from lab.space import Space, until
from udpring.tunnel.capabilities import NET_ADMIN, NET_BIND_SERVICE
from udpring.tunnel.system_calls import this_architecture

UAPI = Path("/var/run/wireguard")


@dataclass(frozen=True)
class Program:
    """The command for an interface: ``argv IFNAME``, or ``argv -f IFNAME`` to stay in the foreground."""

    name: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name

    def with_env(self, **env: str) -> Program:
        return Program(self.name, self.argv, (*self.env, *env.items()))


def _subject() -> Program:
    given = os.environ.get("UDPRING_WG_PROGRAM")
    if given:
        return Program(Path(given.split()[0]).name, tuple(given.split()))
    installed = Path(sys.executable).with_name("udpring-wg")
    if installed.exists():
        return Program("udpring", (str(installed),))
    return Program("udpring", (sys.executable, "-P", "-m", "udpring.cli.wg"))


#: The program under test: $UDPRING_WG_PROGRAM, else udpring-wg of the environment that runs pytest.
SUBJECT = _subject()
#: The other implementation that it must work with.
GO = Program("wireguard-go", (shutil.which("wireguard-go") or "wireguard-go",))


RIGHTS = 1 << NET_ADMIN | 1 << NET_BIND_SERVICE


@dataclass(frozen=True)
class PeerStatus:
    """One peer line of `wg show IF dump`."""

    public_key: str
    preshared_key: str
    endpoint: str
    allowed_ips: str
    handshake: int
    received: int
    sent: int
    keepalive: str


@dataclass
class Peer:
    """One [Peer] of a node's configuration."""

    node: Node
    allowed_ips: list[str]
    endpoint: str | None = None
    psk: str | None = None
    keepalive: int | None = None

    def section(self) -> str:
        lines = [
            "[Peer]",
            f"PublicKey = {self.node.public_key}",
            f"AllowedIPs = {', '.join(self.allowed_ips)}",
        ]
        if self.endpoint:
            lines.append(f"Endpoint = {self.endpoint}")
        if self.psk:
            lines.append(f"PresharedKey = {self.psk}")
        if self.keepalive is not None:
            lines.append(f"PersistentKeepalive = {self.keepalive}")
        return "\n".join(lines)


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass
class Node:
    """A program, its interface, and its configuration, which a restart applies again."""

    space: Space
    interface: str
    program: Program
    log: Path
    inner: list[str]
    port: int = 51820
    mtu: int = 1420
    peers: list[Peer] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    home: Space | None = None

    def __post_init__(self) -> None:
        key = X25519PrivateKey.generate()
        self.private_key = base64.b64encode(key.private_bytes_raw()).decode()
        self.public_key = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        self.home = self.home or self.space

    @property
    def uapi(self) -> Path:
        return UAPI / f"{self.interface}.sock"

    @property
    def inner4(self) -> str:
        return next(each for each in self.inner if ":" not in each).split("/")[0]

    @property
    def inner6(self) -> str:
        return next(each for each in self.inner if ":" in each).split("/")[0]

    def outer(self, family: int = 4) -> str:
        """Its endpoint in text form."""
        return endpoint(self.space.address(family), self.port)

    # ---- the process ----

    def spawn(self) -> None:
        """Starts the program in the foreground, logs its output, and waits until its UAPI answers.

        wireguard-go is started again if its socket file vanished: `wg show interfaces` of another test
        unlinks a file that nobody listens at, and wireguard-go listens shortly after it made the file.
        """
        for _ in range(5 if self.program is GO else 1):
            if self._launch():
                return
            self.stop()
            until(lambda: not self.exists(), f"{self.interface} is gone")
        assert self.process
        raise AssertionError(f"{self.program} {self.interface} serves no UAPI: {self.log_text()[-2000:]}")

    def _launch(self) -> bool:
        """Whether the UAPI answers."""
        env = dict(os.environ, LOG_LEVEL="verbose", **dict(self.program.env))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                # nohup(1) in front of the tests must not change a node
                self.space.argv("env", "--default-signal=HUP", *self.program.argv, "-f", self.interface),
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self.process
        made = False

        def settled() -> bool:
            nonlocal made
            if process.poll() is not None or self.answers():
                return True
            vanished = made and not self.uapi.exists()
            made = self.uapi.exists()
            return vanished

        until(settled, f"{self.program} {self.interface} serves its UAPI", timeout=60)
        return self.answers()

    def answers(self) -> bool:
        """Whether the UAPI socket accepts a connection."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(30)
            try:
                probe.connect(str(self.uapi))
            except OSError:
                return False
        return True

    def start(self) -> Node:
        """Process, configuration, addresses, link up."""
        self.spawn()
        self.configure()
        self._check_confinement()
        self.bring_up()
        return self

    def _check_confinement(self) -> None:
        """The tests are about nodes under their filter and with few capabilities. It is in force before the
        first answer of the UAPI."""
        env = {**os.environ, **dict(self.program.env)}
        off = env.get("UDPRING_CONFINEMENT") == "off" or this_architecture() is None
        if self.program.argv != SUBJECT.argv or off or os.environ.get("UDPRING_WG_PROGRAM"):
            return
        assert self.process
        node, here = (processes.status(pid) for pid in (self.process.pid, os.getpid()))
        assert node["Seccomp"] == "2"
        assert int(node.get("Seccomp_filters", 1)) > int(here.get("Seccomp_filters", 0))
        assert int(node["CapEff"], 16) | RIGHTS == RIGHTS

    def bring_up(self) -> None:
        for each in self.inner:
            nodad = ["nodad"] if ":" in each else []
            self.space.ip("addr", "add", each, "dev", self.interface, *nodad)
        self.space.ip("link", "set", self.interface, "mtu", str(self.mtu), "up")
        for each in self.inner:
            self.space.wait_for_address(each.partition("/")[0])

    def configuration(self) -> str:
        head = f"[Interface]\nPrivateKey = {self.private_key}\nListenPort = {self.port}\n"
        return head + "\n".join(peer.section() for peer in self.peers) + "\n"

    def configure(self) -> None:
        self.wg("setconf", self.interface, "/dev/stdin", stdin=self.configuration())

    def stop(self) -> None:
        """Sends SIGTERM. The process and its socket file must be gone within 30 s."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)
                raise AssertionError(f"{self.program} did not end within 30 s of SIGTERM") from None

    def kill(self) -> None:
        """Sends SIGKILL, so the program cannot clean up."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def restart(self) -> None:
        """After stop or kill: a new process with the same configuration."""
        until(lambda: not self.exists(), f"{self.interface} is gone")
        self.start()

    def exists(self) -> bool:
        """Whether the interface exists."""
        return self.interface in self.space.ip("-o", "link", "show")

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # ---- wg ----

    def wg(self, *args: str, stdin: str | None = None, timeout: float = 30.0) -> str:
        """Runs ``wg ARGS``. Returns standard output."""
        return self.space.run("wg", *args, stdin=stdin, timeout=timeout).stdout

    def set_peer(self, other: Node, *args: str) -> None:
        """``wg set IF peer OTHER ARGS``."""
        self.wg("set", self.interface, "peer", other.public_key, *args)

    def statuses(self) -> dict[str, PeerStatus]:
        peers = {}
        for line in self.wg("show", self.interface, "dump").splitlines()[1:]:
            key, psk, where, allowed, shook, received, sent, keepalive = line.split("\t")
            peers[key] = PeerStatus(key, psk, where, allowed, int(shook), int(received), int(sent), keepalive)
        return peers

    def status(self, other: Node) -> PeerStatus:
        """This node's view of another."""
        return self.statuses()[other.public_key]

    def uapi_say(self, request: str) -> str:
        """One request on the UAPI socket, unchanged. Returns the answer up to its blank line."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(self.uapi))
            sock.sendall(request.encode())
            answer = b""
            while not answer.endswith(b"\n\n"):
                more = sock.recv(65536)
                if not more:
                    break
                answer += more
            return answer.decode()
