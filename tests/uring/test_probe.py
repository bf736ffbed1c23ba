"""The probe tries each feature. Its answers where io_uring works, and where all or part of it is denied."""

from __future__ import annotations

import errno
import gc
import json
from pathlib import Path

import pytest
from seccomp import Rule, run_python

from udpring.uring import OPERATIONS, ZeroCopy, graveyard, probe_uring, supported_operations
from udpring.uring.probe import KERNEL_NAMES

NAMES = [
    "ring",
    "defer_taskrun",
    "timeout",
    "recvmsg",
    "sendmsg",
    "buffer_ring",
    "recvmsg_multishot",
    "read_multishot",
    "cancel_any",
    "msg_ring",
    "nop_inject",
    "disabled",
    "attach",
    "iowq_workers",
    "sq_poll",
    "big_sqe",
    "big_cqe",
    "mixed_cqe",
    "napi",
    "resize",
    "send_zc",
    "sendmsg_zc",
]

PROBE = "import json; from udpring.uring import probe_uring; print(json.dumps(probe_uring().as_dict()))"


def probed(*rules: Rule) -> dict[str, dict[str, object]]:
    child = run_python(PROBE, rules)
    assert child.returncode == 0, child.stderr
    found: dict[str, dict[str, object]] = json.loads(child.stdout)
    return found


def descriptors() -> int:
    gc.collect()  # garbage of an earlier test may hold descriptors
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_feature_has_a_reason() -> None:
    found = probe_uring()
    assert [feature.name for feature in found.features] == NAMES
    for feature in found.features:
        assert feature.reason
        assert bool(feature) == feature.works
        assert feature.works or feature.errno or feature.name in ("send_zc", "sendmsg_zc")
    assert found.zero_copy in set(ZeroCopy)
    assert json.loads(json.dumps(found.as_dict()))["zero_copy"] == found.zero_copy


def test_operations_are_those_of_the_kernel() -> None:
    """The names are by number, as the table of operations has them."""
    known = supported_operations()
    assert {"nop", "sendmsg", "recvmsg", "timeout"} <= set(known)
    assert probe_uring().operations == known
    for name in ("nop", "read", "write", "recv", "send", "accept", "fsync", "shutdown", "poll_add", "waitid"):
        assert KERNEL_NAMES[OPERATIONS[name].opcode] == name


def test_loopback_always_copies() -> None:
    found = probe_uring()
    if found.sendmsg_zc:
        assert found.zero_copy == ZeroCopy.COPIES
        assert found.send_zc


def test_the_probe_leaves_nothing_behind() -> None:
    probe_uring()
    before = descriptors(), graveyard()
    for _ in range(30):
        probe_uring()
    assert (descriptors(), graveyard()) == before


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize("call", ["io_uring_setup", "io_uring_enter"])
def test_denied_io_uring_gives_every_feature_a_reason(call: str, error: int) -> None:
    found = probed(Rule(call, error))
    assert found.pop("zero_copy") == ZeroCopy.UNSUPPORTED
    assert found.pop("operations") == []
    assert list(found) == NAMES
    for feature in found.values():
        assert feature["works"] is False
        assert call in str(feature["reason"])
    assert found["ring"]["errno"] == error


def test_buffer_rings_denied_take_the_multishots_with_them() -> None:
    """The ring and single receives and sends still work."""
    found = probed(Rule("io_uring_register", errno.EINVAL, ((1, "==", 22),)))
    works = {name for name in NAMES if found[name]["works"]}
    assert set(NAMES) - works >= {"buffer_ring", "recvmsg_multishot", "read_multishot"}
    assert works >= {"ring", "recvmsg", "sendmsg", "timeout", "cancel_any"}
    assert "5.19" in str(found["buffer_ring"]["reason"])
    assert "buffer ring" in str(found["recvmsg_multishot"]["reason"])


def test_failing_waits_are_reported_and_hang_nothing() -> None:
    """No enter may wait for completions, so each attempt ends with its error."""
    found = probed(Rule("io_uring_enter", errno.EIO, ((2, ">=", 1),)))
    assert found["ring"]["works"] is True
    for name in ("timeout", "recvmsg", "sendmsg", "nop_inject"):
        assert found[name]["works"] is False
        assert found[name]["errno"] == errno.EIO
