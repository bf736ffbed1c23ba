"""Opening a ring: sizes, flag sets and their fallbacks, shortage of memory, and reasons for refusals."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from core_internals import lib as internals
from seccomp import Rule, launcher, run_python

from udpring import RingError
from udpring._native import lib
from udpring.uring import Ring

NATIVE = Path(__file__).resolve().parents[2] / "udpring" / "native"

DEFER = lib.UDPRING_SETUP_DEFER_TASKRUN | lib.UDPRING_SETUP_SINGLE_ISSUER
WORK_FLAG = lib.UDPRING_SETUP_TASKRUN_FLAG
COOP = lib.UDPRING_SETUP_COOP_TASKRUN | WORK_FLAG
BASIC = lib.UDPRING_SETUP_CQSIZE | lib.UDPRING_SETUP_CLAMP
SUBMIT_ALL, NO_SQARRAY = lib.UDPRING_SETUP_SUBMIT_ALL, lib.UDPRING_SETUP_NO_SQARRAY

# The denied call, and the best flag set that remains. None: the best of this kernel.
FALLBACKS = {
    "no sqarray": (NO_SQARRAY, DEFER | WORK_FLAG | SUBMIT_ALL | BASIC),
    "defer": (lib.UDPRING_SETUP_DEFER_TASKRUN, COOP | SUBMIT_ALL | BASIC),
    "coop": (lib.UDPRING_SETUP_DEFER_TASKRUN | lib.UDPRING_SETUP_COOP_TASKRUN, SUBMIT_ALL | BASIC),
    "submit all": (SUBMIT_ALL, BASIC),
    "cqsize": (lib.UDPRING_SETUP_CQSIZE, 0),
}


def works(ring: Ring) -> bool:
    ticket = ring.nop()
    return [(done.ticket, done.result) for done in ring.reap(1, 30)] == [(ticket, 0)]


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [(0, 256), (1, 8), (8, 8), (9, 16), (1000, 1024), (40000, 32768), (2**32 - 1, 32768)],
)
def test_entries(wanted: int, granted: int) -> None:
    with Ring(wanted) as ring:
        assert ring.info.sq_entries == granted
        assert works(ring)


@pytest.mark.parametrize(("wanted", "granted"), [(0, 64), (16, 16), (17, 32), (1000, 1024), (10**6, 65536)])
def test_completion_queue_size(wanted: int, granted: int) -> None:
    with Ring(16, cq_entries=wanted) as ring:
        assert ring.info.cq_entries == granted
        assert works(ring)


def test_cq_smaller_than_sq_is_refused() -> None:
    with pytest.raises(RingError, match="8 entries is smaller than the submission queue of 16") as caught:
        Ring(16, cq_entries=8)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("which", FALLBACKS)
def test_flag_sets_fall_back_in_order(which: str) -> None:
    denied, best = FALLBACKS[which]
    with Ring(16, deny=denied) as ring:
        assert not ring.info.setup_flags & denied
        assert ring.info.setup_flags == best
        assert works(ring)


def maps_of_rings() -> int:
    return Path("/proc/self/maps").read_text().count("[io_uring]")


def test_the_queues_may_be_mapped_one_by_one() -> None:
    """B6: three mappings, each unmapped once. Two if the kernel has both queues in one."""
    before = maps_of_rings()
    for denied, least in ((0, 2), (internals.UDPRING_DENY_SINGLE_MMAP, 3)):
        ring = Ring(16, deny=denied | NO_SQARRAY)
        assert works(ring)
        assert maps_of_rings() >= before + least
        ring.close()
        assert maps_of_rings() == before


def test_the_best_set_has_one_issuer_and_deferred_work() -> None:
    with Ring(16) as ring:
        assert ring.info.setup_flags & (DEFER | SUBMIT_ALL | BASIC) == DEFER | SUBMIT_ALL | BASIC
        assert ring.info.iowq_error == 0


REPORT = """
import json
from udpring.uring import Ring, probe_uring
from udpring import UdpringError
try:
    with Ring({entries}) as ring:
        ring.nop()
        done = [completion.result for completion in ring.reap(1, 30)]
        info = ring.info
        out = {{"sq": info.sq_entries, "cq": info.cq_entries, "halvings": info.halvings,
               "flags": info.setup_flags, "done": done, "iowq": info.iowq_error}}
except UdpringError as error:
    out = {{"error": type(error).__name__, "errno": error.errno, "text": str(error)}}
print(json.dumps(out))
"""


def opened_under(*rules: Rule, entries: int = 64) -> dict[str, object]:
    child = run_python(REPORT.format(entries=entries), rules)
    assert child.returncode == 0, child.stderr
    found: dict[str, object] = json.loads(child.stdout)
    return found


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("io_uring_setup", errno.EPERM), ["io_uring_setup", "seccomp", "Docker", "allow"]),
        (Rule("io_uring_enter", errno.EPERM), ["io_uring_enter", "seccomp", "allow"]),
        (Rule("io_uring_setup", errno.ENOSYS), ["io_uring_setup", "no io_uring", "gVisor"]),
        (
            Rule("io_uring_setup", errno.ENOMEM),
            ["io_uring_setup", "no memory for a ring of 8 entries", "MEMLOCK"],
        ),
    ],
    ids=str,
)
def test_a_host_that_refuses_says_why(rule: Rule, words: list[str]) -> None:
    found = opened_under(rule)
    assert found["error"] == "HostError"
    assert found["errno"] == rule.error
    missing = [word for word in words if word not in str(found["text"])]
    assert not missing, found["text"]


def test_the_three_causes_read_differently() -> None:
    texts = {
        str(opened_under(Rule("io_uring_setup", error))["text"])
        for error in (errno.EPERM, errno.ENOSYS, errno.ENOMEM)
    }
    assert len(texts) == 3


@pytest.mark.parametrize(
    ("value", "words"), [(1, "kernel.io_uring_group"), (2, "io_uring is off on this host")]
)
def test_the_sysctl_is_named_when_it_is_the_cause(tmp_path: Path, value: int, words: str) -> None:
    """The child mounts its own file over the sysctl's, in its own mount namespace."""
    (tmp_path / "sysctl").write_text(f"{value}\n")
    cover = f"mount --bind {tmp_path}/sysctl /proc/sys/kernel/io_uring_disabled && exec"
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", cover + ' "$@"', "sh"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this host allows no user namespaces")
    inside = [
        *launcher(Rule("io_uring_setup", errno.EPERM)),
        sys.executable,
        "-P",
        "-c",
        REPORT.format(entries=8),
    ]
    child = subprocess.run([*apart, *inside], capture_output=True, text=True, check=False, timeout=60)
    assert words in child.stdout, child.stderr
    assert f"kernel.io_uring_disabled = {value}" in child.stdout


def test_every_flag_set_refused_is_said() -> None:
    found = opened_under(Rule("io_uring_setup", errno.EINVAL))
    assert found["error"] == "RingError"
    assert "every set of flags" in str(found["text"])


def test_enomem_of_setup_halves_entries() -> None:
    """The flags remain."""
    with Ring(16) as ring:
        best = ring.info.setup_flags
    found = opened_under(Rule("io_uring_setup", errno.ENOMEM, ((0, ">=", 33),)), entries=512)
    assert found == {"sq": 32, "cq": 128, "halvings": 4, "flags": best, "done": [0], "iowq": 0}


def test_enomem_of_mmap_halves_the_entries() -> None:
    """The filter refuses mappings of the entries (offset 0x10000000) above 16 KiB, which is 256 entries."""
    found = opened_under(Rule("mmap", errno.ENOMEM, ((5, "==", 0x10000000), (1, ">=", 16385))), entries=1024)
    assert (found["sq"], found["halvings"], found["done"]) == (256, 2, [0])


def test_enomem_of_mmap_at_every_size_is_reported() -> None:
    found = opened_under(Rule("mmap", errno.EAGAIN, ((5, "==", 0x10000000),)))
    assert (found["error"], found["errno"]) == ("HostError", errno.ENOMEM)
    assert "ring of 8 entries" in str(found["text"])


def test_refused_worker_bound_is_recorded() -> None:
    """The refusal is not fatal."""
    found = opened_under(Rule("io_uring_register", errno.EPERM, ((1, "==", 19),)))
    assert found["iowq"] == errno.EPERM
    assert found["done"] == [0]


def test_too_many_files_is_said() -> None:
    code = (
        "import resource, os\n"
        "from udpring.uring import Ring\n"
        "from udpring import RingError\n"
        "top = max(map(int, os.listdir('/proc/self/fd')))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (top, top))\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(os.dup(0))\n"
        "except OSError: pass\n"
        "try: Ring()\n"
        "except RingError as error: print(error)\n"
    )
    child = run_python(code)
    assert "RLIMIT_NOFILE" in child.stdout, child.stderr


def test_an_address_space_too_small_halves_or_says_so() -> None:
    """RLIMIT_AS limits the mappings of a ring since 5.12. The child raises its own limit again at once."""
    code = """
import os, resource
from pathlib import Path
from udpring.uring import Ring
from udpring import HostError
Ring(8).close()
pages = int(Path("/proc/self/statm").read_text().split()[0])
old = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + (1 << 20), old[1]))
try:
    ring = Ring(32768, slots=16)
finally:
    resource.setrlimit(resource.RLIMIT_AS, old)
with ring:
    ring.nop()
    print(ring.info.halvings > 0, ring.info.sq_entries >= 8, len(ring.reap(1, 30)))
"""
    child = run_python(code)
    assert child.stdout.split() == ["True", "True", "1"], child.stderr


def test_failed_open_leaves_nothing() -> None:
    code = """
import os
from udpring import HostError
from udpring.uring import Ring
def state():
    return len(os.listdir("/proc/self/fd")), open("/proc/self/maps").read().count("io_uring")
try: Ring()
except HostError: pass
before = state()
for _ in range(50):
    try: Ring()
    except HostError: pass
print(state() == before)
"""
    for rule in (
        Rule("mmap", errno.ENOMEM, ((5, "==", 0x10000000),)),
        Rule("io_uring_enter", errno.EPERM),
    ):
        child = run_python(code, [rule])
        assert child.stdout.strip() == "True", child.stderr


def test_disabled_ring_belongs_to_enabling_thread() -> None:
    ring = Ring(16, disabled=True)
    ring.nop()
    with pytest.raises(RingError, match="enable") as caught:
        ring.submit()
    assert caught.value.errno == errno.EBADFD
    seen: list[object] = []

    def own() -> None:
        ring.enable()
        ring.nop()
        seen.append([done.result for done in ring.reap(2, 30)])
        seen.append(ring.info.iowq_error)
        with pytest.raises(RingError) as again:
            ring.enable()
        seen.append(again.value.errno)
        ring.close()

    thread = threading.Thread(target=own)
    thread.start()
    thread.join()
    assert seen == [[0, 0], 0, errno.EINVAL]
    assert ring.closed


def test_a_disabled_ring_can_be_closed_unused() -> None:
    ring = Ring(16, disabled=True)
    ring.close()
    assert ring.leaked == 0


def test_too_many_slots_are_refused() -> None:
    with pytest.raises(RingError, match="at most 1048576") as caught:
        Ring(8, slots=1048577)
    assert caught.value.errno == errno.EINVAL


def test_enomem_of_slots_halves_them() -> None:
    """The address space has room for the queues and not for a million slots."""
    code = """
import os, resource
from pathlib import Path
from udpring.uring import Ring
Ring(8).close()
pages = int(Path("/proc/self/statm").read_text().split()[0])
old = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + (64 << 20), old[1]))
try:
    ring = Ring(8, slots=1048576)
finally:
    resource.setrlimit(resource.RLIMIT_AS, old)
with ring:
    ring.nop()
    info = ring.info
    print(info.sq_entries, 8 <= info.slots < 1048576, info.slots << info.halvings, len(ring.reap(1, 30)))
"""
    child = run_python(code)
    assert child.stdout.split() == ["8", "True", "1048576", "1"], child.stderr


def test_the_abi_header_agrees_with_the_systems(tmp_path: Path) -> None:
    """Constants and layouts that <linux/io_uring.h> also has. That header is older and lacks some."""
    ours = (NATIVE / "uring" / "kernel.h").read_text()
    system = Path("/usr/include/linux/io_uring.h")
    theirs = system.read_text()
    pattern = re.compile(r"\b(?:IORING|IOSQE|IOU)_\w+")
    names = sorted(set(pattern.findall(ours)) & set(pattern.findall(theirs)))
    assert len(names) > 100
    lines = ["#include <stdio.h>", "#include HEADER", "int main(void) {"]
    lines += [f'printf("{name} %lld\\n", (long long)({name}));' for name in names]
    lines += [
        f'printf("{kind} %zu\\n", sizeof(struct {kind}));'
        for kind in ("io_uring_sqe", "io_uring_cqe", "io_uring_params", "io_uring_buf_reg", "io_uring_buf")
    ]
    source = tmp_path / "numbers.c"
    source.write_text("\n".join([*lines, "}"]))
    printed = []
    for number, header in enumerate(("<linux/io_uring.h>", '"uring/kernel.h"')):
        binary = tmp_path / f"numbers{number}"
        subprocess.run(
            ["gcc", "-Ulinux", f"-DHEADER={header}", f"-I{NATIVE}", "-o", binary, source],
            check=True,
            capture_output=True,
        )
        clean = {"LD_PRELOAD": ""}
        printed.append(subprocess.run([binary], check=True, capture_output=True, text=True, env=clean).stdout)
    assert printed[0] == printed[1]
