"""The file of a UAPI socket: binding it, replacing a stale one, noticing its removal.

``wg`` finds an interface by ``/var/run/wireguard/NAME.sock``. The file is ours only as long as its inode is
the one we bound. Removing it ends the interface, as with wireguard-go. Another program's file of the same
name is never unlinked.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import time
from collections.abc import Callable

from udpring.errors import HostError
from udpring.tunnel.refusals import cure_of
from udpring.tunnel.socket_path import interface_of

__all__ = ["SocketFile"]

BACKLOG = 64
POLL_SECONDS = 1.0
#: How long a socket that still answers may remain: its node's interface was just deleted.
PATIENCE_SECONDS = 2.0
RETRY_SECONDS = 0.02
#: sockaddr_un.sun_path (unix(7)) less its terminating zero and the name of a private directory.
PATH_BYTES = 97

_IN_ATTRIB = 0x4
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC


class SocketFile:
    """A listening UNIX socket and its file, only for the owner (mode 0700).

    Raises HostError: the interface is in use by another process, or the directory cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        descriptor: int | None = None,
        remove: Callable[[str], None] = os.unlink,
    ) -> None:
        self.path = path = os.fspath(path)
        self._remove = remove
        self._watch: int | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gone: Callable[[], None] | None = None
        if descriptor is None:
            self.socket = _listen(path)
        else:
            try:
                self.socket = socket.socket(fileno=descriptor)
            except OSError as refused:
                raise HostError(
                    f"descriptor {descriptor} is not a socket: {refused.strerror}",
                    errno=refused.errno or 0,
                    cure="pass a listening UNIX socket, or unset WG_UAPI_FD",
                ) from refused
        self.socket.setblocking(False)
        self._inode = _inode(path)

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        descriptor: int | None = None,
        remove: Callable[[str], None] = os.unlink,
    ) -> SocketFile:
        """As the constructor, but waits ``PATIENCE_SECONDS`` for a socket in use to disappear.

        Call it after making the interface of that name: a process that still answers has lost its own
        interface. An example is ``wg-quick down wg0; wg-quick up wg0``, which deletes the link; the process
        notices later.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return cls(path, descriptor=descriptor, remove=remove)
            except HostError as refused:
                if refused.errno != errno.EADDRINUSE or time.monotonic() >= end:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    def fileno(self) -> int:
        """The listening socket's descriptor."""
        return self.socket.fileno()

    @property
    def is_ours(self) -> bool:
        """Whether the file is still there and still the one that was bound."""
        return self._inode is not None and _inode(self.path) == self._inode

    def watch(self, loop: asyncio.AbstractEventLoop, gone: Callable[[], None]) -> None:
        """Calls ``gone`` once when the file is removed, moved away or replaced. Uses inotify, or else one
        check a second."""
        self._loop, self._gone = loop, gone
        self._watch = _inotify(self.path)
        if self._watch is not None:
            loop.add_reader(self._watch, self._changed)
        self._look()

    def _changed(self) -> None:
        assert self._watch is not None
        with contextlib.suppress(BlockingIOError, InterruptedError):
            os.read(self._watch, 4096)
        self._look()

    def _look(self) -> None:
        assert self._loop is not None
        if not self.is_ours:
            gone, self._gone = self._gone, None
            self._unwatch()
            if gone is not None:
                gone()
        elif self._watch is None:
            self._poll = self._loop.call_later(POLL_SECONDS, self._look)

    def _unwatch(self) -> None:
        if self._watch is not None:
            assert self._loop is not None
            self._loop.remove_reader(self._watch)
            os.close(self._watch)
            self._watch = None
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None

    def close(self) -> None:
        """Stops listening. Removes the file if it is still its own. May be called again."""
        self._unwatch()
        self._gone = None
        if self.is_ours:
            with contextlib.suppress(FileNotFoundError):
                self._remove(self.path)
        self._inode = None
        self.socket.close()


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _listen(path: str) -> socket.socket:
    if len(os.fsencode(path)) > PATH_BYTES:
        raise HostError(
            f"{path}: longer than {PATH_BYTES} bytes",
            errno=errno.ENAMETOOLONG,
            cure="use a shorter directory",
        )
    try:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as refused:
        number = refused.errno or 0
        text = f"no UNIX socket for {path}: {refused.strerror}"
        raise HostError(text, errno=number, cure=cure_of(number)) from None
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        # The file gets the socket's own mode less the umask (net/unix/af_unix.c unix_bind). So others can
        # never open it, and the process's umask is unchanged.
        os.fchmod(listening.fileno(), 0o700)
        _publish(listening, path)
    except OSError as refused:
        listening.close()
        if isinstance(refused, HostError):
            raise
        number = refused.errno or 0
        text = f"{path}: {refused.strerror or refused}"
        raise HostError(text, errno=number, cure=_cure(number, os.path.dirname(path))) from refused
    return listening


def _publish(listening: socket.socket, path: str) -> None:
    """Listens, and only then makes the file.

    ``wg show`` unlinks a socket file that refuses connections, as one between bind(2) and listen(2) does. So
    the socket is bound in a directory of its own, under the same name: /proc/net/unix shows that one.
    """
    private = os.path.join(os.path.dirname(path), f".{os.urandom(4).hex()}")
    os.mkdir(private, mode=0o700)
    bound = os.path.join(private, os.path.basename(path))
    try:
        listening.bind(bound)
        listening.listen(BACKLOG)
        try:
            os.link(bound, path)
        except FileExistsError:
            _remove_stale(path)
            os.link(bound, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(bound)
        os.rmdir(private)


def _cure(number: int, directory: str) -> str:
    if number in (errno.EACCES, errno.EPERM):
        return f"run it as root, with the right to write to {directory}"
    if number == errno.EROFS:
        return f"mount a writable filesystem there: mount -t tmpfs tmpfs {directory}"
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return f"make the directory: mkdir -p {directory}"
    return cure_of(number)


def _remove_stale(path: str) -> None:
    """Unlinks a socket file without a listener."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.setblocking(False)
            probe.connect(path)
        except BlockingIOError:
            pass  # its queue is full, so a process listens
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
    interface = interface_of(path)
    raise HostError(
        f"interface {interface} is in use: a process answers at {path}",
        errno=errno.EADDRINUSE,
        cure=f"choose another name, or take it down: udpring down {interface}, or remove that file",
    )


def _inotify(path: str) -> int | None:
    """An inotify descriptor that becomes readable when the links or the name of the file change. None: there
    is none."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor: int = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
    except (OSError, AttributeError):
        return None
    if descriptor < 0:
        return None
    mask = _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF
    if libc.inotify_add_watch(descriptor, os.fsencode(path), mask) < 0:
        os.close(descriptor)
        return None
    return descriptor
