"""Finds the process that serves an interface's UAPI socket, and ends it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from udpring.errors import HostError
from udpring.tunnel.socket_path import SOCKET_DIRECTORY, socket_name

__all__ = ["end_server", "server_of"]

_UCRED = struct.Struct("3i")
_TUN_DEVICE = os.makedev(10, 200)
"""Documentation/admin-guide/devices.txt."""
_ACCEPTS = "00010000"
"""The flag of a socket that listens (net/unix/af_unix.c unix_seq_show)."""


def server_of(path: Path) -> int:
    """The process that serves the interface of this UAPI socket. Raises HostError where there is none,
    or where it cannot be found.

    SO_PEERCRED names the process that called listen(2) (unix(7)). That may be the launcher that passed the
    socket by WG_UAPI_FD. The server is the process that has both the listening socket and the interface's TUN
    descriptor.
    """
    interface = path.stem
    listener = _listener_of(path)
    servers = [process for process in _processes() if _serves(process, interface, path.name)]
    if len(servers) == 1:
        return servers[0]
    if not servers and listener and _hides(listener):
        return listener  # a confined node: only CAP_SYS_PTRACE could look into it. A launcher does not hide
    cure = f"remove {path}: the process that serves it then ends by itself"
    if servers:
        raise HostError(
            f"processes {', '.join(map(str, servers))} hold both the interface {interface} and its socket",
            errno=errno.EEXIST,
            cure=cure,
        )
    if os.geteuid():
        raise HostError(
            f"no right to see which process serves {interface}", errno=errno.EPERM, cure="run it as root"
        )
    raise HostError(
        f"process {listener or 'of another PID namespace'} made the socket {path}, but does not hold the "
        f"interface {interface}",
        errno=errno.ESRCH,
        cure=cure,
    )


def _listener_of(path: Path) -> int:
    """The process id that called listen(2); 0 where it is in another PID namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError as refused:
            denied = refused.errno in (errno.EACCES, errno.EPERM)
            raise HostError(
                f"nothing serves the interface {path.stem} ({path}: {refused.strerror})",
                errno=refused.errno or 0,
                cure="run it as root" if denied else "see what is up: udpring show",
            ) from None
        process, _, _ = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return max(int(process), 0)


def _processes() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]


def _serves(process: int, interface: str, socket_name: str) -> bool:
    """Whether the process holds a TUN descriptor of the interface and a listening socket of that name."""
    folder = Path(f"/proc/{process}")
    try:
        descriptors = list(os.scandir(folder / "fd"))
    except OSError:
        return False  # gone, or owned by another user
    links = set()
    holds_interface = False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            links.add(str(Path(descriptor.path).readlink()))
            if descriptor.stat().st_rdev == _TUN_DEVICE:
                facts = (folder / "fdinfo" / descriptor.name).read_text()
                holds_interface |= _names(facts, interface)
    return holds_interface and any(f"socket:[{inode}]" in links for inode in _listening(folder, socket_name))


def _hides(process: int) -> bool:
    """Whether root may not see the descriptors of a process (PR_SET_DUMPABLE)."""
    try:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            descriptor.readlink()
    except PermissionError:
        return os.geteuid() == 0
    except OSError:
        pass
    return False


def _names(facts: str, interface: str) -> bool:
    """Whether a TUN descriptor's fdinfo names the interface (drivers/net/tun.c tun_chr_show_fdinfo)."""
    return f"iff:\t{interface}" in facts.splitlines()


def _listening(folder: Path, socket_name: str) -> Iterator[str]:
    """The inodes of listening UNIX sockets of that file name, in the network namespace of the process."""
    with contextlib.suppress(OSError):
        for line in (folder / "net" / "unix").read_text(errors="replace").splitlines():
            # Num RefCount Protocol Flags Type St Inode Path; the path as it was bound, /run or /var/run.
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[3] == _ACCEPTS and fields[7].rpartition("/")[2] == socket_name:
                yield fields[6]


def end_server(
    interface: str,
    seconds: float,
    directory: str | os.PathLike[str] = SOCKET_DIRECTORY,
    *,
    number: signal.Signals = signal.SIGTERM,
) -> None:
    """Sends a signal to the process that serves the interface. Waits, at most this long, until it has ended.

    Raises HostError: there is no server, it may not be signalled, or it does not end in time.
    """
    path = Path(socket_name(directory, interface))
    process = server_of(path)
    try:
        # A pidfd, because the number of an ended process may be reused.
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            raise HostError(
                f"process {process}, which serves {interface}, did not end within {seconds:g} s",
                errno=errno.ETIMEDOUT,
                cure=f"see its log, or kill -9 {process}",
            )
    except PermissionError:
        raise HostError(
            f"no right to end process {process}, which serves {interface}",
            errno=errno.EPERM,
            cure="run it as root",
        ) from None
    finally:
        os.close(handle)
