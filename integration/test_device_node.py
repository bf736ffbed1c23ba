"""Hosts with a closed or missing /dev/net/tun, and hosts that deny the interface: each has its own
message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lab import SUBJECT, Rig
from lab.device_node import DRIVERLESS, why_no_node, with_node
from lab.unprivileged import as_nobody, user_namespaces

SECCOMP = Path(__file__).resolve().parents[1] / "tests" / "seccomp.py"
#: Of the open(2) of the device node, and of no other: O_RDWR | O_CLOEXEC | O_NONBLOCK.
NODE_FLAGS = 0x80802
TUNSETIFF = 0x400454CA


@pytest.fixture(autouse=True)
def _device_nodes() -> None:
    if why := why_no_node():
        pytest.skip(why)


def refused(*command: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 3, done
    (line,) = done.stderr.splitlines()
    return line


def udpring_wg(rig: Rig, *before: str) -> str:
    node = rig.node(rig.topology()["a"], SUBJECT, inner=["10.100.0.1/24"])
    said = refused(*node.space.argv(*before, *SUBJECT.argv, "-f", node.interface))
    assert not node.uapi.exists()
    return said


def test_closed_node_differs_from_missing_right(readable: dict[str, str]) -> None:
    """The same user: first the node's mode is the cause, then CAP_NET_ADMIN once every user may open it."""
    user_namespaces(readable)
    command = [sys.executable, "-P", "-m", "udpring.cli.wg", "-f", "closed0"]
    closed = refused(*with_node(0o600), *as_nobody(*command), env=readable)
    assert "/dev/net/tun: permission denied by its mode" in closed
    assert "chmod 0666 /dev/net/tun" in closed
    opened = refused(*with_node(0o666), *as_nobody(*command), env=readable)
    assert "no right to make a TUN device" in opened
    assert "CAP_NET_ADMIN" in opened
    assert "unshare -Urn" in opened
    for inside in (closed, opened):
        assert "closed0" in inside
    enter = ["unshare", "--user", "--map-root-user", "--net"]
    assert "its mode" in refused(*with_node(0o600), *as_nobody(*enter, *command), env=readable)


def test_doctor_names_the_same_cure(readable: dict[str, str]) -> None:
    user_namespaces(readable)
    command = as_nobody(sys.executable, "-P", "-m", "udpring.cli.main", "doctor")
    for mode, cure in ((0o600, "chmod 0666 /dev/net/tun"), (0o666, "CAP_NET_ADMIN")):
        words = [*with_node(mode), *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=readable, check=False)
        assert (done.returncode, done.stderr) == (3, "")
        assert cure in next(line for line in done.stdout.splitlines() if line.startswith("  cure: "))


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (with_node(device=None), ["/dev/net/tun is missing", "modprobe tun", "--device /dev/net/tun"]),
        (with_node(device=DRIVERLESS), ["/dev/net/tun has no driver", "modprobe tun"]),
        (with_node(options="mode=0755,nodev"), ["mounted nodev", "bind the host's /dev/net/tun"]),
    ],
    ids=["missing", "without a driver", "nodev"],
)
def test_each_fault_of_the_node_has_its_words(rig: Rig, before: list[str], words: list[str]) -> None:
    said = udpring_wg(rig, *before)
    for each in words:
        assert each in said


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (f"openat=EPERM:2=={NODE_FLAGS}", ["device rules", "--device /dev/net/tun"]),
        (f"openat=EMFILE:2=={NODE_FLAGS}", ["this process may open no more files", "ulimit -n"]),
        (f"openat=ENFILE:2=={NODE_FLAGS}", ["this host may open no more files", "fs.file-max"]),
        (f"openat=EIO:2=={NODE_FLAGS}", ["/dev/net/tun: Input/output error", "udpring doctor"]),
        (f"ioctl=EPERM:1=={TUNSETIFF}", ["no right to make a TUN device", "CAP_NET_ADMIN"]),
        (f"ioctl=ENODEV:1=={TUNSETIFF}", ["makes no TUN device", "modprobe tun"]),
        (f"ioctl=ENOMEM:1=={TUNSETIFF}", ["no memory for a TUN device", "free memory"]),
        (f"ioctl=EIO:1=={TUNSETIFF}", ["no TUN device can be made: Input/output error", "udpring doctor"]),
    ],
)
def test_each_refusal_has_its_words_and_cure(rig: Rig, rule: str, words: list[str]) -> None:
    said = udpring_wg(rig, sys.executable, str(SECCOMP), rule, "--")
    for each in words:
        assert each in said
