"""Python programs in a network namespace of their own, which ends with the program."""

from __future__ import annotations

import subprocess
import sys

import pytest

__all__ = ["run_isolated"]

SKIP = 77

#: Runs before each program. A program exits with SKIP if the host lacks what it needs.
HELPERS = f"""
import atexit, os, socket, subprocess, sys

SKIP = {SKIP}

def command(text):
    subprocess.run(text.split(), check=True)

def use_one_cpu():
    # Loopback queues packets per CPU, so with two it reorders them itself.
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})

def limit_loopback(rate, limit=100_000_000, burst=3000):
    # A token bucket (tc-tbf(8)). It is removed at the end: otherwise its packets would leave for a minute and
    # cause ICMP errors on a socket that all namespaces share, which would block their pings.
    command(f"tc qdisc replace dev lo root tbf rate {{rate}} burst {{burst}} limit {{limit}}")
    atexit.register(command, "tc qdisc del dev lo root")

def udp(family=socket.AF_INET, host=""):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    sock.settimeout(20)
    return sock

command("ip link set lo up")
"""


def run_isolated(program: str, *arguments: str, skip: str = "the host cannot do it") -> str:
    """Runs the program with these arguments. Returns its standard output. ``skip``: the reason for SKIP."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-P", "-c", HELPERS + program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode == SKIP:
        pytest.skip(skip)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
