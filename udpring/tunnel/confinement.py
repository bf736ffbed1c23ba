"""Confines a process to the rights that a running node needs.

1. ``begin``, while the process has one thread: capabilities, no_new_privs, no core dumps. Keys may be read
   before or after.
2. The node starts.
3. ``complete``: a seccomp filter for all threads. No file can be opened, no program started, no process
   traced, and sockets are of the families that a node uses.

What a confined node still needs from outside, ``broker.Broker`` does in a process of its own. A step that the
host refuses is logged, and the node runs on without it. docs/least-privilege.md describes all of this.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import resource
import socket
import time
from collections.abc import Iterable
from enum import Flag, auto

from udpring.tunnel.capabilities import DAC_OVERRIDE, NET_ADMIN, NET_BIND_SERVICE, SETFCAP, keep_only
from udpring.tunnel.first_confinement import VARIABLE, attempt, hide, prctl, protect_memory, wanted
from udpring.tunnel.landlock import forbid_special_files
from udpring.tunnel.seccomp import Allow, Test, install, program
from udpring.tunnel.system_calls import Architecture, this_architecture

__all__ = [
    "NODE",
    "VARIABLE",
    "Profile",
    "begin",
    "begin_rootless",
    "complete",
    "complete_rootless",
    "hide",
    "protect_memory",
    "rules_of",
    "wanted",
]

NODE = (NET_ADMIN, NET_BIND_SERVICE)
"""The capabilities of a node. The second one is for ports below 1024, which ``wg set`` may ask for."""

_PR_SET_NAME, _PR_SET_TIMERSLACK, _PR_SET_NO_NEW_PRIVS = 15, 29, 38
_PR_SET_VMA = 0x53564D41
_PROT_EXEC, _CLONE_THREAD, _SOCK_TYPE = 0x4, 0x10000, 0xF
_IOCTLS = {
    "FIONBIO": 0x5421,
    "FIONREAD": 0x541B,
    "FIOCLEX": 0x5451,
    "FIONCLEX": 0x5450,
    "SIOCOUTQ": 0x5411,
    "TCGETS": 0x5401,
    "SIOCGIFNAME": 0x8910,
    "SIOCGIFFLAGS": 0x8913,
    "SIOCGIFMTU": 0x8921,
    "SIOCGIFHWADDR": 0x8927,
    "SIOCGIFINDEX": 0x8933,
    "TUNGETIFF": 0x800454D2,
    "TUNGETDEVNETNS": 0x54E3,
}
_FCNTL = (fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL)
"""Not F_SETOWN and F_SETSIG, by which the kernel sends a signal of one's choice to any process."""
_F_SETPIPE_SZ, _TIOCGPGRP = 1031, 0x540F
_REGISTRATIONS = (19, 22, 23, 24)
"""IORING_REGISTER_IOWQ_MAX_WORKERS, _PBUF_RING, IORING_UNREGISTER_PBUF_RING, IORING_REGISTER_SYNC_CANCEL."""
_NETFILTER = 64
"""From here on, options of SOL_IP configure iptables, arptables and ebtables. IPv6 has two: 64 and 65."""

_ALWAYS = """
read write readv writev pread64 pwrite64 recvmsg recvmmsg recvfrom sendmsg sendmmsg sendto io_uring_enter poll
ppoll select pselect6 epoll_wait epoll_pwait epoll_pwait2 epoll_ctl epoll_create1 eventfd2 timerfd_create
timerfd_settime futex sched_yield nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday close
close_range dup dup2 dup3 pipe2 fstat lseek stat lstat newfstatat statx access faccessat2 getcwd munmap
mremap brk madvise rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend
sigaltstack set_robust_list set_tid_address rseq membarrier sched_getaffinity getcpu sysinfo uname getrandom
getpid getppid gettid getuid geteuid getgid getegid getrusage capget connect accept accept4
shutdown getsockname getpeername getsockopt restart_syscall exit exit_group wait4 waitid inotify_init1
inotify_add_watch inotify_rm_watch fsync fdatasync
"""
_BINDING = "bind listen"
_FILES = "open openat mkdir mkdirat unlink unlinkat rename renameat renameat2"
_READING = "getdents64 readlink readlinkat flock"
_O_CHANGES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND

log = logging.getLogger("udpring.node")


class Profile(Flag):
    """What a process is for, which decides what it may do.

    NODE: no files. With FILES it may write files, for timestamps. With READING it may read files and has UNIX
    stream sockets, for metrics. SERVER: READING without the sockets of a node. ROOTLESS: NODE without
    bind(2) and UNIX sockets, so it can neither make nor reach socket files. It may signal processes of which
    it has descriptors, and move bytes between connections.
    """

    NODE = auto()
    ROOTLESS = auto()
    FILES = auto()
    READING = auto()
    SERVER = READING


_WITH_NODE = Profile.NODE | Profile.ROOTLESS


def begin(sockets: Iterable[str | os.PathLike[str]]) -> None:
    """Gives up all capabilities but those of a node, sets no_new_privs and keeps memory out of core dumps.
    From now on the process makes no special files, but sockets in these folders. For a process with one
    thread."""
    from udpring._native import lib  # noqa: PLC0415 - a broker process does not load the core

    lib.udpring_steering_load()  # needs CAP_BPF. Without it the kernel's own choice of queues serves
    _lift_locked_memory()
    attempt("capabilities", lambda: keep_only(NODE))
    attempt("no_new_privs", lambda: prctl(_PR_SET_NO_NEW_PRIVS, 1))
    _forbid_special_files(sockets)
    protect_memory()
    _hide_memory()


def _lift_locked_memory() -> None:
    """Linux counts the memory of rings against RLIMIT_MEMLOCK, for all processes of a user together. Root is
    exempt by CAP_IPC_LOCK, which is given up next. A node has few rings, and their size is bounded."""
    most = resource.RLIM_INFINITY
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
        return
    with contextlib.suppress(OSError, ValueError):  # no CAP_SYS_RESOURCE
        most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))


def _forbid_special_files(sockets: Iterable[str | os.PathLike[str]]) -> None:
    try:
        forbid_special_files(sockets)
    except OSError as refused:
        log.debug("not confined by Landlock: %s", refused)  # many kernels lack it


def begin_rootless() -> None:
    """Gives up all capabilities but those of a rootless node. For a process with one thread.

    Root needs CAP_SETFCAP to be root in a user namespace. The filter leaves no call that needs it.
    ``complete_rootless`` sets no_new_privs and the rest, which a program of the user would inherit.
    """
    from udpring._native import lib  # noqa: PLC0415 - a broker process does not load the core

    lib.udpring_steering_load()
    attempt("capabilities", lambda: keep_only([*NODE, SETFCAP]))


def complete_rootless() -> None:
    """Confines a process with a running rootless node. Call it after the process has started its programs."""
    protect_memory()
    complete(Profile.ROOTLESS)


def confine_server() -> None:
    """Confines a process that reads files and serves, such as ``udpring exporter``, and has one thread.
    CAP_DAC_OVERRIDE stays, to read files and reach sockets of other users."""
    attempt("capabilities", lambda: keep_only([DAC_OVERRIDE]))
    attempt("no_new_privs", lambda: prctl(_PR_SET_NO_NEW_PRIVS, 1))  # Landlock needs it
    _forbid_special_files(())
    protect_memory()
    complete(Profile.SERVER)


def _hide_memory() -> None:
    from udpring.tunnel.memory_hiding import hide_memory  # noqa: PLC0415 - a broker does not load the core

    def hidden() -> None:
        with contextlib.suppress(FileNotFoundError):  # no /proc is mounted
            hide_memory()

    attempt("MADV_DONTDUMP", hidden)


def complete(profile: Profile) -> None:
    """Installs the filter. Modules and data that Python or the C library would load later are loaded
    before."""
    architecture = this_architecture()
    if architecture is None:
        log.warning("no seccomp filter: none is known for %s", os.uname().machine)
        return
    _load_now(profile)
    _hide_memory()
    steps = program(rules_of(profile, os.getpid()), architecture, missing=["clone3"])
    attempt("seccomp filter", lambda: _install(steps, architecture))


def _install(steps: list[tuple[int, int, int, int]], architecture: Architecture) -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    install(steps, architecture)


def _load_now(profile: Profile) -> None:
    import linecache  # noqa: F401, PLC0415
    import traceback  # noqa: F401, PLC0415

    if profile & _WITH_NODE:
        from udpring.tunnel.rehearsal import rehearse  # noqa: PLC0415

        rehearse()
    time.localtime()  # the time zone, for the log
    with contextlib.suppress(OSError):  # not glibc
        ctypes.CDLL("libgcc_s.so.1")  # for pthread_exit(3), by which Python ends threads at its own end
    with contextlib.suppress(OSError):
        socket.if_indextoname(1)


def rules_of(profile: Profile, process: int) -> list[Allow]:
    """The calls of a profile, the frequent ones first. ``process``: its own number, the only one that it may
    signal."""
    rules = [Allow(call) for call in _ALWAYS.split()]
    rootless = Profile.ROOTLESS in profile
    commands = (*_FCNTL, _F_SETPIPE_SZ) if rootless else _FCNTL
    requests = (*_IOCTLS.values(), _TIOCGPGRP) if rootless else _IOCTLS.values()
    rules += [
        # Rings are restricted when they are made (native/uring/confined.c), and no others can be made.
        Allow("io_uring_register", tuple((Test(1, number),) for number in _REGISTRATIONS)),
        Allow("mmap", ((Test(2, 0, mask=_PROT_EXEC),),)),
        Allow("mprotect", ((Test(2, 0, mask=_PROT_EXEC),),)),
        Allow("clone", ((Test(0, _CLONE_THREAD, mask=_CLONE_THREAD),),)),
        Allow("tgkill", ((Test(0, process),),)),
        Allow("kill", ((Test(0, process),),)),
        Allow(
            "prctl",
            tuple((Test(0, option),) for option in (_PR_SET_NAME, _PR_SET_TIMERSLACK, _PR_SET_VMA)),
        ),
        Allow("fcntl", tuple((Test(1, command),) for command in commands)),
        Allow("prlimit64", ((Test(2, 0), Test(2, 0, high=True)),)),
        Allow("ioctl", tuple((Test(1, number),) for number in requests)),
        Allow("socketpair", tuple(_pairs(rootless))),
        Allow("setsockopt", _options()),
        Allow("socket", tuple(_sockets(profile)), error=errno.EAFNOSUPPORT),
    ]
    if profile & _WITH_NODE:  # a worker sets the time slice and the nice value of its own thread
        own = (Test(0, os.PRIO_PROCESS), Test(1, 0))
        rules += [
            Allow("sched_setattr", ((Test(0, 0),),)),
            Allow("sched_getscheduler", ((Test(0, 0),),)),
            Allow("getpriority", (own,)),
            Allow("setpriority", (own,)),
        ]
    if rootless:
        rules += [Allow("splice"), Allow("pidfd_send_signal")]
    else:
        rules += [Allow(call) for call in _BINDING.split()]
    if Profile.READING in profile:
        rules += [Allow(call) for call in _READING.split()]
    if Profile.FILES in profile:
        rules += [Allow(call) for call in _FILES.split()]
    elif Profile.READING in profile:
        rules.append(Allow("open", ((Test(1, 0, mask=_O_CHANGES),),)))
        rules.append(Allow("openat", ((Test(2, 0, mask=_O_CHANGES),),)))
    return rules


def _options() -> tuple[tuple[Test, ...], ...]:
    levels = (socket.SOL_SOCKET, socket.IPPROTO_UDP, 270, socket.IPPROTO_TCP)  # 270: SOL_NETLINK
    return (
        *((Test(1, level),) for level in levels),
        (Test(1, socket.IPPROTO_IP), Test(2, _NETFILTER, below=True)),
        (
            Test(1, socket.IPPROTO_IPV6),
            Test(2, _NETFILTER, other=True),
            Test(2, _NETFILTER + 1, other=True),
        ),
    )


def _pairs(connected: bool) -> Iterable[tuple[Test, ...]]:
    """``connected``: only kinds whose pairs cannot be connected to another socket."""
    if not connected:
        yield (Test(0, socket.AF_UNIX),)
        return
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        yield (Test(0, socket.AF_UNIX), Test(1, kind, mask=_SOCK_TYPE))


def _sockets(profile: Profile) -> Iterable[tuple[Test, ...]]:
    """Families, types and protocols. UNIX sockets of a node are datagram sockets: syslog and the service
    manager. Streams would reach other services of the host, such as D-Bus."""
    if Profile.READING in profile:
        yield (Test(0, socket.AF_UNIX),)
    if not profile & _WITH_NODE:
        return
    for family in (socket.AF_INET, socket.AF_INET6):
        for protocol in (0, socket.IPPROTO_UDP):
            yield (Test(0, family), Test(1, socket.SOCK_DGRAM, mask=_SOCK_TYPE), Test(2, protocol))
    if Profile.ROOTLESS not in profile:
        yield (Test(0, socket.AF_UNIX), Test(1, socket.SOCK_DGRAM, mask=_SOCK_TYPE), Test(2, 0))
    yield (Test(0, socket.AF_NETLINK), Test(2, socket.NETLINK_ROUTE))
