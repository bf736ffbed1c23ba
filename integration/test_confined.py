"""A start in chroots, with read-only and full filesystems, and as root of a user namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab import SUBJECT, Node, Rig, until
from lab.chroot import chroot
from lab.device_node import why_no_node, with_node
from lab.start import check_refused, start
from lab.unprivileged import as_nobody, environment, user_namespaces

UP = (sys.executable, "-P", "-m", "udpring.cli.main", "up")


@pytest.fixture(autouse=True)
def _device_nodes() -> None:
    if why := why_no_node():
        pytest.skip(why)


def subject(rig: Rig) -> Node:
    return rig.node(rig.topology()["a"], SUBJECT, inner=["10.100.0.1/24"])


def confined(node: Node, root: Path, *parts: str) -> list[str]:
    root.mkdir(exist_ok=True)
    return node.space.argv(*chroot(root, *parts))


def comes_up(node: Node, root: Path, *parts: str) -> None:
    """In the background, so that the command itself reports when it is up."""
    done = subprocess.run(
        [*confined(node, root, *parts), *SUBJECT.argv, node.interface],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert node.exists()
    node.space.ip("link", "del", node.interface)


def test_least_root_that_a_node_lives_in(rig: Rig, tmp_path: Path) -> None:
    """No /proc, no /sys, and in /dev only null and net/tun."""
    comes_up(subject(rig), tmp_path / "root", "null", "tun", "run")


def test_the_socket_directory_is_made_where_it_can_be(rig: Rig, tmp_path: Path) -> None:
    comes_up(subject(rig), tmp_path / "root", "null", "tun")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (("null", "run"), ["/dev/net/tun is missing", "modprobe tun"]),
        (("null", "tun", "readonly"), ["wireguard", "Read-only file system", "mount -t tmpfs tmpfs"]),
        (("null", "tun", "readonly run"), ["wireguard", "Read-only file system", "mount -t tmpfs tmpfs"]),
        (("null", "tun", "full run"), ["wireguard", "No space left on device", "free space"]),
    ],
    ids=lambda each: ", ".join(each) if isinstance(each, tuple) else "",
)
@pytest.mark.parametrize("flags", [("-f",), ()], ids=["foreground", "background"])
def test_each_lack_of_a_root_is_named(
    rig: Rig, tmp_path: Path, parts: tuple[str, ...], words: list[str], flags: tuple[str, ...]
) -> None:
    node = subject(rig)
    command = [*confined(node, tmp_path / "root", *parts), *SUBJECT.argv, *flags, node.interface]
    check_refused(start(command, Path("/nowhere")), *words)
    assert not node.exists()


def test_without_dev_null_only_the_foreground_is_left(rig: Rig, tmp_path: Path) -> None:
    node = subject(rig)
    command = [*confined(node, tmp_path / "root", "tun", "run"), *SUBJECT.argv]
    check_refused(start([*command, node.interface], Path("/nowhere")), "/dev/null", "mknod", "foreground")
    assert not node.exists()
    process = subprocess.Popen([*command, "-f", node.interface], stderr=subprocess.PIPE, text=True)
    try:
        file = Path("/proc", str(process.pid), "root", "run/wireguard", f"{node.interface}.sock")
        until(file.exists, "it is up")
    finally:
        process.terminate()
        assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


@pytest.mark.parametrize("namespaces", [("--net",), ()], ids=["own network", "the host's network"])
def test_root_of_a_user_namespace(rig: Rig, readable: dict[str, str], namespaces: tuple[str, ...]) -> None:
    """Root there may make interfaces only in its own network namespace, and owns no /run."""
    user_namespaces(readable)
    enter = as_nobody("unshare", "--user", "--map-root-user", *namespaces, "--")
    command = [sys.executable, "-P", "-m", "udpring.cli.wg", "-f", f"{rig.prefix}w9"]
    found = start([*with_node(), *enter, *command], Path("/nowhere"), readable)
    if namespaces:
        check_refused(found, "/var/run/wireguard", "Permission denied", "the right to write to")
    else:
        check_refused(found, "no right to make a TUN device", "unshare -Urn")


CONFIGURATION = f"[Interface]\nPrivateKey = {'A' * 42}E=\nAddress = 10.77.0.1/24\n"


def up(node: Node, directory: Path, *before: str) -> str:
    """The error of `udpring up` with exit code 3. Nothing of it stays."""
    file = directory / f"{node.interface}.conf"
    file.write_text(CONFIGURATION)
    file.chmod(0o600)
    done = subprocess.run(
        node.space.argv(*before, *UP, str(file)),
        capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 3, done
    (line,) = done.stderr.splitlines()
    assert not node.exists()
    assert not node.space.pids()
    return line


def test_up_without_iproute2_says_what_to_install(rig: Rig, tmp_path: Path) -> None:
    line = up(subject(rig), tmp_path, "env", f"PATH={tmp_path}")
    assert "ip is not installed (install it: apt-get install iproute2)" in line


def test_up_where_nothing_may_be_executed(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "ip").write_text("#!/bin/sh\n")
    line = up(subject(rig), tmp_path, "env", f"PATH={tmp_path}")
    assert "no right to run ip" in line


def test_up_with_a_read_only_socket_directory(rig: Rig, tmp_path: Path) -> None:
    readonly = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro tmpfs /run && exec "$@"', "sh"]
    line = up(subject(rig), tmp_path, *readonly)
    assert "Read-only file system" in line
    assert "mount -t tmpfs" in line


def test_up_of_a_file_that_may_not_be_read(rig: Rig, tmp_path: Path, readable: dict[str, str]) -> None:
    user_namespaces(readable)
    file = Path(readable["PYTHONPATH"]) / "closed.conf"
    file.write_text(CONFIGURATION)
    file.chmod(0o600)
    done = subprocess.run(
        as_nobody(*UP, str(file)), capture_output=True, text=True, timeout=60, env=readable, check=False
    )
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert f"{file}" in line
    assert os.strerror(13) in line
