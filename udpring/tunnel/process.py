"""Finds the process that serves an interface's UAPI socket, and ends it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
from pathlib import Path

from udpring.errors import HostError
from udpring.tunnel.socket_file import socket_path
from udpring.tunnel.uapi import SOCKET_DIRECTORY

__all__ = ["end_server", "server_of"]

_UCRED = struct.Struct("3i")


def server_of(path: Path) -> int:
    """The process id of who listens at a UNIX socket (SO_PEERCRED, unix(7)). Raises HostError: nobody
    does."""
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
    if process <= 0:
        raise HostError(
            f"the process behind {path} is in another PID namespace",
            cure=f"end it there, or remove {path}: it then ends by itself",
        )
    return int(process)


def end_server(
    interface: str,
    seconds: float,
    directory: str | os.PathLike[str] = SOCKET_DIRECTORY,
    *,
    number: signal.Signals = signal.SIGTERM,
) -> None:
    """Sends a signal to the process that serves the interface and waits, at most so long, until it is gone.

    Raises HostError: nobody serves it, it is not ours to end, or it does not end in time.
    """
    path = socket_path(directory, interface)
    process = server_of(path)
    try:
        # A descriptor of the process: its number cannot come to mean another one meanwhile.
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
