"""``udpring doctor``: the table, the cures, the exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from preload import build, preload
from seccomp import Rule, launcher

import udpring

COMMAND = [sys.executable, "-P", "-m", "udpring.cli.main", "doctor"]
NO_TUN = Rule("ioctl", errno.EPERM, ((1, "==", 0x400454CA),))


def doctor(
    *arguments: str, rules: tuple[Rule, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    begin = launcher(*rules) if rules else []
    return subprocess.run(
        [*begin, *COMMAND, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_table_and_the_exit_code_say_the_same() -> None:
    done = doctor()
    can = udpring.probe().can_run_node
    assert done.returncode == (0 if can else 3)
    assert done.stdout.splitlines()[-1] == ("a node can run here" if can else "no node can run here")
    for word in ("uring-multishot", "UDP_SEGMENT", "chacha20-poly1305", "CAP_NET_ADMIN", "rmem_max"):
        assert word in done.stdout
    assert done.stderr == ""


def test_json_is_the_probe() -> None:
    found = json.loads(doctor("--json").stdout)
    assert found.keys() == udpring.probe().as_dict().keys()
    assert found["udpring"] == udpring.__version__


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_host_that_cannot_is_exit_code_3(arguments: tuple[str, ...]) -> None:
    done = doctor(*arguments, rules=(NO_TUN,))
    assert done.returncode == 3
    if not arguments:
        assert "MISSING: a TUN device" in done.stdout
        assert "cure: " in done.stdout


def test_each_missing_thing_has_its_cure() -> None:
    said = doctor(rules=(Rule("io_uring_setup", errno.ENOSYS),)).stdout
    assert "missing: tier uring-multishot: tier mmsg is used" in said
    lines = said.splitlines()
    for number, line in enumerate(lines):
        if line.lower().startswith("missing: "):
            assert lines[number + 1].startswith("  cure: ")
    assert "mmsg" in next(line for line in lines if "(in use)" in line)


def test_programs_that_up_needs_are_listed(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": str(tmp_path)},
        check=False,
    )
    for words in ("resolvconf or resolvectl", "nft or iptables-restore", "bash", "sysctl"):
        assert f"missing: {words}: " in done.stdout
    assert "apt-get install openresolv" in done.stdout
    for name in ("resolvectl", "nft"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [*COMMAND, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": str(tmp_path)},
        check=False,
    )
    tools = json.loads(done.stdout)["up_tools"]
    assert {name: tool["works"] for name, tool in tools.items()} == {
        "hooks": False, "DNS": True, "firewall": True, "sysctl": False,
    }  # fmt: skip


def test_doctor_names_a_kernel_that_damages_trains(tmp_path: Path) -> None:
    shim = build(Path(__file__).parents[1] / "other_kernel.c", tmp_path)
    lines = doctor(LD_PRELOAD=preload(shim), KERNEL_RELEASE="7.0.2-6-pve").stdout.splitlines()
    assert "Linux 7.0.2-6-pve" in lines[0]
    row = next(line for line in lines if line.startswith("UDP ") and "UDP_SEGMENT" in line)
    assert "  no " in row
    assert row.endswith("Linux 7.0 to 7.1.4 mangle UDP_SEGMENT sends whose segments are all equal")
    at = lines.index("missing: UDP_SEGMENT: every datagram is sent on its own")
    assert lines[at + 1].startswith("  cure: Linux 7.1.5 or newer")
    assert "UDPRING_OFFLOADS=all" in lines[at + 1]
