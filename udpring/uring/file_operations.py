"""Operations on files and file systems."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from typing import Any

from udpring._native import lib
from udpring.uring.queueing import (
    CURRENT_POSITION,
    File,
    Flag,
    Payload,
    Queueing,
    descriptor,
    lent,
    path_bytes,
    place,
)

__all__ = ["ANY_PLACE", "FileOperations", "RWFlag"]

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

ANY_PLACE = 0xFFFFFFFE
"""For ``direct=``: the kernel picks a free place of the registered files (5.19). The result is its index."""

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_REMOVEDIR = 0x200
_AT_SYMLINK_FOLLOW = 0x400
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BASIC_AND_BIRTH = 0xFFF
_SPLICE_F_FD_IN_FIXED = 1 << 31
# Bytes that cannot change are used in place from this size on. Below it a copy is cheaper than holding them.
_LARGE = 16384

_READ, _WRITE = lib.UDPRING_OP_READ, lib.UDPRING_OP_WRITE
_READV, _WRITEV = lib.UDPRING_OP_READV, lib.UDPRING_OP_WRITEV


class RWFlag(enum.IntFlag):
    """How a single read or write behaves: RWF_* of preadv2(2). Each needs a file system that supports it."""

    NONE = 0
    HIPRI = lib.UDPRING_RW_HIPRI
    """Poll the device for the completion. ``Ring`` refuses it, as it needs IORING_SETUP_IOPOLL."""
    DSYNC = lib.UDPRING_RW_DSYNC
    """A write, as with O_DSYNC: it ends when the data is on the device."""
    SYNC = lib.UDPRING_RW_SYNC
    """A write, as with O_SYNC: it ends when the data and the metadata are on the device."""
    NOWAIT = lib.UDPRING_RW_NOWAIT
    """-EAGAIN in place of waiting, for the device or for data of a pipe."""
    APPEND = lib.UDPRING_RW_APPEND
    """A write, as with O_APPEND: at the end of the file, whatever the offset."""
    NOAPPEND = lib.UDPRING_RW_NOAPPEND
    """A write at its offset, also to a file opened with O_APPEND (Linux 6.9)."""
    ATOMIC = lib.UDPRING_RW_ATOMIC
    """A write with O_DIRECT that a power failure does not tear (Linux 6.11)."""
    DONTCACHE = lib.UDPRING_RW_DONTCACHE
    """Drops the pages from the cache afterwards (Linux 6.14)."""
    NOSIGNAL = lib.UDPRING_RW_NOSIGNAL
    """A write to a broken pipe raises no SIGPIPE (Linux 6.18)."""


def directory(dir_fd: File | None) -> int:
    """Of a path: the directory's descriptor, or the working directory."""
    return _AT_FDCWD if dir_fd is None else descriptor(dir_fd)


def position(offset: int | None) -> int:
    """Of a read or write: the offset, or the file's current position."""
    return CURRENT_POSITION if offset is None else offset


class FileOperations(Queueing):
    """See ``Operations``. Reads and writes take ``rw_flags``, which raise RingError (EINVAL) if the
    operation has no use for them."""

    def read(
        self,
        file: File,
        length: int,
        *,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Reads up to ``length`` bytes at the current position, or at ``offset`` (pread(2)). ``data`` of the
        completion has them.

        The ring's memory is aligned if ``length`` is a multiple of 512, as files opened with O_DIRECT require
        it.
        """
        return self._put(_READ, flags, descriptor(file), position(offset), 0, length, rw_flags)

    def readinto(
        self,
        file: File,
        buffer: Any,
        *,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Reads into ``buffer``, a writable buffer, at most its length.

        The ring holds the buffer until the operation has ended. A ``bytearray`` cannot be resized meanwhile.
        See read(2).
        """
        return self._put_pinned(_READ, flags, buffer, True, descriptor(file), position(offset), bits=rw_flags)

    def write(
        self,
        file: File,
        payload: Payload,
        *,
        offset: int | None = None,
        copy: bool = True,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Writes ``payload`` at the current position, or at ``offset`` (pwrite(2)). The result is the number
        of bytes written, which may be less.

        ``copy`` False: the kernel reads the caller's memory itself. The ring holds it until the operation has
        ended, and the caller must not change it before. Long ``bytes`` are never copied.
        """
        if not copy or (type(payload) is bytes and len(payload) >= _LARGE):
            at = position(offset)
            return self._put_pinned(_WRITE, flags, payload, False, descriptor(file), at, bits=rw_flags)
        memory = lent(payload)
        return self._put(
            _WRITE, flags, descriptor(file), position(offset), 0, 0, rw_flags, 0, memory, len(memory)
        )

    def readv(
        self,
        file: File,
        buffers: Sequence[Any],
        *,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Reads into several writable buffers, one after the other (preadv(2)). At most 1024. The ring holds
        them."""
        return self._put_vector(_READV, flags, buffers, True, descriptor(file), position(offset), rw_flags)

    def writev(
        self,
        file: File,
        buffers: Sequence[Any],
        *,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Writes several buffers, one after the other, without a copy (pwritev(2)). At most 1024. The ring
        holds them."""
        return self._put_vector(_WRITEV, flags, buffers, False, descriptor(file), position(offset), rw_flags)

    def read_group(
        self,
        file: File,
        group: int,
        *,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Reads once into a buffer of ``group``, which the kernel picks when there is data. -ENOBUFS: none is
        free. See read(2)."""
        return self._put(
            lib.UDPRING_OP_READ_GROUP,
            flags,
            descriptor(file),
            position(offset),
            bits=rw_flags,
            extra=group << 16,
        )

    def read_multishot(self, file: File, group: int, *, flags: Flag = Flag.NONE) -> int:
        """Reads repeatedly (Linux 6.7) into the buffers of ``group``. The last completion lacks ``more``.

        The descriptor must support polling: a pipe, an eventfd, a TUN device. -ENOBUFS: all buffers were full
        at once.
        """
        return self._put(
            lib.UDPRING_OP_READ_MULTISHOT, flags, descriptor(file), CURRENT_POSITION, extra=group << 16
        )

    def read_fixed(
        self,
        file: File,
        buffer: int,
        length: int,
        *,
        start: int = 0,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Reads into registered buffer ``buffer``, at its offset ``start``. See io_uring_enter(2)."""
        return self._put(
            lib.UDPRING_OP_READ_FIXED,
            flags,
            descriptor(file),
            position(offset),
            start,
            length,
            bits=rw_flags,
            extra=buffer << 16,
        )

    def write_fixed(
        self,
        file: File,
        buffer: int,
        length: int,
        *,
        start: int = 0,
        offset: int | None = None,
        rw_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Writes from registered buffer ``buffer``. Its bytes must not change until the completion.
        See io_uring_enter(2)."""
        return self._put(
            lib.UDPRING_OP_WRITE_FIXED,
            flags,
            descriptor(file),
            position(offset),
            start,
            length,
            bits=rw_flags,
            extra=buffer << 16,
        )

    def fsync(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Writes the file's data and metadata to its device (fsync(2))."""
        return self._put(lib.UDPRING_OP_FSYNC, flags, descriptor(file))

    def fdatasync(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Writes the file's data, and the metadata needed to read it (fdatasync(2))."""
        return self._put(lib.UDPRING_OP_FSYNC, flags, descriptor(file), bits=lib.UDPRING_FSYNC_DATASYNC)

    def fallocate(
        self, file: File, offset: int, length: int, *, mode: int = 0, flags: Flag = Flag.NONE
    ) -> int:
        """Allocates space, or punches a hole by ``mode`` (fallocate(2))."""
        return self._put(lib.UDPRING_OP_FALLOCATE, flags, descriptor(file), offset, length, mode)

    def ftruncate(self, file: File, length: int, *, flags: Flag = Flag.NONE) -> int:
        """Changes the length of a file (ftruncate(2)). Linux 6.9."""
        return self._put(lib.UDPRING_OP_FTRUNCATE, flags, descriptor(file), length)

    def fadvise(self, file: File, offset: int, length: int, advice: int, *, flags: Flag = Flag.NONE) -> int:
        """Tells how the file will be used: ``os.POSIX_FADV_SEQUENTIAL``, ... (posix_fadvise(2))."""
        short = length if length < 2**32 else 0  # longer ones go to another field, since Linux 6.10
        return self._put(
            lib.UDPRING_OP_FADVISE, flags, descriptor(file), offset, 0 if short else length, short, advice
        )

    def madvise(self, buffer: Any, advice: int, *, flags: Flag = Flag.NONE) -> int:
        """Tells how memory will be used: ``mmap.MADV_WILLNEED``, ... (madvise(2)). ``buffer``: whole pages,
        as ``mmap.mmap`` has them."""
        return self._put_pinned(lib.UDPRING_OP_MADVISE, flags, buffer, True, bits=advice)

    def splice(
        self,
        source: File,
        target: File,
        length: int,
        *,
        source_offset: int | None = None,
        target_offset: int | None = None,
        splice_flags: int = 0,
        source_registered: bool = False,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Moves data between a pipe and a file without copying (splice(2)). The result is the number of
        bytes.

        ``Flag.FIXED_FILE`` concerns ``target``, ``source_registered`` concerns ``source``.
        """
        bits = splice_flags | (_SPLICE_F_FD_IN_FIXED if source_registered else 0)
        return self._put(
            lib.UDPRING_OP_SPLICE,
            flags,
            descriptor(target),
            position(target_offset),
            position(source_offset),
            length,
            bits,
            descriptor(source) << 32,
        )

    def tee(
        self,
        source: File,
        target: File,
        length: int,
        *,
        source_registered: bool = False,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Duplicates data from one pipe to another, and leaves it in the first (tee(2))."""
        bits = _SPLICE_F_FD_IN_FIXED if source_registered else 0
        return self._put(
            lib.UDPRING_OP_TEE,
            flags,
            descriptor(target),
            length=length,
            bits=bits,
            extra=descriptor(source) << 32,
        )

    # -- paths --

    def openat2(
        self,
        path: Path,
        open_flags: int = os.O_RDONLY,
        *,
        mode: int = 0o666,
        resolve: int = 0,
        dir_fd: File | None = None,
        direct: int | None = None,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Opens a file (openat2(2)). The result is its descriptor, which is not inherited by programs.

        ``mode``: of a file that is created. ``resolve``: RESOLVE_* of openat2(2). ``direct``: no descriptor
        but a place among the registered files, by its index or ``ANY_PLACE`` (5.15).
        """
        creates = open_flags & (os.O_CREAT | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY)
        inherited = 0 if direct is not None else os.O_CLOEXEC
        return self._put_bytes(
            lib.UDPRING_OP_OPENAT2,
            flags,
            path_bytes(path),
            directory(dir_fd),
            open_flags | inherited,
            resolve,
            mode if creates else 0,
            extra=place(direct),
        )

    def close_file(self, file: File, *, flags: Flag = Flag.NONE) -> int:
        """Closes a descriptor (close(2)), or empties a place of the registered files with
        ``Flag.FIXED_FILE`` (5.15)."""
        if flags & Flag.FIXED_FILE:
            return self._put(lib.UDPRING_OP_CLOSE, flags & ~Flag.FIXED_FILE, 0, extra=place(descriptor(file)))
        return self._put(lib.UDPRING_OP_CLOSE, flags, descriptor(file))

    def statx(
        self,
        path: Path | None = None,
        *,
        file: File | None = None,
        dir_fd: File | None = None,
        follow_symlinks: bool = True,
        mask: int = _STATX_BASIC_AND_BIRTH,
        flags: Flag = Flag.NONE,
    ) -> int:
        """The state of a path, or of an open ``file`` (statx(2)). ``completion.stat`` has it."""
        if (path is None) == (file is None):
            raise ValueError("statx: either a path or file=")
        bits = 0 if follow_symlinks else _AT_SYMLINK_NOFOLLOW
        if file is not None:
            return self._put_bytes(
                lib.UDPRING_OP_STATX, flags, b"", descriptor(file), length=mask, bits=bits | _AT_EMPTY_PATH
            )
        assert path is not None
        return self._put_bytes(
            lib.UDPRING_OP_STATX, flags, path_bytes(path), directory(dir_fd), length=mask, bits=bits
        )

    def unlinkat(
        self, path: Path, *, dir_fd: File | None = None, is_dir: bool = False, flags: Flag = Flag.NONE
    ) -> int:
        """Removes a file, or an empty directory with ``is_dir`` (unlinkat(2))."""
        bits = _AT_REMOVEDIR if is_dir else 0
        return self._put_bytes(lib.UDPRING_OP_UNLINKAT, flags, path_bytes(path), directory(dir_fd), bits=bits)

    def mkdirat(
        self, path: Path, mode: int = 0o777, *, dir_fd: File | None = None, flags: Flag = Flag.NONE
    ) -> int:
        """Makes a directory (mkdirat(2))."""
        return self._put_bytes(
            lib.UDPRING_OP_MKDIRAT, flags, path_bytes(path), directory(dir_fd), length=mode
        )

    def renameat(
        self,
        old: Path,
        new: Path,
        *,
        old_dir_fd: File | None = None,
        new_dir_fd: File | None = None,
        rename_flags: int = 0,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Renames a file (renameat2(2)). ``rename_flags``: 1 refuses to replace a file, 2 exchanges two."""
        return self._two_paths(
            lib.UDPRING_OP_RENAMEAT, flags, old, new, old_dir_fd, directory(new_dir_fd), rename_flags
        )

    def linkat(
        self,
        old: Path,
        new: Path,
        *,
        old_dir_fd: File | None = None,
        new_dir_fd: File | None = None,
        follow_symlinks: bool = False,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Gives a file another name (linkat(2))."""
        bits = _AT_SYMLINK_FOLLOW if follow_symlinks else 0
        return self._two_paths(
            lib.UDPRING_OP_LINKAT, flags, old, new, old_dir_fd, directory(new_dir_fd), bits
        )

    def symlinkat(
        self, target: Path, path: Path, *, dir_fd: File | None = None, flags: Flag = Flag.NONE
    ) -> int:
        """Makes a symbolic link at ``path`` (symlinkat(2))."""
        return self._two_paths(lib.UDPRING_OP_SYMLINKAT, flags, target, path, dir_fd, 0, 0)

    def _two_paths(
        self, operation: int, flags: int, old: Path, new: Path, dir_fd: File | None, length: int, bits: int
    ) -> int:
        names = path_bytes(old) + b"\0" + path_bytes(new)
        return self._put_bytes(
            operation, flags, names, directory(dir_fd), length=length & 0xFFFFFFFF, bits=bits
        )

    # -- extended attributes --

    def fgetxattr(self, file: File, name: str | bytes, length: int = 4096, *, flags: Flag = Flag.NONE) -> int:
        """An extended attribute of an open file, in ``completion.data`` (fgetxattr(2)). -ERANGE: it is longer
        than ``length``."""
        return self._put_bytes(
            lib.UDPRING_OP_FGETXATTR, flags, os.fsencode(name), descriptor(file), length=length
        )

    def getxattr(self, path: Path, name: str | bytes, length: int = 4096, *, flags: Flag = Flag.NONE) -> int:
        """An extended attribute of a path, in ``completion.data`` (getxattr(2))."""
        names = os.fsencode(name) + b"\0" + path_bytes(path)
        return self._put_bytes(lib.UDPRING_OP_GETXATTR, flags, names, length=length)

    def fsetxattr(
        self, file: File, name: str | bytes, value: bytes, *, xattr_flags: int = 0, flags: Flag = Flag.NONE
    ) -> int:
        """Sets an extended attribute of an open file (fsetxattr(2))."""
        return self._put_bytes(
            lib.UDPRING_OP_FSETXATTR,
            flags,
            os.fsencode(name) + b"\0" + value,
            descriptor(file),
            length=len(value),
            bits=xattr_flags,
        )

    def setxattr(
        self, path: Path, name: str | bytes, value: bytes, *, xattr_flags: int = 0, flags: Flag = Flag.NONE
    ) -> int:
        """Sets an extended attribute of a path (setxattr(2))."""
        names = os.fsencode(name) + b"\0" + path_bytes(path) + b"\0" + value
        return self._put_bytes(lib.UDPRING_OP_SETXATTR, flags, names, length=len(value), bits=xattr_flags)
