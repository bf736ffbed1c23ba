"""A start under limits and in sandboxes succeeds, or one line names the refused call and a cure."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from lab import SUBJECT, Node, Rig
from lab.start import check_refused, start
from lab.unprivileged import as_nobody, environment, user_namespaces
from seccomp import CALLS

SECCOMP = Path(__file__).resolve().parents[1] / "tests" / "seccomp.py"
#: Without .pth files, because those of an editable installation fail at the smallest limits.
BARE = (sys.executable, "-P", "-S", "-m", "udpring.cli.wg")


def bare() -> dict[str, str]:
    env = environment()
    return {**env, "PYTHONPATH": f"{env['PYTHONPATH']}:{sysconfig.get_path('platlib')}"}


def subject(rig: Rig) -> Node:
    return rig.node(rig.topology()["a"], SUBJECT, inner=["10.100.0.1/24"])


def limited(node: Node, limit: str, *command: str) -> list[str]:
    return node.space.argv("sh", "-c", f'ulimit {limit} && exec "$@"', "sh", *command)


@pytest.mark.timeout(300)
def test_every_number_of_open_files(rig: Rig) -> None:
    """From the minimum for an interpreter, one free descriptor, up to enough."""
    node = subject(rig)
    for number in range(4, 41):
        found = start(limited(node, f"-n {number}", *BARE, "-f", node.interface), node.uapi, bare())
        if found.up:
            assert (found.code, found.said) == (0, []), (number, found)
        else:
            check_refused(found, "ulimit -n")
    assert found.up, "40 are enough"


@pytest.mark.parametrize("number", [4, 5, 6, 7, 12, 20, 34])
def test_few_open_files_in_the_background(rig: Rig, number: int) -> None:
    node = subject(rig)
    command = limited(node, f"-n {number}", *BARE, node.interface)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=bare(), check=False)
    assert done.returncode == 3, done
    (line,) = done.stderr.splitlines()
    assert "ulimit -n" in line
    assert not node.space.pids()


@pytest.mark.timeout(300)
def test_every_amount_of_memory(rig: Rig) -> None:
    """Up to a successful start. The interpreter itself needs 24 MiB."""
    node = subject(rig)
    for mebibytes in range(24, 1200, 12):
        found = start(limited(node, f"-v {mebibytes << 10}", *BARE, "-f", node.interface), node.uapi, bare())
        if found.up:
            assert found.code == 0, found
            break
        check_refused(found, "ulimit -v")
    else:
        pytest.fail("never enough")


def test_no_locked_memory_is_needed(rig: Rig) -> None:
    """Without rings, if the kernel counts them and root may not lift the limit."""
    node = subject(rig)
    command = limited(node, "-l 0", *SUBJECT.argv, "-f", node.interface)
    usual = {name: value for name, value in os.environ.items() if name != "UDPRING_TIER"}
    found = start(command, node.uapi, usual)
    assert (found.up, found.code, found.said) == (True, 0, [])


@pytest.mark.parametrize("tier", ["uring-multishot", "uring-pool", "mmsg"])
def test_locked_memory_is_raised(rig: Rig, tier: str) -> None:
    """The node gives up the capability by which root is exempt, so it raises the limit before that. A named
    tier has no other to fall back to."""
    node = subject(rig)
    command = limited(node, "-S -l 0", *SUBJECT.argv, "-f", node.interface)
    found = start(command, node.uapi, {**os.environ, "UDPRING_TIER": tier})
    assert (found.up, found.code, found.said) == (True, 0, [])


def test_no_process_to_be_had(rig: Rig, readable: dict[str, str]) -> None:
    """RLIMIT_NPROC binds all users but root: user nobody, in its own namespaces."""
    user_namespaces(readable)
    enter = ["unshare", "--user", "--map-root-user", "--net", "--"]
    begin = ["unshare", "--mount", "sh", "-c", MAKE_ROOM, "sh"]
    words = ["prlimit", "--nproc=1", sys.executable, "-P", "-m", "udpring.cli.wg"]
    found = start([*begin, *as_nobody(*enter, *words, "-f", "threads0")], Path("/nowhere"), readable)
    check_refused(found, "process (fork)", "ulimit -u")


MAKE_ROOM = """
mount -t tmpfs tmpfs /run && mkdir -m 777 /run/wireguard &&
mount -t tmpfs -o mode=0755 tmpfs /dev/net && mknod -m 0666 /dev/net/tun c 10 200 && exec "$@"
"""


#: Calls of a start that a sandbox may deny, and the word that names each one. Without openat, mmap, read and
#: fcntl the interpreter itself would not start.
DENIED = {
    "eventfd2": "eventfd",
    "epoll_create1": "epoll_create1",
    "epoll_ctl": "epoll_ctl",
    "epoll_wait": "epoll_wait",
    "socketpair": "socketpair",
    "socket": "socket",
    "setsockopt": "UDP socket refuses",
    "getsockopt": "UDP socket refuses",
    "bind": "binding UDP port",
    "getsockname": "binding UDP port",
    "listen": ".sock",
    "fchmod": ".sock",
}
MADE_DO = ("io_uring_setup", "io_uring_enter", "io_uring_register", "madvise", "inotify_init1", "setns")
IN_THE_BACKGROUND = ("pipe2", "setsid", "chdir", "dup2", "eventfd2", "socketpair")


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("call", [call for call in DENIED if CALLS[call] >= 0])
def test_a_denied_call_is_named(rig: Rig, call: str, error: str) -> None:
    node = subject(rig)
    begin = [sys.executable, str(SECCOMP), f"{call}={error}", "--"]
    found = start(node.space.argv(*begin, *SUBJECT.argv, "-f", node.interface), node.uapi)
    check_refused(found, DENIED[call], "sandbox" if call not in ("listen", "fchmod") else "(")


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("call", [call for call in IN_THE_BACKGROUND if CALLS[call] >= 0])
def test_a_denied_call_is_named_from_the_background(rig: Rig, call: str, error: str) -> None:
    node = subject(rig)
    begin = [sys.executable, str(SECCOMP), f"{call}={error}", "--"]
    done = node.space.run(*begin, *SUBJECT.argv, node.interface, check=False, timeout=60)
    assert done.returncode == 3, done
    (line,) = done.stderr.splitlines()
    assert "sandbox" in line
    assert not node.space.pids()


@pytest.mark.parametrize("call", MADE_DO)
def test_without_these_calls_it_makes_do(rig: Rig, call: str) -> None:
    """A forced tier does not fall back, so the tier is chosen here."""
    node = subject(rig)
    begin = ["env", "UDPRING_TIER=auto", sys.executable, str(SECCOMP), f"{call}=EPERM", "--"]
    found = start(node.space.argv(*begin, *SUBJECT.argv, "-f", node.interface), node.uapi)
    assert (found.up, found.code, found.said) == (True, 0, [])


INET, INET6, NETLINK = 2, 10, 16


@pytest.mark.parametrize("families", [[INET], [INET6], [NETLINK]], ids=["IPv4", "IPv6", "netlink"])
def test_one_address_family_may_be_denied(rig: Rig, families: list[int]) -> None:
    """As RestrictAddressFamilies= of a unit denies it. The node then has only the other family."""
    node = subject(rig)
    rules = [f"socket=EAFNOSUPPORT:0=={family}" for family in families]
    found = start(
        node.space.argv(sys.executable, str(SECCOMP), *rules, "--", *SUBJECT.argv, "-f", node.interface),
        node.uapi,
    )
    assert (found.up, found.code, found.said) == (True, 0, [])


def test_both_address_families_denied_are_named(rig: Rig) -> None:
    node = subject(rig)
    rules = [f"socket=EAFNOSUPPORT:0=={family}" for family in (INET, INET6)]
    found = start(
        node.space.argv(sys.executable, str(SECCOMP), *rules, "--", *SUBJECT.argv, "-f", node.interface),
        node.uapi,
    )
    check_refused(found, "neither AF_INET nor AF_INET6", "RestrictAddressFamilies=")


def test_doctor_misses_open_files(rig: Rig) -> None:
    command = ["sh", "-c", 'ulimit -n 12 && exec "$@"', "sh", sys.executable, "-P", "-m", "udpring.cli.main"]
    done = rig.topology()["a"].run(*command, "doctor", check=False, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")
    assert "MISSING: open files: no node comes up" in done.stdout
