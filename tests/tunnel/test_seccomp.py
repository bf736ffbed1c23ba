"""The filters of confined processes, on both architectures by an interpreter, and installed in a child."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
from pathlib import Path

import bpf
import pytest
from seccomp import run_python

from udpring.tunnel import confinement
from udpring.tunnel.confinement import Profile, rules_of
from udpring.tunnel.seccomp import program
from udpring.tunnel.system_calls import ARCHITECTURES, NEWEST, Architecture

HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
PROCESS = 4242
REFUSED, MISSING, NO_FAMILY = (0x50000 | number for number in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
both = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.machine)


class Filter:
    def __init__(self, architecture: Architecture, profile: Profile = Profile.NODE) -> None:
        self.architecture = architecture
        self.steps = program(rules_of(profile, PROCESS), architecture, missing=["clone3"])

    def verdict(self, call: str, *arguments: int) -> int:
        number = self.architecture.numbers[call]
        return bpf.run(self.steps, number, *arguments, audit=self.architecture.audit)


@both
def test_numbers_agree_with_the_kernels_headers(architecture: Architecture) -> None:
    header = Path(HEADERS[architecture.machine])
    if not header.exists():
        pytest.skip(f"no {header}: install linux-libc-dev")
    text = header.read_text()
    found = {
        name: int(number)
        for name, number in re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.MULTILINE)
    }
    known = {name: number for name, number in architecture.numbers.items() if name in found}
    assert len(known) > 100
    assert known == {name: found[name] for name in known}


@both
def test_each_program_is_valid(architecture: Architecture) -> None:
    """Jumps end within the program, and the kernel's limit of instructions is kept."""
    for profile in (
        Profile.NODE,
        Profile.NODE | Profile.FILES,
        Profile.NODE | Profile.READING,
        Profile.ROOTLESS,
        Profile.SERVER,
    ):
        steps = Filter(architecture, profile).steps
        assert len(steps) <= 4096
        for at, (_, yes, no, value) in enumerate(steps):
            assert at + 1 + max(yes, no) < len(steps) or steps[at][0] == 0x06
            assert 0 <= max(yes, no) <= 255
            assert 0 <= value <= 0xFFFFFFFF


@both
@pytest.mark.parametrize(
    "call",
    ["execve", "execveat", "ptrace", "process_vm_readv", "openat", "openat2", "bpf", "mount", "setns",
     "unshare", "io_uring_setup", "seccomp", "capset", "memfd_create", "unlinkat", "renameat2", "getdents64"],
)  # fmt: skip
def test_node_may_not(architecture: Architecture, call: str) -> None:
    assert Filter(architecture).verdict(call) == REFUSED


@both
@pytest.mark.parametrize(
    "call", ["io_uring_enter", "recvmsg", "sendmsg", "read", "write", "futex", "epoll_pwait", "newfstatat"]
)
def test_node_may(architecture: Architecture, call: str) -> None:
    assert Filter(architecture).verdict(call, *range(6)) == bpf.ALLOW


@both
def test_thread_may_schedule_itself_alone(architecture: Architecture) -> None:
    node = Filter(architecture)
    for call in ("sched_setattr", "sched_getscheduler"):
        assert node.verdict(call, 0) == bpf.ALLOW
        assert node.verdict(call, PROCESS) == REFUSED
    for call in ("getpriority", "setpriority"):
        assert node.verdict(call, os.PRIO_PROCESS, 0) == bpf.ALLOW
        assert node.verdict(call, os.PRIO_PROCESS, PROCESS) == REFUSED
        assert node.verdict(call, os.PRIO_USER, 0) == REFUSED


@both
def test_sockets_are_those_of_a_node(architecture: Architecture) -> None:
    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    node = Filter(architecture)
    for family, kind, protocol in (
        (socket.AF_INET, socket.SOCK_DGRAM, 0),
        (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        (socket.AF_UNIX, socket.SOCK_DGRAM, 0),
        (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
    ):
        assert node.verdict("socket", family, kind | flags, protocol) == bpf.ALLOW
    for family, kind, protocol in (
        (socket.AF_INET, socket.SOCK_STREAM, 0),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
        (socket.AF_INET6, socket.SOCK_DGRAM, 136),  # UDP-Lite
        (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
        (socket.AF_NETLINK, socket.SOCK_RAW, 12),  # NETLINK_NETFILTER
        (socket.AF_PACKET, socket.SOCK_RAW, 0),
        (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
        (38, socket.SOCK_SEQPACKET, 0),  # AF_ALG
    ):
        assert node.verdict("socket", family, kind | flags, protocol) == NO_FAMILY


@both
def test_server_may_read_files_and_has_only_unix_sockets(architecture: Architecture) -> None:
    server = Filter(architecture, Profile.SERVER)
    assert server.verdict("openat", 0, 0, 0) == bpf.ALLOW
    assert server.verdict("openat", 0, 0, 1) == REFUSED
    assert server.verdict("openat", 0, 0, 0o100) == REFUSED
    assert server.verdict("unlinkat") == REFUSED
    assert server.verdict("socket", socket.AF_UNIX, socket.SOCK_STREAM) == bpf.ALLOW
    assert server.verdict("socket", socket.AF_INET, socket.SOCK_STREAM) == NO_FAMILY
    assert server.verdict("execve") == REFUSED


@both
def test_rootless_node_binds_nothing_and_signals_by_descriptors(architecture: Architecture) -> None:
    node = Filter(architecture, Profile.ROOTLESS)
    for call in ("bind", "listen", "execve", "openat", "ptrace", "setns", "unshare", "io_uring_setup"):
        assert node.verdict(call) == REFUSED, call
        assert Filter(architecture).verdict("pidfd_send_signal") == REFUSED
    assert node.verdict("kill", 1, 9) == REFUSED
    assert node.verdict("pidfd_send_signal", 7, 15, 0, 0) == bpf.ALLOW
    assert node.verdict("splice", *range(6)) == bpf.ALLOW
    assert node.verdict("fcntl", 3, 1031, 1 << 20) == bpf.ALLOW  # F_SETPIPE_SZ
    assert node.verdict("ioctl", 3, 0x540F) == bpf.ALLOW  # TIOCGPGRP
    assert node.verdict("ioctl", 3, 0x5412) == REFUSED  # TIOCSTI
    assert node.verdict("socket", socket.AF_INET, socket.SOCK_STREAM, 0) == NO_FAMILY
    assert node.verdict("socket", socket.AF_UNIX, socket.SOCK_DGRAM, 0) == NO_FAMILY
    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    assert node.verdict("socketpair", socket.AF_UNIX, socket.SOCK_STREAM | flags) == bpf.ALLOW
    assert node.verdict("socketpair", socket.AF_UNIX, socket.SOCK_SEQPACKET) == bpf.ALLOW
    assert node.verdict("socketpair", socket.AF_UNIX, socket.SOCK_DGRAM) == REFUSED


@both
def test_files_only_for_a_node_that_keeps_timestamps(architecture: Architecture) -> None:
    assert Filter(architecture, Profile.NODE | Profile.FILES).verdict("openat", 0, 0, 0o101) == bpf.ALLOW
    assert Filter(architecture, Profile.NODE | Profile.FILES).verdict("execve") == REFUSED


@both
def test_metrics_and_timestamps_together_have_the_calls_of_both(architecture: Architecture) -> None:
    node = Filter(architecture, Profile.NODE | Profile.FILES | Profile.READING)
    for call in ("getdents64", "readlinkat", "flock", "renameat", "unlinkat"):
        assert node.verdict(call) == bpf.ALLOW, call
    assert node.verdict("openat", 0, 0, 0o101) == bpf.ALLOW


@both
def test_arguments_that_matter(architecture: Architecture) -> None:
    node = Filter(architecture)
    thread, process = 0x3D0F00, signal.SIGCHLD
    assert node.verdict("clone", thread) == bpf.ALLOW
    assert node.verdict("clone", process) == REFUSED
    assert node.verdict("clone3") == MISSING  # its flags lie in memory. The C library then calls clone
    assert node.verdict("mmap", 0, 4096, 3) == bpf.ALLOW
    assert node.verdict("mmap", 0, 4096, 5) == REFUSED
    assert node.verdict("mprotect", 0, 4096, 7) == REFUSED
    assert node.verdict("tgkill", PROCESS, 1, 9) == bpf.ALLOW
    assert node.verdict("tgkill", 1, 1, 9) == REFUSED
    assert node.verdict("kill", 1, 9) == REFUSED
    assert node.verdict("prlimit64", 0, 7, 0, 1 << 40) == bpf.ALLOW
    assert node.verdict("prlimit64", 0, 7, 1 << 40, 0) == REFUSED
    assert node.verdict("fcntl", 3, fcntl.F_SETFL, os.O_NONBLOCK) == bpf.ALLOW
    assert node.verdict("fcntl", 3, fcntl.F_DUPFD_CLOEXEC, 3) == bpf.ALLOW
    for command in (8, 10, 15, 1026):  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_NOTIFY: the kernel signals anybody
        assert node.verdict("fcntl", 3, command, 1) == REFUSED
    assert node.verdict("prctl", 15) == bpf.ALLOW
    assert node.verdict("prctl", 4, 1) == REFUSED  # PR_SET_DUMPABLE
    assert node.verdict("ioctl", 0, 0x5412) == REFUSED  # TIOCSTI
    assert node.verdict("ioctl", 0, 0x5421) == bpf.ALLOW
    assert node.verdict("setsockopt", 3, socket.IPPROTO_IP, 8) == bpf.ALLOW
    assert node.verdict("setsockopt", 3, socket.IPPROTO_IP, 64) == REFUSED  # IPT_SO_SET_REPLACE
    assert node.verdict("setsockopt", 3, socket.IPPROTO_IPV6, 67) == bpf.ALLOW  # IPV6_TCLASS
    assert node.verdict("setsockopt", 3, socket.IPPROTO_IPV6, 64) == REFUSED
    assert node.verdict("io_uring_register", 5, 22) == bpf.ALLOW
    assert node.verdict("io_uring_register", 5, 2) == REFUSED  # files


@both
def test_unknown_calls_seem_to_be_missing(architecture: Architecture) -> None:
    node = Filter(architecture)
    assert bpf.run(node.steps, NEWEST + 1, audit=architecture.audit) == MISSING
    assert bpf.run(node.steps, 0x40000000, audit=architecture.audit) == MISSING  # x32


@both
def test_other_architectures_are_refused(architecture: Architecture) -> None:
    for audit in (0x40000003, *(each.audit for each in ARCHITECTURES if each is not architecture)):
        number = architecture.numbers["read"]
        assert bpf.run(Filter(architecture).steps, number, audit=audit) == REFUSED


def test_filter_binds_threads_before_and_after() -> None:
    done = run_python(
        """
import os, threading
from udpring.tunnel import confinement
def tries():
    try:
        open("/etc/passwd")
    except PermissionError as refused:
        return refused.errno
go, found = threading.Event(), []
early = threading.Thread(target=lambda: (go.wait(), found.append(tries())))
early.start()
confinement.complete(confinement.Profile.NODE)
go.set()
late = threading.Thread(target=lambda: found.append(tries()))
late.start()
early.join(), late.join()
print(found, tries())
"""
    )
    assert done.stdout == "[1, 1] 1\n", done.stderr


def test_descriptors_signal_no_other_process() -> None:
    """The kernel sends the signal of F_SETSIG to the process of F_SETOWN, whoever that is."""
    done = run_python(
        """
import fcntl, os, socket, subprocess
from udpring.tunnel import confinement
victim = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
confinement.complete(confinement.Profile.NODE)
one, other = socket.socketpair()
for command, value in ((10, 9), (8, victim.pid), (fcntl.F_SETFL, 0o20000 | os.O_NONBLOCK)):  # O_ASYNC
    try:
        fcntl.fcntl(one, command, value)
    except OSError as refused:
        print(refused.errno)
other.send(b"x")
victim.stdin.close()
print(victim.wait())
"""
    )
    assert done.stdout == "1\n1\n0\n", done.stderr


def test_refused_filter_is_reported() -> None:
    """A thread with a filter of its own cannot be bound. The process runs on."""
    done = run_python(
        """
import threading
from seccomp import Rule, install
from udpring.tunnel import confinement
ready, end = threading.Event(), threading.Event()
def other():
    install([Rule("bpf", 1)])
    ready.set(); end.wait()
thread = threading.Thread(target=other); thread.start(); ready.wait()
confinement.complete(confinement.Profile.NODE)
end.set(); print("runs")
""".replace(
            "import threading\nfrom",
            f"import sys, threading\nsys.path.insert(0, {str(Path(__file__).parent.parent)!r})\nfrom",
            1,
        )
    )
    assert done.stdout == "runs\n", done.stderr
    assert "not confined by seccomp filter" in done.stderr


@pytest.mark.parametrize(("value", "on"), [("", True), ("on", True), ("off", False)])
def test_variable_switches_it_off(value: str, on: bool) -> None:
    assert confinement.wanted({confinement.VARIABLE: value}) is on


def test_wrong_variable_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither on nor off"):
        confinement.wanted({confinement.VARIABLE: "of"})
