"""A captured initiation, replayed after the responder was killed and restarted."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Rig, until
from lab.wire import INITIATION, Capture

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go keeps no timestamps")


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
def test_captured_initiation_moves_no_endpoint_after_a_restart(rig: Rig, tmp_path: Path, kept: bool) -> None:
    program = SUBJECT.with_env(UDPRING_TIMESTAMPS=str(tmp_path / "state")) if kept else SUBJECT
    tunnel = rig.tunnel((GO, program))
    a, b = tunnel.a, tunnel.b
    with Capture(a.space, tmp_path / "capture") as capture:
        tunnel.ping()
    captured = next(each for each in capture.messages() if each.type == INITIATION)
    if kept:
        file = tmp_path / "state" / f"{b.interface}.timestamps"
        key = base64.b64decode(a.public_key).hex()
        until(lambda: f"\n{key} " in file.read_text(), "the timestamp is saved")
    a.stop()
    b.kill()
    b.restart()
    assert b.status(a).endpoint == "(none)"
    with a.space.socket(a.space.ipv4, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(captured.payload, captured.target)
        if kept:
            until(lambda: "dropped: replayed_initiation" in b.log_text(), "it is dropped as a replay")
            assert b.status(a).endpoint == "(none)"
        else:
            port = stranger.getsockname()[1]
            until(lambda: b.status(a).endpoint == f"{a.space.ipv4}:{port}", "it moves the endpoint")
