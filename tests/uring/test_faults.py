"""Memory runs out at each call of a ring's life: the failure is an exception, and nothing stays behind."""

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
import gc, json, os, select, sys
sys.path.insert(0, sys.argv[1])
from faults import ALLOCATIONS, Faults
from udpring import HostError, RingError
from udpring.uring import Ring, graveyard

OPTIONS = json.loads(sys.argv[3])
CALLS = [*ALLOCATIONS, "io_uring_setup", "io_uring_register", "eventfd"]

def life():
    ends = os.pipe()
    event = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        with Ring(8, slots=64, **OPTIONS) as ring:
            signal = ring.fileno()
            for _ in range(3):
                ring.poll_add(event)
                ring.submit()
                os.eventfd_write(event, 1)
                assert select.select([signal], [], [], 30)[0], "no wake-up"
                while not ring.completions():
                    ring.wait(1, 1)
                os.eventfd_read(event)
            group = ring.provide_buffers(1, 4, 64, views=True)
            ring.provide_buffers(2, 4, 64)
            ring.register_buffers([bytearray(4096), 4096])
            ring.update_buffers(0, [None])
            ring.register_files(4)
            ring.update_files(0, [ends[0]])
            ring.read(ends[0], 100)
            shots = ring.read_multishot(ends[0], 1)
            ring.submit()
            os.write(ends[1], b"some bytes")
            ring.reap(1, 30)
            ring.cancel(shots)
            ring.cancel_all()
            while ring.info.in_flight or ring.info.queued:
                ring.reap(1, 1)
            group.unregister()
            if not OPTIONS:
                ring.resize(16)
            ring.unregister_buffers()
            ring.unregister_files()
            ring.nop()
            ring.reap(1, 30)
    finally:
        for end in [*ends, event]:
            os.close(end)

def left():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), open("/proc/self/maps").read().count("io_uring"), graveyard()

faults = Faults.inherited()
life()
before, failures, complete, wrong = left(), 0, 0, []
for turn in range(500):
    faults.set(CALLS, int(sys.argv[2]), skip=turn)
    try:
        life()
        complete += 1
    except (RingError, HostError, MemoryError):
        failures += 1
    except Exception as error:
        wrong.append((turn, repr(error)))
    failed = faults.failed(*CALLS)
    faults.clear()
    if left() != before:
        wrong.append((turn, "left", left(), before))
    if not failed:
        break
print(json.dumps({"turns": turn, "failures": failures, "complete": complete, "wrong": wrong}))
"""


@pytest.mark.parametrize("options", [{}, {"sq_poll": 0.001}, {"big_sqe": True, "big_cqe": True}], ids=str)
def test_ring_survives_enomem_at_every_call(tmp_path: Path, options: dict[str, object]) -> None:
    faults = Faults.make(tmp_path)
    child = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            PROGRAM,
            str(Path(__file__).resolve().parents[1]),
            str(errno.ENOMEM),
            json.dumps(options),
        ],
        env=os.environ | faults.environment(build_library(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["wrong"] == []
    assert found["failures"] > 10
    assert found["turns"] < 499, "the last turn has no failure"
