"""Memory runs out, or a system call fails, at each call that operations make: the failure is an exception
with a text, the ring goes on, and nothing stays behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Faults, build_library

PROGRAM = """
import array, gc, json, os, socket, sys
sys.path.insert(0, sys.argv[1])
from faults import ALLOCATIONS, Faults
from udpring import HostError, RingError
from udpring.uring import Flag, Ring, graveyard

CALLS, ERROR = json.loads(sys.argv[2]), int(sys.argv[3])
FAILURES = (RingError, HostError, MemoryError, OSError)

def reap(ring, tickets):
    found = {}
    for _ in range(1000):
        for done in ring.reap(1, 1):
            if not done.more:
                found[done.ticket] = done
        if found.keys() >= set(tickets):
            break
    for ticket in tickets:
        assert found[ticket].result not in (-14, -9), found[ticket]
    return [found[ticket] for ticket in tickets]

def work(ring, one, two, file):
    one_fd = one.fileno()
    buffer, parts = bytearray(300), [bytearray(100), bytearray(200)]
    ring.provide_buffers(1, 4, 64)
    ring.provide_buffers(2, 4, 64, views=True)
    (fixed,) = ring.register_buffers([4096])
    two.send(b"b" * 200)
    got = b""
    while len(got) < 200:
        (done,) = reap(ring, [ring.recv_group(one, 1, bundle=True)])
        done.check()                                # -ENOMEM: the bundle could not be gathered
        got += done.data
    assert got == b"b" * 200
    two.send(b"v" * 64)
    (done,) = reap(ring, [ring.recv_group(one, 2)])
    assert done.view == b"v" * 64
    del done
    two.send(b"p" * 300)
    (done,) = reap(ring, [ring.recv_into(one, buffer)])
    assert buffer == b"p" * 300
    two.send(b"m" * 10)
    (done,) = reap(ring, [ring.recvmsg(one, 5000, control_length=256)])
    assert done.data == b"m" * 10
    os.pwrite(file, b"f" * 300, 0)
    tickets = [ring.readv(file, parts, offset=0), ring.read_fixed(file, 0, 100, offset=0)]
    tickets += [ring.read(file, size, offset=0) for size in (16, 100, 1000, 10000, 100000, 2**21)]
    tickets += [ring.write(file, b"w" * 5000, offset=4096), ring.statx(file=file), ring.statx("/"),
                ring.openat2("/nowhere"), ring.fgetxattr(file, "user.none"), ring.waitid(os.P_PID, 1)]
    reap(ring, tickets)
    assert parts[0] == b"f" * 100 and parts[1] == b"f" * 200 and fixed[:100] == b"f" * 100
    batch = ring.prepare("read", file, lengths=100, offsets=array.array("Q", [0, 100, 200]), buffer=buffer)
    for _ in range(2):
        batch.queue()
        reap(ring, list(batch.tickets))
        assert buffer == b"f" * 300
    reap(ring, list(ring.queue_many("nop", -1, count=40)))
    shots = ring.recv_multishot(one, 1, bundle=True)
    ring.submit()
    two.send(b"s" * 150)
    got = b""
    for _ in range(1000):
        for done in ring.reap(1, 1):
            got += done.data
            done.check()
        if len(got) == 150:
            break
    assert got == b"s" * 150
    end_all(ring)
    ring.resize(16)                             # a ring that is lost leaves no operations

def end_all(ring):
    ring.cancel_all()
    for _ in range(1000):
        ring.reap(1, 0.1)
        if not ring.info.in_flight and not ring.info.queued:
            break

def usable(ring):
    end_all(ring)
    (done,) = reap(ring, [ring.nop()])
    assert done.result == 0
    assert not ring._pins or len(ring._pins) == 1, ring._pins     # the group with views

def life():
    with socket.create_server(("127.0.0.1", 0)) as server:
        two = socket.create_connection(server.getsockname())
        one, _ = server.accept()
    file = os.memfd_create("file")
    rings = []
    try:
        rings += Ring.create_many(2, 8, slots=64)
        for ring in rings:
            try:
                work(ring, one, two, file)
            except FAILURES as error:
                assert str(error), repr(error)
                faults.clear()
                if getattr(error, "errno", 0) != 131:   # ENOTRECOVERABLE: the ring is lost, and says so
                    usable(ring)
                raise
    finally:
        for ring in rings:
            ring.close()
            assert ring.leaked == 0
        one.close()
        two.close()
        os.close(file)

def left():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), open("/proc/self/maps").read().count("io_uring"), graveyard()

faults = Faults.inherited()
life()
before, failures, complete, wrong = left(), 0, 0, []
for turn in range(1000):
    faults.set(CALLS, ERROR, skip=turn)
    try:
        life()
        complete += 1
    except FAILURES:
        failures += 1
    except BaseException as error:
        import traceback
        wrong.append((turn, repr(error), traceback.format_exc()[-600:]))
    failed = faults.failed(*CALLS)
    faults.clear()
    if left() != before:
        wrong.append((turn, "left", left(), before))
    if not failed or len(wrong) > 3:
        break
print(json.dumps({"turns": turn, "failures": failures, "complete": complete, "wrong": wrong}))
"""

ALLOCATIONS = ["mmap", "malloc", "calloc", "realloc", "aligned_alloc", "io_uring_register", "io_uring_setup"]
KINDS = {
    "memory": (ALLOCATIONS, errno.ENOMEM),
    "enter-again": (["io_uring_enter"], errno.EAGAIN),
    "enter-busy": (["io_uring_enter"], errno.EBUSY),
    "enter-interrupted": (["io_uring_enter"], errno.EINTR),
}


@pytest.mark.parametrize("kind", KINDS)
def test_operations_survive_a_failure_at_every_call(kind: str, tmp_path: Path) -> None:
    faults = Faults.make(tmp_path)
    calls, error = KINDS[kind]
    child = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            PROGRAM,
            str(Path(__file__).resolve().parents[1]),
            json.dumps(calls),
            str(error),
        ],
        env=os.environ | faults.environment(build_library(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["wrong"] == [], json.dumps(found["wrong"], indent=1)
    assert found["turns"] < 999, "the last turn has no failure"
    assert found["turns"] > 20
