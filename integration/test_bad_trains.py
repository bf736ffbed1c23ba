"""Trains (UDP_SEGMENT) where the kernel, a driver or the route damages or loses them."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import GO, SUBJECT, Rig
from lab.counters import counters, watched
from preload import build, preload

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go is not the subject")
OTHER_KERNEL = Path(__file__).parents[1] / "tests" / "other_kernel.c"


@pytest.mark.parametrize("offloads", ["", "all"])
def test_a_bad_kernel_sends_no_trains_unless_told(rig: Rig, tmp_path: Path, offloads: str) -> None:
    """It receives them all the same, and says why in its log."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    faked = watched(tmp_path / "a").with_env(
        LD_PRELOAD=preload(build(OTHER_KERNEL, tmp_path)),
        KERNEL_RELEASE="7.0.0-12-generic",
        UDPRING_OFFLOADS=offloads,
    )
    tunnel = rig.tunnel((faked, watched(tmp_path / "b").with_env(UDPRING_OFFLOADS="all")))
    tunnel.tcp_both_ways(8 << 20)
    said = counters(tunnel.a)["plane"]
    assert (said["tx"]["trains"] > 0) == (offloads == "all")
    assert said["rx"]["trains"] > 0
    log = tunnel.a.log_text()
    assert log.count("mangle UDP_SEGMENT sends") == (offloads == "")
