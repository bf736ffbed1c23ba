"""The process that holds the namespaces of a rootless node. Started by path, with
``python -I -S``: it uses the standard library and ``namespace_entry.py`` alone.

``SOCKET DEVICE NAME QUEUES OFFLOAD`` makes a user, network and mount namespace and the interface in
them, sends their descriptors over the socket (SCM_RIGHTS), then answers requests until its
other end is closed:

- ``{"do": "socket", "family": N, "type": N, "protocol": N}``: a socket of the inside;
- ``{"do": "names", "text": TEXT}``: the content of resolv.conf(5) inside. "": the host's;
- ``{"do": "down"}``: the interface goes down and loses its addresses and routes;
- ``{"do": "look up", "host": HOST, "family": N}`` with a socket: a child of its own asks glibc there, and
  sends the answer over that socket.

Sources: user_namespaces(7), network_namespaces(7), capabilities(7), packet(7), veth(4).
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

# Last on the path, so no file here takes the place of one of the standard library.
sys.path.append(str(Path(__file__).resolve().parent))
from namespace_entry import (  # type: ignore[import-not-found]
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    Refused,
    call,
    keep_rights,
    libc,
)

MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x0100, 0x1000, 0x4000
SOL_PACKET, PACKET_VNET_HDR, PACKET_FANOUT, PACKET_IGNORE_OUTGOING = 263, 15, 18, 23
ETH_P_ALL = 0x0003
RTMGRP_LINK = 1
SIOCETHTOOL = 0x8946
ETHTOOL_GSSET_INFO, ETHTOOL_GSTRINGS, ETHTOOL_SFEATURES, ETH_SS_FEATURES = 0x37, 0x1B, 0x3B, 4

TUN_NODE = "/dev/net/tun"
FAR_END = "far"
"""The other end of the veth pair, where the packet sockets are."""
REQUEST_ROOM = 65536
LOOK_UPS = 64
LOOK_UP_SECONDS = 30
OFFLOADS = {
    "tx-scatter-gather", "tx-checksum-ip-generic", "tx-generic-segmentation",
    "tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation",
}  # fmt: skip
"""Offloads that the interface may leave to the far end, described by struct virtio_net_hdr."""
ASKED_ELSEWHERE = ("/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon", "/run/dbus")
"""Where daemons of the host listen who would look names up for programs inside."""


def mount(source: str, target: str, kind: str | None, flags: int, step: str) -> None:
    """mount(2)."""
    names = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    call(step, libc.mount(*names, ctypes.c_ulong(flags), None))


# --- namespaces ---


def make_namespaces() -> None:
    """Enters new namespaces, with the same user and group there as here."""
    uid, gid = os.geteuid(), os.getegid()
    call("unshare", libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS))
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        try:
            Path("/proc/self", file).write_text(text)
        except OSError as refused:
            raise Refused(f"/proc/self/{file}", refused.errno or 0) from None
    mount("none", "/", None, MS_REC | MS_SLAVE, "mount")
    # Programs without rights may bind low ports and ping: nobody else is here.
    for file, text in (("ip_unprivileged_port_start", "0"), ("ping_group_range", f"{gid} {gid}")):
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv4", file).write_text(text)


def ip(*lines: str) -> None:
    """Runs ip(8) on these lines."""
    try:
        done = subprocess.run(
            ["ip", "-batch", "-"], input="".join(f"{line}\n" for line in lines), capture_output=True,
            text=True, check=False, timeout=30,
        )  # fmt: skip
    except FileNotFoundError:
        raise Refused("ip", errno.ENOENT, "ip is not installed") from None
    except OSError as refused:
        raise Refused("ip", refused.errno or 0) from None
    if done.returncode:
        raise Refused("ip", errno.EIO, f"ip: {' '.join(done.stderr.split())}")


# --- the interface ---


def open_tun(name: str, queues: int, offload: bool) -> tuple[str, list[int]]:
    """A TUN device: its name and queues."""
    descriptors: list[int] = []
    flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if offload else 0) | (IFF_MULTI_QUEUE if queues > 1 else 0)
    try:
        for _ in range(queues):
            try:
                descriptors.append(os.open(TUN_NODE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            except OSError as refused:
                raise Refused(TUN_NODE, refused.errno or 0) from None
            try:
                made = fcntl.ioctl(descriptors[-1], TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            except OSError as refused:
                raise Refused("TUNSETIFF", refused.errno or 0) from None
            name = made[:16].rstrip(b"\0").decode()
    except Refused:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return name, descriptors


def ethtool(query: socket.socket, name: str, command: bytearray) -> None:
    """One ioctl of linux/ethtool.h, which changes ``command``."""
    data = (ctypes.c_char * len(command)).from_buffer(command)
    fcntl.ioctl(query, SIOCETHTOOL, struct.pack("16sQ16x", name.encode(), ctypes.addressof(data)))


def limit_offloads(query: socket.socket, name: str, wanted: set[str]) -> None:
    """Leaves on the features for sending (``tx-*``) that are ``wanted``. Source: linux/ethtool.h."""
    asked = bytearray(struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0))
    ethtool(query, name, asked)
    count = struct.unpack_from("=I", asked, 16)[0]
    strings = bytearray(struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count) + bytes(32 * count))
    ethtool(query, name, strings)
    blocks = (count + 31) // 32
    valid, requested = [0] * blocks, [0] * blocks
    for number in range(count):
        at = 12 + 32 * number
        feature = strings[at : at + 32].split(b"\0")[0].decode()
        if feature.startswith("tx-") and "lockless" not in feature:
            valid[number // 32] |= 1 << number % 32
            if feature in wanted:
                requested[number // 32] |= 1 << number % 32
    words = (word for pair in zip(valid, requested, strict=True) for word in pair)
    change = bytearray(struct.pack(f"=II{2 * blocks}I", ETHTOOL_SFEATURES, blocks, *words))
    ethtool(query, name, change)


def open_packet(name: str, queues: int, offload: bool, query: socket.socket) -> tuple[str, list[int]]:
    """A veth pair with packet sockets at its far end: the name of the near end, and the sockets."""
    name = name.replace("%d", "0")
    try:
        ip(
            f"link add name {name} mtu 1420 type veth peer name {FAR_END} mtu 65535",
            f"link set dev {name} arp off addrgenmode none",
            f"link set dev {FAR_END} arp off addrgenmode none up",
        )
    except Refused as refused:
        raise Refused("veth", refused.number, str(refused)) from None
    with contextlib.suppress(OSError):
        limit_offloads(query, name, OFFLOADS if offload else set())
    descriptors = []
    for _ in range(queues):
        try:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            with contextlib.suppress(OSError):  # Linux 4.20
                made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                made.setsockopt(socket.SOL_SOCKET, option, 1 << 24)  # as far as the host's limit allows
            made.bind((FAR_END, ETH_P_ALL))
            if queues > 1:
                made.setsockopt(SOL_PACKET, PACKET_FANOUT, 1)  # group 1, by the hash of the flow
        except OSError as refused:
            raise Refused("packet socket", refused.errno or 0) from None
        descriptors.append(made.detach())
    return name, descriptors


def open_device(
    device: str, name: str, queues: int, offload: bool, query: socket.socket
) -> tuple[str, str, list[int], str]:
    """The device made: kind, name, descriptors, and the reason why it is no TUN device."""
    why = ""
    if device != "packet":
        try:
            return ("tun", *open_tun(name, queues, offload), why)
        except Refused as refused:
            if device == "tun":
                raise
            why = f"{refused.step}: {refused}"
    return ("packet", *open_packet(name, queues, offload, query), why)


# --- names ---


class Names:
    """resolv.conf(5) and nsswitch.conf(5) of the mount namespace: no daemon of the host is asked."""

    def __init__(self) -> None:
        self._file = -1
        for place in ASKED_ELSEWHERE:
            if Path(place).is_dir():
                with contextlib.suppress(Refused):
                    mount("tmpfs", place, "tmpfs", 0, "mount")
        nsswitch = Path("/etc/nsswitch.conf")
        if nsswitch.exists():
            with contextlib.suppress(OSError):
                lines = nsswitch.read_text(errors="replace").splitlines()
                kept = [line for line in lines if not line.strip().startswith("hosts:")]
                os.close(self._cover(nsswitch, "\n".join([*kept, "hosts: files dns", ""])))

    def set(self, text: str) -> None:
        """Gives resolv.conf this content."""
        if self._file < 0:
            self._file = self._cover(Path("/etc/resolv.conf"), "")
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)

    @staticmethod
    def _cover(file: Path, text: str) -> int:
        """Mounts a file of our own over another. The mount that it was made in is gone afterwards."""
        target = file.resolve()
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        stage = next(place for place in ("/tmp", "/mnt", "/run", "/var") if Path(place).is_dir())
        # The target may lie below the stage: it is held by a descriptor.
        held = os.open(target, os.O_PATH | os.O_CLOEXEC)
        try:
            mount("tmpfs", stage, "tmpfs", 0, "mount")
            try:
                own = f"{stage}/{file.name}"
                made = os.open(own, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                os.pwrite(made, text.encode(), 0)
                mount(own, f"/proc/self/fd/{held}", None, MS_BIND, f"mount {file}")
            finally:
                libc.umount2(os.fsencode(stage), MNT_DETACH)
        finally:
            os.close(held)
        return made


def look_up(host: str, family: int) -> dict[str, Any]:
    """getaddrinfo(3), as the answer to the program."""
    try:
        found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except socket.gaierror as failed:
        return {"error": failed.errno, "text": failed.strerror}
    except (OSError, UnicodeError) as failed:
        return {"error": socket.EAI_FAIL, "text": str(failed)}
    return {"addresses": list(dict.fromkeys(str(entry[4][0]) for entry in found))}


# --- serving ---


class Holder:
    """Answers the requests of the program."""

    def __init__(self, program: socket.socket, interface: str) -> None:
        self._program = program
        self._interface = interface
        self._names = Names()
        self._children: set[int] = set()

    def serve(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._program, REQUEST_ROOM, 1)
            if not data:
                return
            try:
                answer, made = self._answer(json.loads(data), descriptors)
            except OSError as refused:
                answer, made = {"error": refused.errno, "text": refused.strerror}, []
            except Refused as refused:
                answer, made = {"error": refused.number, "text": f"{refused.step}: {refused}"}, []
            for descriptor in descriptors:
                os.close(descriptor)
            try:
                send(self._program, answer, made)
            except OSError:
                return
            for descriptor in made:
                os.close(descriptor)

    def _answer(self, asked: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], list[int]]:
        if asked["do"] == "socket":
            made = socket.socket(asked["family"], asked["type"], asked["protocol"])
            return {}, [made.detach()]
        if asked["do"] == "names":
            self._names.set(asked["text"])
            return {}, []
        if asked["do"] == "down":
            ip(f"link set dev {self._interface} down", f"address flush dev {self._interface}")
            return {}, []
        self._reap()
        if len(self._children) >= LOOK_UPS:
            raise OSError(errno.EAGAIN, f"{LOOK_UPS} names are being looked up already")
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LOOK_UP_SECONDS)
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            self._program.close()
            answer = json.dumps(look_up(asked["host"], asked["family"])).encode()
            with contextlib.suppress(OSError):
                socket.socket(fileno=descriptors[0]).send(answer)
            os._exit(0)
        self._children.add(child)
        return {}, []

    def _reap(self) -> None:
        for child in list(self._children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(child, os.WNOHANG)[0] == 0:
                    continue
            self._children.discard(child)


def send(program: socket.socket, answer: dict[str, Any], descriptors: list[int]) -> None:
    """Sends an answer and descriptors."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    program.sendmsg([json.dumps(answer).encode()], rights)


def hold(number: str, device: str, name: str, queues: str, offload: str) -> None:
    """Makes everything and serves. See the module."""
    program = socket.socket(fileno=int(number))
    program.set_inheritable(False)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)
    try:
        make_namespaces()
        keep_rights()
        ip("link set dev lo up")
        query = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        kind, made, descriptors, why = open_device(device, name, int(queues), offload == "1", query)
        if kind == "tun":
            with contextlib.suppress(Refused):
                ip(f"link set dev {made} addrgenmode none")
        notices = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
        )
        notices.bind((0, RTMGRP_LINK))
        spaces = [os.open(f"/proc/self/ns/{space}", os.O_RDONLY) for space in ("user", "net", "mnt")]
        holder = Holder(program, made)
    except Refused as refused:
        send(program, {"error": refused.number, "step": refused.step, "text": str(refused)}, [])
        return
    except OSError as refused:
        send(program, {"error": refused.errno or 0, "step": "start", "text": refused.strerror or ""}, [])
        return
    answer = {"kind": kind, "name": made, "why": why}
    send(program, answer, [query.detach(), notices.detach(), *spaces, *descriptors])
    for descriptor in (*spaces, *descriptors):
        os.close(descriptor)
    holder.serve()


if __name__ == "__main__":
    hold(*sys.argv[1:])
