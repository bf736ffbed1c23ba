"""The demo's laboratory: two network namespaces joined by a veth, a tunnel node in each, and the
measurements.

Every process here ends when its pipe closes, so nothing stays even if the demo is killed. Only a UAPI socket
has a name outside the namespaces, for programs that need one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udpring.errors import HostError, UdpringError
from udpring_tools.bench.interpreter import module_argv
from udpring_tools.bench.space import Space, join

if TYPE_CHECKING:
    from udpring.tunnel.uapi_client import UapiClient

__all__ = ["Lab", "Measured", "NodeFacts"]

PORT = 51820
TCP_PORT = 5201
ECHOES = 400
ECHO_GAP = 0.002
FIRST_ECHO_WAIT = 10.0
PIECE = 1 << 18
OUTER = {"IPv4": ("10.99.0.1", "10.99.0.2"), "IPv6": ("fd99::1", "fd99::2")}
INNER = {"IPv4": ("10.100.0.1", "10.100.0.2"), "IPv6": ("fd10:100::1", "fd10:100::2")}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node's description of itself."""

    tier: str
    tier_reason: str
    aead: str


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one tunnel. ``handshake_ms``: from the first packet to its answer, with the
    handshake."""

    outer: str
    inner: str
    handshake_ms: float
    rtt_p50_ms: float | None
    rtt_p99_ms: float | None
    echoes_lost: int
    tcp_forward_gbit_s: float
    tcp_reverse_gbit_s: float
    gbit_per_cpu_s: float | None


class Process:
    """A node's process in a namespace. ``program``: compatible with wireguard-go. Without it:
    udpring.Node."""

    def __init__(self, space: Space, program: str | None, interface: str) -> None:
        self.space = space
        self.program = program
        self.interface = interface
        own = module_argv("udpring_tools.demo.node")
        argv = own if program is None else [*program.split(), "-f", interface]
        try:
            self.process = subprocess.Popen(
                space.argv(*argv, at_our_end="TERM"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if program is None else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                text=True,
                env={**os.environ, "LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"},
            )
        except FileNotFoundError as missing:
            raise HostError(f"{missing.filename} is not installed", cure="install it") from None

    def configure(self, text: str) -> NodeFacts:
        """Passes the configuration. Returns when the node is up."""
        if self.program is None:
            return self._configure_own(text)
        return self._configure_program(text)

    def _configure_own(self, text: str) -> NodeFacts:
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"config": text, "name": self.interface}) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise self._failure()
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise HostError(str(said["error"]))
        return NodeFacts(said["tier"], said["tier_reason"], said["aead"])

    def _configure_program(self, text: str) -> NodeFacts:
        from udpring.tunnel import config, uapi  # noqa: PLC0415
        from udpring.tunnel.uapi_client import UapiClient  # noqa: PLC0415

        given = config.Config.loads(text)
        client = UapiClient(self.interface)
        end = time.monotonic() + 10
        while not _answers(client):
            if self.process.poll() is not None or time.monotonic() > end:
                raise self._failure()
            time.sleep(0.02)
        peer = given.peers[0]
        assert peer.endpoint is not None
        assert peer.endpoint.address is not None
        client.set(
            [
                uapi.SetPrivateKey(given.interface.private_key),
                uapi.SetListenPort(given.interface.listen_port),
                uapi.PeerBegin(peer.public_key),
                uapi.SetEndpoint(peer.endpoint.address.packed, peer.endpoint.port),
                *(
                    uapi.AllowedIp(
                        socket.AF_INET if each.version == 4 else socket.AF_INET6,
                        each.network_address.packed,
                        each.prefixlen,
                    )
                    for each in peer.allowed_ips
                ),
            ]
        )
        for address in given.interface.addresses:
            nodad = ["nodad"] if address.version == 6 else []
            self.space.command("ip", "addr", "add", str(address), "dev", self.interface, *nodad)
        mtu = str(given.interface.mtu)
        self.space.command("ip", "link", "set", self.interface, "mtu", mtu, "up")
        return NodeFacts("", "", "")

    def _failure(self) -> HostError:
        assert self.process.stderr
        self.process.kill()
        said = self.process.stderr.read().strip().splitlines()
        return HostError(said[-1] if said else f"{self.program or 'the node'} ended at once")

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / TICKS

    def close(self) -> None:
        """Ends it by its pipe or SIGTERM, finally by SIGKILL."""
        assert self.process.stdin
        assert self.process.stderr
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.program is not None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()
        if self.process.stdout:
            self.process.stdout.close()


class Lab:
    """Two joined namespaces. ``measure`` starts two nodes in them, one after another, and measures."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self.a = Space()
            self._stack.callback(self.a.close)
            self.b = Space()
            self._stack.callback(self.b.close)
            ends = zip(OUTER["IPv4"], OUTER["IPv6"], strict=True)
            join(self.a, self.b, [[f"{four}/24", f"{six}/64"] for four, six in ends])
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(
        self, program: str | None, outer: str, inner: str, seconds: float, tell: Callable[[str], None]
    ) -> tuple[Measured, NodeFacts]:
        """Two new nodes. ``outer`` and ``inner`` are ``IPv4`` or ``IPv6``. Raises HostError, UdpringError."""
        tell(f"{program or 'udpring'}: outer {outer}, inner {inner}")
        with contextlib.ExitStack() as stack:
            tag = secrets.token_hex(3)
            nodes = []
            for space, letter in ((self.a, "a"), (self.b, "b")):
                nodes.append(Process(space, program, f"demo{tag}{letter}"))
                stack.callback(nodes[-1].close)
            texts = _configurations(outer)
            facts = [node.configure(text) for node, text in zip(nodes, texts, strict=True)]
            for number, space in enumerate((self.a, self.b)):
                for address in (OUTER["IPv6"][number], INNER["IPv6"][number]):
                    _wait_until_local(space, address)
            # Excludes neighbour discovery of the link below from the measurement.
            self.a.begin(lambda: _echo(OUTER[outer][1], 1, FIRST_ECHO_WAIT))()
            target = INNER[inner][1]
            handshake = self.a.begin(lambda: _echo(target, 1, FIRST_ECHO_WAIT))()
            if not handshake:
                raise UdpringError(f"no answer through the tunnel (outer {outer}, inner {inner})")
            times = self.a.begin(lambda: _echo(target, ECHOES, 1.0))()
            before = sum(node.cpu_seconds() for node in nodes)
            forward, sent_forward = self._tcp(self.a, self.b, target, seconds)
            reverse, sent_reverse = self._tcp(self.b, self.a, INNER[inner][0], seconds)
            used = sum(node.cpu_seconds() for node in nodes) - before
        return Measured(
            outer=outer,
            inner=inner,
            handshake_ms=round(handshake[0] * 1e3, 3),
            rtt_p50_ms=round(statistics.median(times) * 1e3, 3) if times else None,
            rtt_p99_ms=round(sorted(times)[int(len(times) * 0.99)] * 1e3, 3) if times else None,
            echoes_lost=ECHOES - len(times),
            tcp_forward_gbit_s=round(forward, 3),
            tcp_reverse_gbit_s=round(reverse, 3),
            gbit_per_cpu_s=round((sent_forward + sent_reverse) * 8e-9 / used, 3) if used else None,
        ), facts[0]

    def _tcp(self, here: Space, there: Space, target: str, seconds: float) -> tuple[float, int]:
        """One stream to ``target`` in ``there``: received Gbit/s, and bytes."""
        listening = there.begin(lambda: socket.create_server((target, TCP_PORT), family=_family(target)))()
        with listening:
            listening.settimeout(10)
            receive = there.begin(lambda: _receive(listening))
            here.begin(lambda: _send(target, seconds))()
            received, lasted = receive()
        return received * 8e-9 / lasted, received


def _answers(client: UapiClient) -> bool:
    """Waits, because a socket's file exists before the program listens."""
    try:
        client.get()
    except UdpringError:
        return False
    return True


def _wait_until_local(space: Space, address: str) -> None:
    """Waits until the kernel delivers to an IPv6 address, which is shortly after it was added or its link set
    up. A work item does it, which may be late on a busy machine. An earlier echo is lost."""
    end = time.monotonic() + FIRST_ECHO_WAIT
    while not space.command("ip", "-6", "route", "show", "table", "local", address).strip():
        if time.monotonic() > end:
            raise HostError(f"the address {address} did not come up within {FIRST_ECHO_WAIT:g} s")
        time.sleep(0.005)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _configurations(outer: str) -> list[str]:
    from udpring.tunnel import keys  # noqa: PLC0415

    private = [keys.generate_private_key() for _ in range(2)]
    texts = []
    for here, there in ((0, 1), (1, 0)):
        host = OUTER[outer][there]
        texts.append(
            f"[Interface]\nPrivateKey = {keys.to_base64(private[here])}\nListenPort = {PORT}\n"
            f"Address = {INNER['IPv4'][here]}/24, {INNER['IPv6'][here]}/64\nMTU = 1420\nTable = off\n"
            f"[Peer]\nPublicKey = {keys.to_base64(keys.public_key(private[there]))}\n"
            f"AllowedIPs = {INNER['IPv4'][there]}/32, {INNER['IPv6'][there]}/128\n"
            f"Endpoint = {f'[{host}]' if ':' in host else host}:{PORT}\n"
        )
    return texts


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _echo(target: str, count: int, patience: float) -> list[float]:
    """ICMP echoes, one after another: the seconds of those answered within ``patience``."""
    six = _family(target) == socket.AF_INET6
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    identity = secrets.randbelow(1 << 16)
    times = []
    with socket.socket(_family(target), socket.SOCK_RAW, protocol) as raw:
        for number in range(count):
            body = struct.pack("!HH", identity, number) + bytes(56)
            kind = 128 if six else 8
            check = 0 if six else _checksum(struct.pack("!BBH", kind, 0, 0) + body)
            started = time.perf_counter()
            # The IPv6 address of a new interface may take a moment to be usable.
            _send_echo(raw, struct.pack("!BBH", kind, 0, check) + body, target, started + patience)
            while (left := started + patience - time.perf_counter()) > 0:
                raw.settimeout(left)
                try:
                    answer = raw.recv(2048)
                except TimeoutError:
                    break
                icmp = answer if six else answer[(answer[0] & 15) * 4 :]
                if icmp[0] == (129 if six else 0) and icmp[4:8] == body[:4]:
                    times.append(time.perf_counter() - started)
                    break
            time.sleep(ECHO_GAP if count > 1 else 0)
    return times


def _send_echo(raw: socket.socket, packet: bytes, target: str, until: float) -> None:
    while True:
        try:
            raw.sendto(packet, (target, 0))
            return
        except OSError:
            if time.perf_counter() > until:
                raise
            time.sleep(0.01)


def _receive(listening: socket.socket) -> tuple[int, float]:
    """Serves one connection to its end: bytes, and seconds from the first to the last."""
    connection, _ = listening.accept()
    buffer = bytearray(PIECE)
    with connection:
        connection.settimeout(30)
        received = connection.recv_into(buffer)
        started = time.perf_counter()
        while taken := connection.recv_into(buffer):
            received += taken
        lasted = time.perf_counter() - started
        connection.sendall(b"done")
    return received, max(lasted, 1e-9)


def _send(target: str, seconds: float) -> None:
    piece = bytes(PIECE)
    with socket.create_connection((target, TCP_PORT), timeout=30) as connection:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(16)
