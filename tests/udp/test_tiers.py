"""The choice of a tier, and the reason given if it is not the best."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys

import pytest
from seccomp import Rule, run_python

from udpring.errors import RingError
from udpring.udp import TIERS, RecvRing, SendRing

from .conftest import Pair, take

SO_TIMESTAMPNS = 35
# Opens both rings, carries datagrams and prints the tiers.
PROGRAM = """
import socket
from udpring.udp import RecvRing, SendRing
a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
a.bind(("127.0.0.1", 0))
with a, b, RecvRing(a, tier={tier!r}) as rx, SendRing(b, tier={tier!r}) as tx:
    assert tx.send_batch([b"1", b"", b"3"], a.getsockname()).accepted == 3
    got = []
    while len(got) < 3:
        got += rx.recv_batch(timeout=10).payloads()
    assert got == [b"1", b"", b"3"]
    print(rx.tier, "|", rx.tier_reason)
    print(tx.tier, "|", tx.tier_reason)
"""


def test_the_best_tier_is_taken_and_needs_no_excuse(pair4: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UDPRING_TIER", raising=False)
    with RecvRing(pair4.sink) as receiver, SendRing(pair4.source) as sender:
        for ring in (receiver, sender):
            assert ring.tier in TIERS
            reasons = ring.tier_reason.split("; ") if ring.tier_reason else []
            assert [reason.split(":")[0] for reason in reasons] == list(TIERS[: TIERS.index(ring.tier)])


def test_a_forced_tier_is_the_one_that_runs(tier: str, pair4: Pair) -> None:
    with RecvRing(pair4.sink, tier=tier) as receiver, SendRing(pair4.source, tier=tier) as sender:
        assert (receiver.tier, sender.tier) == (tier, tier)
        assert receiver.tier_reason == sender.tier_reason == ""


def test_the_environment_forces_and_an_argument_beats_it(
    tier: str, pair4: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UDPRING_TIER", tier)
    with RecvRing(pair4.sink) as receiver, SendRing(pair4.source) as sender:
        assert (receiver.tier, sender.tier) == (tier, tier)
    other = TIERS[(TIERS.index(tier) + 1) % 3]
    with RecvRing(pair4.sink, tier=other) as receiver:
        assert receiver.tier == other


def test_a_name_that_is_no_tier_is_refused(pair4: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (lambda t=None: RecvRing(pair4.sink, tier=t), lambda t=None: SendRing(pair4.source, tier=t)):
        with pytest.raises(ValueError, match=r"'epoll'.*uring-multishot, uring-pool, mmsg"):
            make("epoll")
        monkeypatch.setenv("UDPRING_TIER", "warp")
        with pytest.raises(RingError, match="UDPRING_TIER=warp"):
            make()
        monkeypatch.delenv("UDPRING_TIER")


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["io_uring_setup", "io_uring_enter", "io_uring_register"])
def test_denied_io_uring_falls_back_to_mmsg(call: str, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring reports the reason."""
    monkeypatch.delenv("UDPRING_TIER", raising=False)
    done = run_python(PROGRAM.format(tier=None), [Rule(call, error)])
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        tier, _, reason = line.partition(" | ")
        if call == "io_uring_register" and tier == "uring-pool":
            assert re.match(r"uring-multishot: .+", reason)
            continue
        assert tier == "mmsg"
        assert re.match(r"uring-multishot: .+; uring-pool: .+", reason)
        assert "io_uring" in reason or "kernel" in reason


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
def test_unavailable_forced_tier_names_the_cause(tier: str, error: int) -> None:
    done = run_python(PROGRAM.format(tier=tier), [Rule("io_uring_setup", error)])
    if tier == "mmsg":
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"udpring\.errors\.(RingError|HostError): opening a receive ring: .*io_uring", last), last


def test_the_environment_forcing_in_vain_fails_too() -> None:
    program = "import os; os.environ['UDPRING_TIER'] = 'uring-pool'\n" + PROGRAM.format(tier=None)
    done = run_python(program, [Rule("io_uring_setup", errno.EPERM)])
    assert done.returncode == 1
    assert "opening a receive ring" in done.stderr


def test_tier_lost_later_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that worked in the probe may be denied later. Opening the ring decides."""
    monkeypatch.delenv("UDPRING_TIER", raising=False)
    code = """
import errno
from seccomp import Rule, install
exec(PROGRAM)
install([Rule("io_uring_setup", errno.EPERM)])
exec(PROGRAM)
"""
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")])  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"PROGRAM = {PROGRAM.format(tier=None)!r}\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].startswith("mmsg | uring-multishot: ")


def test_both_ends_may_run_on_different_tiers(tier: str, pair: Pair) -> None:
    for other in TIERS:
        with RecvRing(pair.sink, tier=tier) as receiver, SendRing(pair.source, tier=other) as sender:
            sender.send_batch([b"a", b"", b"c"], pair.to)
            assert [bytes(packet) for packet in take(receiver, 3)] == [b"a", b"", b"c"]


def test_failed_open_closes_no_foreign_descriptor(tier: str) -> None:
    """The first refusal may be any call."""
    program = f"""
import os, socket, udpring
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    files = {{fd: os.readlink(f"/proc/self/fd/{{fd}}") for fd in range(sock.fileno() + 1)}}
    try:
        udpring.RecvRing(sock, tier={tier!r}, timestamps=True)
    except udpring.RingError as refused:
        print(refused)
    assert files == {{fd: os.readlink(f"/proc/self/fd/{{fd}}") for fd in files}}
"""
    refused = Rule("setsockopt", errno.ENOMEM, ((1, "==", socket.SOL_SOCKET), (2, "==", SO_TIMESTAMPNS)))
    done = run_python(program, [refused])
    assert done.returncode == 0, done.stderr
    assert "SO_TIMESTAMPNS" in done.stdout
