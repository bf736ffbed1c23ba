"""A kernel that accepts TUNSETOFFLOAD and then refuses super-packets written to the interface (Linux 6.6.44).

tests/tunnel/tun_refuses.c acts as that kernel in one node of a pair.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import GO, SUBJECT, Rig
from lab.counters import counters, drops, watched
from lab.traffic import datagrams, tcp
from preload import build, preload

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go writes no super-packets here")
SHIM = Path(__file__).parents[1] / "tests" / "tunnel" / "tun_refuses.c"
REPORT = "kernel refuses super-packets"


@pytest.mark.parametrize("refuse", ["all", "short"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_nothing_is_lost_and_log_says_so_once(rig: Rig, tmp_path: Path, refuse: str, workers: str) -> None:
    (tmp_path / "b").mkdir()
    shim = build(SHIM, tmp_path)
    refusing = watched(tmp_path / "b").with_env(
        LD_PRELOAD=preload(shim), REFUSE=refuse, UDPRING_OFFLOADS="all", UDPRING_WORKERS=workers
    )
    tunnel = rig.tunnel((SUBJECT.with_env(UDPRING_OFFLOADS="all"), refusing))
    tunnel.ping()
    for _ in range(3):
        for address in (tunnel.b.inner4, tunnel.b.inner6):
            tcp(tunnel.a.space, tunnel.b.space, address, 8 << 20)
    learnt = counters(tunnel.b)["plane"]
    # A few of each kind by each worker, and no more: after 8 in a row the worker stops.
    assert 0 < learnt["super_packets_split"] <= 400
    tcp(tunnel.a.space, tunnel.b.space, tunnel.b.inner4, 8 << 20)
    datagrams(tunnel.a.space, tunnel.b.space, tunnel.a.inner4, tunnel.b.inner4, [0, 1, 1000, 1200, 1392])
    assert drops(tunnel.b)["tun_full"] == 0
    words = tunnel.b.log_text()
    assert words.count(REPORT) == words.count(f"{REPORT} with a short") + (refuse == "all")
    assert words.count(f"{REPORT} with a short") <= 1
