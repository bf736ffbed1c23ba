"""What some operations return in ``Completion.data``, as Python values."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

__all__ = ["ChildState", "Stat"]

# struct statx of statx(2): mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks,
# attributes_mask; atime, btime, ctime and mtime (seconds, nanoseconds); rdev, dev (major, minor); mnt_id.
_STATX = struct.Struct("=IIQIIIH2xQQQQ qI4x qI4x qI4x qI4x IIII Q")
_TIME_NS = 10**9
_BASIC_STATS = 0x7FF  # STATX_BASIC_STATS
# struct epoll_event is packed on x86-64 alone.
_EVENT = struct.Struct("=IQ" if os.uname().machine == "x86_64" else "=I4xQ")


@dataclass(frozen=True, slots=True)
class Stat:
    """The state of a file, with the names of ``os.stat_result``."""

    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_birthtime_ns: int
    """0 where the file system does not know it."""
    st_blocks: int
    st_blksize: int
    st_rdev: int
    stx_mask: int
    """What the kernel filled in: STATX_* of statx(2)."""
    stx_attributes: int
    """STATX_ATTR_* of statx(2)."""
    stx_mnt_id: int

    @property
    def st_atime(self) -> float:
        """The last access, in seconds."""
        return self.st_atime_ns / _TIME_NS

    @property
    def st_mtime(self) -> float:
        """The last change of the content, in seconds."""
        return self.st_mtime_ns / _TIME_NS

    @property
    def st_ctime(self) -> float:
        """The last change of the metadata, in seconds."""
        return self.st_ctime_ns / _TIME_NS


def encode_statx(found: os.stat_result) -> bytes:
    """The ``struct statx`` of what os.stat found. It has no time of birth and no mount."""
    times = [divmod(each, _TIME_NS) for each in (found.st_atime_ns, found.st_ctime_ns, found.st_mtime_ns)]
    access, change, modify = times
    return _STATX.pack(
        _BASIC_STATS, found.st_blksize, 0, found.st_nlink, found.st_uid, found.st_gid, found.st_mode,
        found.st_ino, found.st_size, found.st_blocks, 0,
        *access, 0, 0, *change, *modify,
        os.major(found.st_rdev), os.minor(found.st_rdev), os.major(found.st_dev), os.minor(found.st_dev), 0,
    )  # fmt: skip


def decode_statx(raw: bytes) -> Stat:
    """From a ``struct statx``."""
    (
        mask, block_size, attributes, links, uid, gid, mode, inode, size, blocks, _,
        access, access_ns, birth, birth_ns, change, change_ns, modify, modify_ns,
        rdev_major, rdev_minor, dev_major, dev_minor, mount,
    ) = _STATX.unpack_from(raw)  # fmt: skip
    return Stat(
        st_mode=mode,
        st_ino=inode,
        st_dev=os.makedev(dev_major, dev_minor),
        st_nlink=links,
        st_uid=uid,
        st_gid=gid,
        st_size=size,
        st_atime_ns=access * _TIME_NS + access_ns,
        st_mtime_ns=modify * _TIME_NS + modify_ns,
        st_ctime_ns=change * _TIME_NS + change_ns,
        st_birthtime_ns=birth * _TIME_NS + birth_ns,
        st_blocks=blocks,
        st_blksize=block_size,
        st_rdev=os.makedev(rdev_major, rdev_minor),
        stx_mask=mask,
        stx_attributes=attributes,
        stx_mnt_id=mount,
    )


@dataclass(frozen=True, slots=True)
class ChildState:
    """The state of a child process, with the names of ``os.waitid``."""

    si_pid: int
    si_uid: int
    si_signo: int
    si_status: int
    si_code: int


# siginfo_t of sigaction(2) for SIGCHLD: signo, errno, code, padding to 16 bytes, pid, uid, status.
_SIGINFO = struct.Struct("@iii4xiIi")


def decode_siginfo(raw: bytes) -> ChildState:
    """From a ``siginfo_t`` of waitid(2)."""
    signo, _, code, pid, uid, status = _SIGINFO.unpack_from(raw)
    return ChildState(pid, uid, signo, status, code)


def decode_events(raw: bytes) -> list[tuple[int, int]]:
    """(descriptor, events) as ``select.epoll.poll`` returns them, for an epoll that Python filled."""
    return [(data & 0xFFFFFFFF, events) for events, data in _EVENT.iter_unpack(raw)]


def decode_files(raw: bytes) -> tuple[int, ...]:
    """Descriptors, or indices of registered files."""
    return struct.unpack(f"@{len(raw) // 4}i", raw)
