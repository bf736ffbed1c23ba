"""``udpring.probe()`` on this host, and on hosts that lack something (by a seccomp filter)."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from seccomp import Rule, run_python

import udpring
from udpring.tunnel import probe as tunnel_probe
from udpring.tunnel.ciphers import chosen_aead
from udpring.udp import TIERS
from udpring.wireguard.cipher import Cipher

PROBE = "import json, udpring; print(json.dumps(udpring.probe().as_dict()))"
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
BPF_PROG_LOAD = 5


def probed(*rules: Rule, before: str = "") -> dict[str, Any]:
    child = run_python(f"{before}\n{PROBE}", rules)
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def lacks(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["what"]: each for each in found["missing"]}


def test_what_it_says_agrees_with_what_is_used() -> None:
    found = udpring.probe()
    assert found.version == udpring.__version__
    assert [tier.name for tier in found.udp.tiers] == list(TIERS)
    assert found.udp.tier in TIERS
    assert [each.cipher for each in found.aead] == list(map(str, Cipher))
    for each in found.aead:
        assert each.library == chosen_aead(Cipher(each.cipher))
        assert next(library for library in each.libraries if library.name == each.library)
    assert found.system.kernel == os.uname().release
    assert found.limits.memlock == (
        None
        if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
        else resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    )
    assert found.can_run_node == bool(found.tun.device)


@pytest.mark.parametrize(
    ("machine", "line", "found"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vbmi avx512ifma", ("avx2", "avx512ifma")),
        ("aarch64", "Features\t: fp asimd aes pmull", ("aes", "pmull", "asimd")),
        ("aarch64", "flags\t\t: fpu avx2 avx512ifma", ()),  # qemu-user shows the host's file
    ],
)
def test_cpu_features_are_of_its_processor(
    machine: str, line: str, found: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    there = os.uname()
    monkeypatch.setattr(tunnel_probe, "_PROC", tmp_path)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*there[:4], machine)))
    assert tunnel_probe._system().cpu_features == found


def test_every_answer_has_a_reason() -> None:
    found = udpring.probe()
    features = [*found.uring.features, *found.udp.tiers, found.udp.segment, found.udp.gro]
    features += [found.tun.device, found.tun.multi_queue, found.tun.steering, found.iproute2]
    features += [library for each in found.aead for library in each.libraries]
    assert all(feature.reason for feature in features)
    for missing in found.missing:
        assert missing.what
        assert missing.effect
        assert missing.cure
    json.dumps(found.as_dict())


def test_it_leaves_nothing_behind() -> None:
    udpring.probe()

    def state() -> tuple[int, int, set[str]]:
        links = {link.name for link in Path("/sys/class/net").iterdir()}
        tasks = len(list(Path("/proc/self/task").iterdir()))
        return (
            len(list(Path("/proc/self/fd").iterdir())),
            tasks,
            {name for name in links if "udpring" in name},
        )

    gc.collect()  # garbage of an earlier test may hold descriptors
    descriptors, threads, _ = state()
    for _ in range(10):
        udpring.probe()
    # join() returns shortly before the kernel ends the thread.
    give_up = time.monotonic() + 30
    while state()[1] > threads and time.monotonic() < give_up:
        time.sleep(0.001)
    after = state()
    assert after[0] == descriptors
    assert after[1] <= threads


def test_without_io_uring_a_node_still_runs() -> None:
    found = probed(Rule("io_uring_setup", errno.EPERM))
    assert found["udp"]["tier"] == "mmsg"
    assert found["uring"]["ring"]["works"] is False
    lack = lacks(found)["tier uring-multishot"]
    assert lack["fatal"] is False
    assert "mmsg" in lack["effect"]
    assert "io_uring_setup" in lack["cure"]
    assert found["can_run_node"] == found["tun"]["device"]["works"]


@pytest.mark.parametrize("option", [UDP_SEGMENT, UDP_GRO])
def test_a_kernel_without_an_offload(option: int) -> None:
    """An older kernel does not know the option."""
    denied = [
        Rule(call, errno.ENOPROTOOPT, ((1, "==", SOL_UDP), (2, "==", option)))
        for call in ("setsockopt", "getsockopt")
    ]
    found = probed(*denied)
    name = "UDP_SEGMENT" if option == UDP_SEGMENT else "UDP_GRO"
    assert found["udp"][name] == {
        "works": False,
        "reason": os.strerror(errno.ENOPROTOOPT),
        "errno": errno.ENOPROTOOPT,
    }
    assert name in lacks(found)


@pytest.mark.parametrize(("error", "cure"), [(errno.EPERM, "CAP_NET_ADMIN"), (errno.ENODEV, "modprobe tun")])
def test_without_a_tun_device_no_node_runs(error: int, cure: str) -> None:
    """The rule covers both ways to fail, with or without privileges: the call comes after the open."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        error, cure = 0, "/dev/net/tun"
    found = probed(Rule("ioctl", error or errno.EPERM, ((1, "==", TUNSETIFF),)))
    assert found["can_run_node"] is False
    first = found["missing"][0]
    assert first["fatal"] is True
    assert first["what"] == "a TUN device"
    assert cure in first["cure"]
    assert "udpring%d" not in first["cure"]


def test_without_sockets_every_answer_is_no() -> None:
    found = probed(Rule("socket", errno.EACCES))
    assert found["can_run_node"] is False
    assert found["udp"]["tier"] == ""
    assert not any(found["udp"][name]["works"] for name in (*TIERS, "UDP_SEGMENT", "UDP_GRO"))
    assert "a tier" in lacks(found)


@pytest.mark.parametrize("room", range(8))
def test_lack_of_descriptors_is_a_reason_not_an_error(room: int) -> None:
    """The failure may come at any step. Some answers are no then, and all others are right."""
    found = probed(
        before=f"""
import json, os, resource, udpring.tunnel.probe
used = max(int(number) for number in os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + {room}, used + {room}))
"""
    )
    assert found["system"]["machine"] == os.uname().machine
    if room < 2:
        assert found["can_run_node"] is False


def test_missing_forced_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDPRING_AEAD", "rot13")
    found = probed()
    assert found["can_run_node"] is False
    assert found["aead"]["chacha20-poly1305"]["library"] == ""
    assert "rot13" in found["aead"]["chacha20-poly1305"]["why"]
    assert "rot13" in lacks(found)["a library for chacha20-poly1305"]["cure"]


def test_without_x25519_no_node_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL without its default provider. ipsec-mb could still encrypt packets."""
    only_base = tmp_path / "openssl.cnf"
    only_base.write_text(
        "openssl_conf = init\n[init]\nproviders = used\n[used]\nbase = active\n[active]\nactivate = 1\n"
    )
    monkeypatch.setenv("OPENSSL_CONF", str(only_base))
    found = probed()
    assert found["handshake"]["works"] is False
    assert found["can_run_node"] is False
    assert lacks(found)["handshakes"]["cure"] == found["handshake"]["reason"]
    assert "X25519" in found["handshake"]["reason"]


def test_small_buffers_matter_only_without_the_right_to_more() -> None:
    found = udpring.probe()
    limits = tunnel_probe.Limits(212992, 8 << 20, None, 0)
    for has in (False, True):
        host = tunnel_probe.HostProbe(
            found.version,
            found.system,
            found.uring,
            found.udp,
            found.aead,
            found.tun,
            {"CAP_NET_ADMIN": has},
            limits,
            found.iproute2,
        )
        reported = [each for each in host.missing if each.what.startswith("net.core")]
        assert [each.what for each in reported] == ([] if has else [f"net.core.rmem_max of {7 << 20}"])
        assert all("sysctl -w net.core.rmem_max" in each.cure for each in reported)
