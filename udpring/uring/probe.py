"""The features of this host's io_uring, found by trying each, with reasons for failures."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from udpring._native import ffi, lib

__all__ = ["KERNEL_NAMES", "Feature", "UringProbe", "ZeroCopy", "probe_uring", "supported_operations"]


class ZeroCopy(enum.StrEnum):
    """The outcome of a zero-copy send on loopback."""

    UNSUPPORTED = "unsupported"
    BROKEN = "broken"
    """Sent, but the kernel never reports that the memory is free again."""
    COPIES = "copies"
    """Works, but copies, as always on loopback."""
    TRUE = "true"


_ZERO_COPY = {
    lib.UDPRING_ZC_UNSUPPORTED: ZeroCopy.UNSUPPORTED,
    lib.UDPRING_ZC_BROKEN: ZeroCopy.BROKEN,
    lib.UDPRING_ZC_COPIES: ZeroCopy.COPIES,
    lib.UDPRING_ZC_TRUE: ZeroCopy.TRUE,
}


@dataclass(frozen=True, slots=True)
class Feature:
    """One tried feature."""

    name: str
    works: bool
    reason: str
    """The observation, or the reason of the failure and the cure."""
    errno: int
    """The errno of the failed step. 0: no step or no system call failed."""

    def __bool__(self) -> bool:
        return self.works

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON. The caller's key is the name."""
        return {"works": self.works, "reason": self.reason, "errno": self.errno}


@dataclass(frozen=True, slots=True)
class UringProbe:
    """The io_uring features that udpring can use, each tried once on this host."""

    ring: Feature
    """A ring can be opened and entered. Otherwise nothing else works either."""
    defer_taskrun: Feature
    timeout: Feature
    recvmsg: Feature
    sendmsg: Feature
    buffer_ring: Feature
    recvmsg_multishot: Feature
    read_multishot: Feature
    cancel_any: Feature
    msg_ring: Feature
    nop_inject: Feature
    disabled: Feature
    """The options of ``Ring`` of these names, up to ``mixed_cqe``."""
    attach: Feature
    iowq_workers: Feature
    sq_poll: Feature
    big_sqe: Feature
    big_cqe: Feature
    mixed_cqe: Feature
    napi: Feature
    """``Ring.busy_poll``."""
    resize: Feature
    send_zc: Feature
    sendmsg_zc: Feature
    """Of a train of datagrams (UDP_SEGMENT), which ``SendRing(zero_copy=True)`` sends."""
    zero_copy: ZeroCopy
    """The outcome of ``sendmsg_zc``."""
    operations: tuple[str, ...] = ()
    """The operations that the kernel knows (IORING_REGISTER_PROBE), by their names in ``KERNEL_NAMES``. Those
    that are newer than this list appear as ``op_70``. A known operation may lack some of its flags."""

    def __bool__(self) -> bool:
        return self.ring.works

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features in the order in which they were tried."""
        return tuple(
            value
            for value in (getattr(self, name) for name in self.__dataclass_fields__)
            if isinstance(value, Feature)
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        found: dict[str, object] = {feature.name: feature.as_dict() for feature in self.features}
        return found | {"zero_copy": str(self.zero_copy), "operations": list(self.operations)}


KERNEL_NAMES = (
    "nop", "readv", "writev", "fsync", "read_fixed", "write_fixed", "poll_add", "poll_remove",
    "sync_file_range", "sendmsg", "recvmsg", "timeout", "timeout_remove", "accept", "async_cancel",
    "link_timeout", "connect", "fallocate", "openat", "close", "files_update", "statx", "read", "write",
    "fadvise", "madvise", "send", "recv", "openat2", "epoll_ctl", "splice", "provide_buffers",
    "remove_buffers", "tee", "shutdown", "renameat", "unlinkat", "mkdirat", "symlinkat", "linkat",
    "msg_ring", "fsetxattr", "setxattr", "fgetxattr", "getxattr", "socket", "uring_cmd", "send_zc",
    "sendmsg_zc", "read_multishot", "waitid", "futex_wait", "futex_wake", "futex_waitv",
    "fixed_fd_install", "ftruncate", "bind", "listen", "recv_zc", "epoll_wait", "readv_fixed",
    "writev_fixed", "pipe", "nop128", "uring_cmd128",
)  # fmt: skip
"""The kernel's names of its operations, IORING_OP_* of <linux/io_uring.h>. The index is the number."""


def supported_operations() -> tuple[str, ...]:
    """The operations that the kernel lists as supported (io_uring_register(2), IORING_REGISTER_PROBE).

    Empty where io_uring is denied."""
    known = ffi.new("uint8_t[]", 256)
    if lib.udpring_uring_operations(known, len(known)) < 0:
        return ()
    return tuple(
        KERNEL_NAMES[number] if number < len(KERNEL_NAMES) else f"op_{number}"
        for number in range(len(known))
        if known[number]
    )


def probe_uring() -> UringProbe:
    """Tries each feature on its own sockets, only on loopback. Takes milliseconds. A hang in the kernel is
    bounded by 1 s per feature. Raises nothing: the result has the reason for each failure.
    """
    results = ffi.new("struct udpring_feature_result[]", lib.UDPRING_FEATURE_COUNT)
    lib.udpring_uring_probe(results)
    features = {}
    for which in range(lib.UDPRING_FEATURE_COUNT):
        name = ffi.string(lib.udpring_feature_name(which)).decode()
        result = results[which]
        features[name] = Feature(
            name=name,
            works=bool(result.works),
            reason=ffi.string(result.reason.text).decode("utf-8", "replace"),
            errno=max(0, -result.code),
        )
    # Any other code is an errno: it could not be tried.
    zero_copy = _ZERO_COPY.get(results[lib.UDPRING_FEATURE_SENDMSG_ZC].code, ZeroCopy.UNSUPPORTED)
    return UringProbe(**features, zero_copy=zero_copy, operations=supported_operations())
