"""The example that embeds a node carries traffic, reports it, and ends on Ctrl-C without leaving anything."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from lab import Program, Rig, until
from lab.node import Node
from lab.traffic import ping

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "embed_node.py"


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
        until(lambda: f"{tunnel.b.public_key}: " in said.read_text(), "it tells of its peer")
        example.send_signal(signal.SIGINT)
        assert example.wait(30) == 0, said.read_text()
    finally:
        example.kill()
        example.wait(10)
    assert "udpring0" not in tunnel.a.space.ip("-o", "link", "show")
