"""What this host's io_uring can do, found by doing, and why not."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from udpring._native import ffi, lib

__all__ = ["Feature", "UringProbe", "ZeroCopy", "probe_uring"]


class ZeroCopy(enum.StrEnum):
    """What became of a zero-copy send on loopback."""

    UNSUPPORTED = "unsupported"
    BROKEN = "broken"
    """Sent, but the kernel never says when the memory is free again."""
    COPIES = "copies"
    """Works, and copies after all: always so on loopback."""
    TRUE = "true"


_ZERO_COPY = {
    lib.UDPRING_ZC_UNSUPPORTED: ZeroCopy.UNSUPPORTED,
    lib.UDPRING_ZC_BROKEN: ZeroCopy.BROKEN,
    lib.UDPRING_ZC_COPIES: ZeroCopy.COPIES,
    lib.UDPRING_ZC_TRUE: ZeroCopy.TRUE,
}


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that was tried."""

    name: str
    works: bool
    reason: str
    """What was seen; or why not, and what to do about it."""
    errno: int
    """Of the step that failed; 0 when none did, or no system call was at fault."""

    def __bool__(self) -> bool:
        return self.works

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON; the name is the caller's key."""
        return {"works": self.works, "reason": self.reason, "errno": self.errno}


@dataclass(frozen=True, slots=True)
class UringProbe:
    """The features of io_uring that udpring knows to use, each tried once on this host."""

    ring: Feature
    """A ring can be opened and entered; when not, nothing else works either."""
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
    send_zc: Feature
    sendmsg_zc: Feature
    """Of a train of datagrams (UDP_SEGMENT): what ``SendRing(zero_copy=True)`` sends."""
    zero_copy: ZeroCopy
    """The outcome of ``sendmsg_zc``."""

    def __bool__(self) -> bool:
        return self.ring.works

    @property
    def features(self) -> tuple[Feature, ...]:
        """All of them, in the order in which they were tried."""
        return tuple(
            value
            for value in (getattr(self, name) for name in self.__dataclass_fields__)
            if isinstance(value, Feature)
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        found: dict[str, object] = {feature.name: feature.as_dict() for feature in self.features}
        return found | {"zero_copy": str(self.zero_copy)}


def probe_uring() -> UringProbe:
    """Tries every feature on sockets of its own, on loopback only. Takes milliseconds; a hang of the kernel
    is bounded by 1 s a feature. Raises nothing: what does not work is in the result, with its reason.
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
    # Another code is an errno: it could not even be tried.
    zero_copy = _ZERO_COPY.get(results[lib.UDPRING_FEATURE_SENDMSG_ZC].code, ZeroCopy.UNSUPPORTED)
    return UringProbe(**features, zero_copy=zero_copy)
