"""Memory of the processes of one session."""

from __future__ import annotations

import subprocess
import sys

from udpring_tools.bench.usage import resident_mib

TWO_PROCESSES = """
import os, sys
kept = b"x" * (64 << 20)
reading, writing = os.pipe()
if os.fork() == 0:
    os.close(writing)
    print("ready", flush=True)
    os.read(reading, 1)
    os._exit(0)
sys.stdin.read()
os._exit(0)
"""


def test_shared_pages_count_once() -> None:
    """As those of a node and its broker, which is its fork."""
    words = [sys.executable, "-I", "-S", "-c", TWO_PROCESSES]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"ready\n"
        assert 64 < resident_mib(process.pid) < 2 * 64
        process.stdin.close()
