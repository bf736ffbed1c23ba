"""The example that embeds a node carries traffic, reports it, and ends on Ctrl-C without leaving anything."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from lab import Program, Rig, until
from lab.node import Node
from lab.traffic import ping

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
EXAMPLE = EXAMPLES / "embed_node.py"


def configuration(node: Node) -> str:
    """A file for ``wg-quick``: the node's configuration with its addresses."""
    return node.configuration().replace(
        "[Interface]\n", f"[Interface]\nAddress = {', '.join(node.inner)}\n", 1
    )


def test_embed_node(rig: Rig, subject: Program, tmp_path: Path) -> None:
    tunnel = rig.tunnel((subject, subject), start=False)
    tunnel.b.start()
    file = tmp_path / "wg0.conf"
    file.write_text(configuration(tunnel.a))
    file.chmod(0o600)
    said = tmp_path / "said"
    with said.open("wb") as out:
        example = subprocess.Popen(
            tunnel.a.space.argv(sys.executable, str(EXAMPLE), str(file)), stdout=out, stderr=out
        )
    try:
        until(lambda: "UDP port 51820" in said.read_text() or example.poll() is not None, "the node is up")
        assert example.poll() is None, said.read_text()
        ping(tunnel.a.space, tunnel.b.inner4)
        ping(tunnel.b.space, tunnel.a.inner6)
        until(lambda: f"{tunnel.b.public_key}: " in said.read_text(), "it prints its peer")
        example.send_signal(signal.SIGINT)
        assert example.wait(30) == 0, said.read_text()
    finally:
        example.kill()
        example.wait(10)
    assert "udpring0" not in tunnel.a.space.ip("-o", "link", "show")


def test_serve_peers(rig: Rig, subject: Program, tmp_path: Path) -> None:
    """Peers come by a command, events are printed, and the end of the input ends the node."""
    tunnel = rig.tunnel((subject, subject), start=False, both_know=True)
    a, b = tunnel.a, tunnel.b
    said = tmp_path / "said"
    with said.open("wb") as out:
        example = subprocess.Popen(
            a.space.argv(sys.executable, str(EXAMPLES / "serve_peers.py"), a.inner[0], str(a.port)),
            stdin=subprocess.PIPE, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        assert example.stdin is not None
        until(lambda: "public key" in said.read_text() or example.poll() is not None, "the node is up")
        assert example.poll() is None, said.read_text()
        a.public_key = said.read_text().split()[-1]
        b.peers[0].node.public_key = a.public_key
        b.start()
        example.stdin.write(f"nonsense\nadd {b.public_key} {b.inner4}/32 {b.outer()}\n".encode())
        example.stdin.flush()
        ping(a.space, b.inner4)
        until(lambda: f"{b.public_key} is up at" in said.read_text(), "it prints its peer")
        assert "not a command: nonsense" in said.read_text()
        example.stdin.write(f"pause\nresume\nremove {b.public_key}\n".encode())
        example.stdin.close()
        assert example.wait(60) == 0, said.read_text()
        assert said.read_text().splitlines()[-1] == "ends with 0 busy peers"
    finally:
        example.kill()
        example.wait(10)
    assert "udpring0" not in a.space.ip("-o", "link", "show")
