"""The namespaces of a rootless node: the process that holds them, seen from the program.

``namespace_process.py`` runs there and describes its answers. ``namespace_entry.py`` starts programs there.
Requests are made one at a time and block for as long as a system call over there takes. Looking a name up
does not block: the answer comes over a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from udpring.errors import ClosedError, HostError
from udpring.tunnel.refusals import cure_of

__all__ = ["Namespaces"]

HOLDER = Path(__file__).with_name("namespace_process.py")
ENTRY = Path(__file__).with_name("namespace_entry.py")
START_WAIT = 60.0
REQUEST_WAIT = 30.0
LOOK_UP_WAIT = 35.0
"""Seconds. The look-up itself ends after 30."""
_ROOM = 65536
_DESCRIPTORS = 64
_SYSCTLS = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1",
     "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with userns"),
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ("user/max_net_namespaces", "0", "sysctl -w user.max_net_namespaces=10000"),
    ("user/max_mnt_namespaces", "0", "sysctl -w user.max_mnt_namespaces=10000"),
)  # fmt: skip
"""Settings that deny user namespaces, and their cures."""
_SPACE_STEPS = (
    "unshare",
    "mount",
    "/proc/self/uid_map",
    "/proc/self/gid_map",
    "/proc/self/setgroups",
    "capset",
)


def _denied() -> str:
    for name, value, cure in _SYSCTLS:
        try:
            if Path("/proc/sys", name).read_text().strip() == value:
                return cure
        except OSError:
            continue
    return (
        "allow unshare(CLONE_NEWUSER | CLONE_NEWNET) in the container or sandbox; a chroot denies it always"
    )


def _refused(step: str, number: int, text: str) -> HostError:
    if step in _SPACE_STEPS:
        return HostError(f"no user namespace can be made: {step}: {text}", errno=number, cure=_denied())
    if step == "ip" and number == errno.ENOENT:
        return HostError(text, errno=number, cure="install it: apt-get install iproute2")
    if step == "veth":
        cure = "load the module: modprobe veth, or open /dev/net/tun to all: chmod 0666 /dev/net/tun"
        return HostError(f"no veth pair can be made: {text}", errno=number, cure=cure)
    if step == "/dev/net/tun":
        cure = "open it to all: chmod 0666 /dev/net/tun, or take Rootless('packet')"
        return HostError(f"/dev/net/tun: {text}", errno=number, cure=cure)
    return HostError(f"{step} is refused in the user namespace: {text}", errno=number, cure=cure_of(number))


class Namespaces:
    """Holds a user, a network and a mount namespace, and an interface in them. ``start``, later ``close``.

    kind: ``tun`` or ``packet``; why: the reason for no TUN device. name: of the interface. descriptors: of
    the interface, for the plane. query, notices: sockets for ``InsideLink``.
    """

    def __init__(self) -> None:
        self.kind = self.name = self.why = ""
        self.descriptors: list[int] = []
        self._spaces: list[int] = []
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, device: str, name: str, queues: int, offload: bool) -> None:
        """Makes them. Blocks for some 0.1 s: call it in a thread. Raises HostError, and leaves nothing."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket = ours
            ours.settimeout(START_WAIT)
            number = str(theirs.fileno())
            argv = [sys.executable, "-I", "-S", str(HOLDER), number, device, name, str(queues)]
            with theirs:
                # A session of its own: a signal from the terminal is the program's.
                self._process = subprocess.Popen(
                    [*argv, str(int(offload))], pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, start_new_session=True, cwd="/",
                )  # fmt: skip
            answer, descriptors = self._receive()
            if "error" in answer:
                raise _refused(answer["step"], answer["error"], answer["text"])
        except OSError as refused:
            self.close()
            if isinstance(refused, HostError):
                raise
            number_ = refused.errno or 0
            text = f"the process for the namespaces cannot be started: {refused.strerror or refused}"
            raise HostError(text, errno=number_, cure=cure_of(number_)) from None
        ours.settimeout(REQUEST_WAIT)
        self.kind, self.name, self.why = answer["kind"], answer["name"], answer["why"]
        self.query, self.notices = (socket.socket(fileno=each) for each in descriptors[:2])
        self._spaces, self.descriptors = descriptors[2:5], descriptors[5:]

    @property
    def pid(self) -> int:
        """Of the process that holds them. 0: it has been ended."""
        return self._process.pid if self._process else 0

    def watch(self, loop: asyncio.AbstractEventLoop, ended: Callable[[str], None]) -> None:
        """Calls ``ended`` once with the reason when the process has ended by itself."""
        assert self._process is not None
        self._loop, self._watch = loop, os.pidfd_open(self._process.pid)

        def readable() -> None:
            self._unwatch()
            code = self._process.wait() if self._process else 0
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            ended(f"the process that holds its namespaces {how}")

        loop.add_reader(self._watch, readable)

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None and self._loop is not None:
            self._loop.remove_reader(watch)
            os.close(watch)

    def close_descriptors(self) -> None:
        """Closes those of the interface: the plane has its own."""
        descriptors, self.descriptors = self.descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

    def close(self) -> None:
        """Ends the process. The namespaces end with their last socket and program. May be called again."""
        if self._watch is not None:  # a confined process may use this, and not its number
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._watch, signal.SIGKILL)
        self._unwatch()
        self.close_descriptors()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(PermissionError):  # confined: the closed socket ends it
                process.kill()
            process.wait()
        if self._spaces:
            self.query.close()
            self.notices.close()
        spaces, self._spaces = self._spaces, []
        for descriptor in spaces:
            os.close(descriptor)

    # ---- requests ----

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        assert self._socket is not None
        data, descriptors, flags, _ = socket.recv_fds(self._socket, _ROOM, _DESCRIPTORS)
        if flags & socket.MSG_CTRUNC:
            for descriptor in descriptors:
                os.close(descriptor)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not data:
            raise HostError(
                "the process that holds the namespaces of the node has ended",
                errno=errno.EPIPE,
                cure="see why: it may have been killed for lack of memory; then start the node again",
            )
        return json.loads(data), descriptors

    def ask(self, request: dict[str, Any], *rights: int) -> list[int]:
        """Sends a request, returns the descriptors of the answer. Raises OSError as it was raised there."""
        with self._lock:
            if self._socket is None or self._socket.fileno() < 0:
                raise ClosedError("the node is not up")
            with contextlib.suppress(BrokenPipeError):  # the next step reports it
                socket.send_fds(self._socket, [json.dumps(request).encode()], list(rights))
            answer, descriptors = self._receive()
        if "error" in answer:
            raise OSError(answer["error"], answer["text"])
        return descriptors

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        """A socket of the network namespace, blocking. ``kind`` without SOCK_NONBLOCK."""
        (made,) = self.ask({"do": "socket", "family": family, "type": kind, "protocol": protocol})
        return socket.socket(fileno=made)

    def set_names(self, text: str) -> None:
        """Gives resolv.conf(5) of the mount namespace this content."""
        self.ask({"do": "names", "text": text})

    def down(self) -> None:
        """Takes the interface down, with its addresses and routes. Blocks for some milliseconds."""
        self.ask({"do": "down"})

    async def look_up(self, host: str, family: int) -> list[str]:
        """The addresses of ``host``, as glibc finds them there. Raises socket.gaierror."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.setblocking(False)
            with theirs:
                self.ask({"do": "look up", "host": host, "family": family}, theirs.fileno())
            try:
                data = await asyncio.wait_for(loop.sock_recv(ours, _ROOM), LOOK_UP_WAIT)
            except TimeoutError:
                data = b""
        if not data:
            raise socket.gaierror(socket.EAI_AGAIN, f"{host}: no answer from the name servers")
        answer = json.loads(data)
        if "error" in answer:
            raise socket.gaierror(answer["error"], answer["text"])
        return [str(address) for address in answer["addresses"]]

    # ---- programs ----

    def entry(self, *, keep_rights: bool = False) -> tuple[list[str], Sequence[int]]:
        """The beginning of a command line that runs a program inside, and the descriptors to pass."""
        if not self._spaces:
            raise ClosedError("the node is not up")
        spaces = [str(descriptor) for descriptor in self._spaces]
        rights = "keep" if keep_rights else "drop"
        return [sys.executable, "-I", "-S", str(ENTRY), *spaces, rights, "--"], self._spaces
