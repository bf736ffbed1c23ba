"""`udpring ping` and `udpring path` over a real tunnel: answers, a narrow path, a peer that has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab import GO, SUBJECT, Rig, Tunnel
from lab.bad_trains import spoil_trains
from lab.host import UDPRING

NARROW = 1300


def _say(tunnel: Tunnel, *words: str, code: int = 0) -> dict[str, Any]:
    own = ("--interface", tunnel.a.interface, "--json")
    done = tunnel.a.space.run(*UDPRING, *words, *own, check=False, timeout=120)
    assert done.returncode == code, done.stderr + done.stdout
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_ping_tells_whether_a_peer_answers(rig: Rig) -> None:
    tunnel = rig.tunnel((SUBJECT, GO))
    words = ("ping", tunnel.b.inner4, "--interval", "0.05", "--timeout", "20")
    said = _say(tunnel, *words, "--count", "3")
    assert said["handshake"]["new"]
    assert said["handshake"]["afterMs"] > 0
    assert (said["tunnel"]["received"], said["outside"]["received"]) == (3, 3)
    assert said["tunnel"]["roundTripMs"]["average"] > 0
    assert said["causes"] == []
    said = _say(tunnel, "ping", tunnel.b.public_key, "--count", "1", "--timeout", "20")
    assert (said["address"], said["endpoint"]) == (tunnel.b.inner4, tunnel.b.outer())
    assert not said["handshake"]["new"]
    text = tunnel.a.space.run(*UDPRING, "ping", tunnel.b.inner6, "--count", "1", "--timeout", "20").stdout
    assert "\ntunnel: 1 sent, 1 answered, 0% lost, min/average/max " in text

    tunnel.b.stop()
    said = _say(tunnel, *words[:-1], "5", "--count", "1", code=1)
    assert (said["tunnel"]["received"], said["outside"]["received"]) == (0, 1)
    assert "nothing came from" in said["causes"][0]

    tunnel.a.space.ip("link", "set", tunnel.a.interface, "down")
    said = _say(tunnel, "ping", tunnel.b.public_key, "--count", "1", code=1)
    assert said["causes"] == [f"{tunnel.a.interface} is down: ip link set dev {tunnel.a.interface} up"]


def test_path_finds_the_narrow_part(rig: Rig) -> None:
    """A router drops larger packets without a word, both outer and inner ones."""
    topology = rig.topology("narrow-mtu")
    tunnel = rig.tunnel(topology=topology)
    said = _say(tunnel, "path", tunnel.b.inner4, "--count", "3", "--timeout", "20")
    outside = said["outside"]["answeredMtu"]
    assert 576 <= outside < said["outside"]["linkMtu"]
    assert said["advisedMtu"] == outside - 60
    assert said["tunnel"]["sizes"]
    assert all(size["sent"] == 3 for size in said["tunnel"]["sizes"])

    tunnel.a.space.ip("link", "set", tunnel.a.interface, "mtu", str(said["advisedMtu"]))
    said = _say(tunnel, "path", tunnel.b.inner4, "--count", "3", "--timeout", "20")
    assert said["tunnel"]["answeredMtu"] == said["tunnel"]["linkMtu"] == said["advisedMtu"]
    assert said["trains"]["packets"] == 256
    assert said["trains"]["trainsSent"] is not None


def test_path_does_not_praise_lost_trains(rig: Rig, tmp_path: Path) -> None:
    """Single packets pass. The node may notice it first, and then sends no trains."""
    program = SUBJECT.with_env(UDPRING_OFFLOADS="all")
    tunnel = rig.tunnel((program, program))
    spoil_trains(tunnel.a.space, tmp_path, "lose")
    said = _say(tunnel, "path", tunnel.b.inner4, "--count", "2", "--timeout", "5")
    assert said["tunnel"]["answeredMtu"] == tunnel.a.mtu
    assert said["trains"]["verdict"] != "survive"
