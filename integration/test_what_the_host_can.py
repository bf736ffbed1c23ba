"""``udpring.probe()`` as root: the TUN device complete, partial, and unnoticed by other namespaces."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import Rig

SECCOMP = Path(__file__).resolve().parents[1] / "tests" / "seccomp.py"
TUNSETOFFLOAD, USO4 = 0x400454D0, 0x20
# Subscribes to notices about links (rtnetlink(7), RTMGRP_LINK) before it probes.
WATCHED = """
import json, socket, udpring
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as reported:
    reported.bind((0, 1))
    reported.setblocking(False)
    found = udpring.probe()
    seen = b""
    try:
        while True:
            seen += reported.recv(65536)
    except BlockingIOError:
        pass
print(json.dumps([found.as_dict(), seen.hex()]))
"""


def probed(rig: Rig, *rules: str) -> tuple[dict[str, Any], bytes]:
    begin = [sys.executable, str(SECCOMP), *rules, "--"] if rules else []
    said = rig.topology()["a"].run(*begin, sys.executable, "-P", "-c", WATCHED, timeout=60)
    found, seen = json.loads(said.stdout)
    return found, bytes.fromhex(seen)


def test_a_node_can_run_and_no_interface_was_seen(rig: Rig) -> None:
    found, seen = probed(rig)
    assert found["can_run_node"] is True, found["missing"]
    assert found["tun"]["multi_queue"]["works"]
    assert "tso4" in found["tun"]["offloads"]
    assert found["capabilities"]["CAP_NET_ADMIN"]
    assert b"udpring" not in seen


FIREWALL = "add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }"


NO_LOOPBACK = "ip link add only type veth && ip addr add 10.1.2.3/24 dev only && exec"


@pytest.mark.parametrize("how", ["never up", "never up beside others", "taken down", "firewall"])
def test_loopback_that_carries_nothing_is_no_fault(rig: Rig, how: str) -> None:
    """No tier or offload is reported as the cause, and a node runs."""
    space = rig.topology()["a"]
    if how == "firewall":
        space.run("nft", FIREWALL)
    if how == "taken down":
        space.run("ip", "link", "set", "lo", "down")
    # In the second case no loopback address can be bound: another interface made the table of local
    # addresses.
    fresh = {
        "never up": ["unshare", "--net"],
        "never up beside others": ["unshare", "--net", "sh", "-c", f'{NO_LOOPBACK} "$@"', "sh"],
    }.get(how, [])
    code = "import json; from udpring.udp.probe import probe_udp; print(json.dumps(probe_udp().as_dict()))"
    found = json.loads(space.run(*fresh, sys.executable, "-P", "-c", code, timeout=60).stdout)
    assert found["tier"] == "uring-multishot"
    assert found["UDP_SEGMENT"]["works"]
    assert found["UDP_GRO"]["works"]
    assert "no datagram crosses loopback" in found["UDP_SEGMENT"]["reason"]
    assert "crosses loopback" in found["UDP_GRO"]["reason"]


def test_what_the_kernel_refuses_is_missing(rig: Rig) -> None:
    """Linux before 6.2 refuses USO. A hardened one refuses the eBPF program and namespaces."""
    found, seen = probed(rig, f"ioctl=EINVAL:1=={TUNSETOFFLOAD}:2>={USO4}", "bpf=EPERM", "unshare=EPERM")
    assert found["can_run_node"] is True
    assert found["tun"]["offloads"] == ["csum", "tso4", "tso6", "tso-ecn"]
    assert found["tun"]["steering"]["works"] is False
    assert "this network namespace" in found["tun"]["device"]["reason"]
    assert b"udpring" in seen
    reported = {each["what"] for each in found["missing"]}
    assert reported >= {"TUN offloads uso4, uso6", "queue steering"}
