"""Makes topologies and nodes for a test, removes them, and checks that nothing stays."""

from __future__ import annotations

import base64
import contextlib
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import traffic
from lab.kernel import KERNEL, KernelNode
from lab.node import SUBJECT, UAPI, Node, Peer, Program, endpoint
from lab.space import Space, until
from lab.topology import Topology


@dataclass
class Tunnel:
    """Two nodes that are peers. ``a`` knows the endpoint of ``b``. ``b`` knows that of ``a`` only on
    request."""

    a: Node
    b: Node
    topology: Topology

    def ping(self, *, back: bool = False, deadline: int = 30) -> None:
        """Inner IPv4 and IPv6, from a to b or back."""
        here, there = (self.b, self.a) if back else (self.a, self.b)
        traffic.ping(here.space, there.inner4, deadline=deadline)
        traffic.ping(here.space, there.inner6, deadline=deadline)

    def tcp_both_ways(self, size: int = 2 << 20, family: int = 4) -> None:
        """TCP content each way, both at once."""
        target_a, target_b = (self.a.inner4, self.b.inner4) if family == 4 else (self.a.inner6, self.b.inner6)
        streams = [
            traffic.TcpStream(self.a.space, self.b.space, target_b, size=size),
            traffic.TcpStream(self.b.space, self.a.space, target_a, size=size),
        ]
        for stream in streams:
            stream.finish()


class Rig:
    """One per test. Everything it makes has ``prefix`` in its name: namespaces, interfaces, socket files."""

    def __init__(self, directory: Path) -> None:
        self.prefix = "u" + secrets.token_hex(3)
        self.directory = directory
        self.topologies: list[Topology] = []
        self.nodes: list[Node] = []
        self._finally: list[Callable[[], object]] = []

    def topology(self, script: str = "two-nodes", *options: str) -> Topology:
        prefix = self.prefix + (str(len(self.topologies)) if self.topologies else "")
        made = Topology(script, prefix, *options)
        self.topologies.append(made)
        return made

    def later(self, action: Callable[[], object]) -> None:
        """Registers something to undo at the end of the test, last first."""
        self._finally.append(action)

    def node(
        self,
        space: Space,
        program: Program = SUBJECT,
        *,
        inner: list[str],
        port: int = 51820,
        mtu: int = 1420,
    ) -> Node:
        """A node that is not started."""
        number = len(self.nodes)
        name = f"{self.prefix}w{number}"
        kind = KernelNode if program == KERNEL else Node
        made = kind(space, name, program, self.directory / f"{name}.log", inner, port=port, mtu=mtu)
        self.nodes.append(made)
        return made

    def tunnel(
        self,
        programs: tuple[Program, Program] = (SUBJECT, SUBJECT),
        *,
        topology: Topology | None = None,
        family: int = 4,
        psk: bool = False,
        keepalive: int | None = None,
        both_know: bool = False,
        mtu: int = 1420,
        start: bool = True,
    ) -> Tunnel:
        """Two nodes, a and b of ``topology``. ``family`` is the outer IP version."""
        topology = topology or self.topology()
        subnet = len(self.nodes)
        ends = [
            self.node(
                topology[name],
                program,
                inner=[f"10.{100 + subnet}.0.{i}/24", f"fd10:{subnet}::{i}/64"],
                port=51819 + i,
                mtu=mtu,
            )
            for i, (name, program) in enumerate(zip("ab", programs, strict=True), 1)
        ]
        a, b = ends
        key = base64.b64encode(secrets.token_bytes(32)).decode() if psk else None
        for here, there, knows in ((a, b, True), (b, a, both_know)):
            here.peers.append(
                Peer(
                    there,
                    [f"{there.inner4}/32", f"{there.inner6}/128"],
                    endpoint=there.outer(family) if knows else None,
                    psk=key,
                    keepalive=keepalive if here is a else None,
                )
            )
        if start:
            for end in ends:
                end.start()
        return Tunnel(a, b, topology)

    def close(self) -> None:
        """Removes everything. Raises AssertionError if a program did not end or something stayed."""
        failures: list[BaseException] = []
        actions: list[Callable[[], object]] = [*reversed(self._finally)]
        actions += [node.stop for node in self.nodes] + [topology.down for topology in self.topologies]
        for action in actions:
            try:
                action()
            except BaseException as failure:
                failures.append(failure)
        with contextlib.suppress(AssertionError):
            until(lambda: not leftovers(self.prefix), "all is gone", timeout=20)
        left = leftovers(self.prefix)
        for each in UAPI.glob(f"{self.prefix}*"):
            each.unlink(missing_ok=True)
        assert not failures, failures
        assert not left, f"left behind: {left}"

    def logs(self) -> str:
        """The output of the programs, for a failed test's report."""
        return "\n".join(
            f"--- {node.program} {node.interface}\n{node.log_text()[-4000:]}" for node in self.nodes
        )


def leftovers(prefix: str) -> list[str]:
    """Everything that still has the prefix: namespaces, socket files, interfaces here, processes."""
    found = [f"namespace {path.name}" for path in Path("/run/netns").glob(f"{prefix}*")]
    found += [f"socket {path}" for path in UAPI.glob(f"{prefix}*")]
    links = subprocess.run(
        ["ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    found += [f"interface {word}" for word in links.split() if word.startswith(prefix)]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(word.startswith(prefix) or f"/{prefix}" in word for word in words):
                found.append(f"process {process.name}: {' '.join(words)}")
    return found


__all__ = ["Rig", "Tunnel", "endpoint", "leftovers"]
