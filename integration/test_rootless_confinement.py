"""``udpring run`` and ``udpring proxy`` of the user nobody: what code inside them can still do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import Rig, until
from lab.intrusion import Attempt, connected
from lab.processes import children, status, thread_statuses
from lab.rootless import DEVICES, NAME, Place, rootless_place, web_server

from udpring.tunnel.capabilities import NET_ADMIN, NET_BIND_SERVICE, SETFCAP
from udpring.tunnel.system_calls import this_architecture

NUMBERS = found.numbers if (found := this_architecture()) else {}
pytestmark = pytest.mark.skipif(not NUMBERS, reason=f"no filter for {os.uname().machine}")
ATTEMPTS = (
    "open('/etc/passwd').read()",
    f"call({NUMBERS.get('openat2')}, -100, b'/etc/passwd', bytes(24), 24)",
    f"call({NUMBERS.get('execve')}, b'/bin/true', 0, 0)",
    "os.fork()",
    "os.posix_spawn('/bin/true', ['true'], {})",
    f"call({NUMBERS.get('ptrace')}, 0, 0, 0, 0)",
    f"call({NUMBERS.get('process_vm_readv')}, os.getppid(), 0, 0, 0, 0, 0)",
    "os.kill(os.getppid(), 0)",
    "os.pidfd_open(os.getppid())",
    f"call({NUMBERS.get('unshare')}, 0x10000000)",
    f"call({NUMBERS.get('setns')}, 0, 0)",
    f"call({NUMBERS.get('io_uring_setup')}, 8, bytes(120))",
    f"call({NUMBERS.get('mmap')}, 0, 4096, 7, 0x22, -1, 0)",
    f"call({NUMBERS.get('prctl')}, 4, 1, 0, 0, 0)",
    "socket.socketpair()[0].bind('/tmp/udpring-was-here')",
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('127.0.0.1', 0))",
)
FAMILIES = (socket.AF_UNIX, socket.AF_PACKET, socket.AF_VSOCK, 38)


@pytest.fixture(params=sorted(DEVICES))
def place(rig: Rig, readable: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Place]:
    """With the interface of ``tunnel.b`` up and a name server there."""
    with rootless_place(rig, readable, request.param) as made:
        made.tunnel.a.space.ip("link", "set", "lo", "up")
        yield made


@contextmanager
def _intruded(
    place: Place, *arguments: str, **pipes: int
) -> Iterator[tuple[subprocess.Popen[bytes], Attempt]]:
    """The command with an intruder, and the way to it. Its output is in ``place.said()``."""
    source = Path(__file__).parent / "lab" / "intruder.py"
    script, way = place.directory / source.name, Path("/tmp") / place.directory.name
    shutil.copy(source, script)
    script.chmod(0o644)
    place.env["UDPRING_INTRUDER"] = str(way)
    with (place.directory / "out").open("ab") as out:
        process = subprocess.Popen(
            place.argv(sys.executable, "-P", str(script), *arguments),
            stdin=pipes.get("stdin"), stdout=out, stderr=out, env=place.env, cwd="/",
        )  # fmt: skip
    try:
        until(
            lambda: (
                ("ready" in place.said() or "connections at once" in place.said())
                or process.poll() is not None
            ),
            "the command is up",
        )
        assert process.poll() is None, place.said()
        until(lambda: status(process.pid).get("Seccomp") == "2", "it is confined")
        with connected(way) as attempt:
            yield process, attempt
    finally:
        process.kill()
        process.wait(30)
        way.unlink(missing_ok=True)


def _check(process: subprocess.Popen[bytes], attempt: Attempt) -> None:
    for code in ATTEMPTS:
        result = attempt(code)
        assert result == -errno.EPERM, (code, result)
    for family in FAMILIES:
        made = f"call({NUMBERS['socket']}, {int(family)}, {int(socket.SOCK_DGRAM)}, 0)"
        assert attempt(made) == -errno.EAFNOSUPPORT, family
    for each in thread_statuses(process.pid):
        assert (each["Seccomp"], each["NoNewPrivs"], int(each["CapPrm"], 16)) == ("2", "1", 0), each


def test_intruder_gets_nothing_from_run(place: Place) -> None:
    """The program of ``run`` still uses the tunnel, gets signals and inherits no filter."""
    with web_server(place) as (port, content):
        got = place.directory / "got"
        got.touch(mode=0o666)
        got.chmod(0o666)
        script = (
            "trap 'echo caught' USR1; echo ready; read line; grep Seccomp: /proc/$$/status;"
            f" grep NoNewPrivs: /proc/$$/status; curl -sS --max-time 60 -o {got} http://{NAME}:{port}/content;"
            " echo got; while :; do sleep 0.1; done"
        )
        words = ("run", str(place.file), "--", "sh", "-c", script)
        with _intruded(place, *words, stdin=subprocess.PIPE) as (process, attempt):
            _check(process, attempt)
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
            until(lambda: "got" in place.said(), "the program has its file")
            assert got.read_bytes() == content
            assert "Seccomp:\t0\nNoNewPrivs:\t0\n" in place.said()
            process.send_signal(10)
            until(lambda: "caught" in place.said(), "the signal is passed on")
            process.terminate()
            assert process.wait(60) == 128 + 15, place.said()


def test_intruder_gets_nothing_from_proxy(place: Place) -> None:
    """SOCKS still works, by name, and the end is clean."""
    with web_server(place) as (port, content):
        words = ("proxy", str(place.file), "--socks", "0")
        with _intruded(place, *words) as (process, attempt):
            _check(process, attempt)
            (socks,) = re.findall(r" at 127\.0\.0\.1 port (\d+)", place.said())
            place.tunnel.a.space.run(
                "curl", "-sS", "--max-time", "60", "--socks5-hostname", f"127.0.0.1:{socks}",
                "-o", str(place.directory / "got"), f"http://{NAME}:{port}/content", timeout=90,
            )  # fmt: skip
            assert (place.directory / "got").read_bytes() == content
            process.terminate()
            assert process.wait(60) == 0, place.said()


def test_hung_namespace_process_is_ended(place: Place) -> None:
    """It does not see that its socket closes, and the node may not signal it by its number."""
    with _intruded(place, "proxy", str(place.file), "--socks", "0") as (process, _):
        (holder,) = _children_with_another(process.pid, "user")
        os.kill(holder, signal.SIGSTOP)
        process.terminate()
        assert process.wait(60) == 0, place.said()
        until(lambda: not Path(f"/proc/{holder}").exists(), "it has ended")


def _children_with_another(parent: int, namespace: str) -> list[int]:
    """Child processes that are in another namespace of this kind."""

    def own(process: int) -> Path:
        return Path(f"/proc/{process}/ns/{namespace}").readlink()

    return [child for child in children(parent) if own(child) != own(parent)]


def test_program_of_root_has_no_privilege_inside(rig: Rig, readable: dict[str, str]) -> None:
    """The file may belong to another user."""
    with rootless_place(rig, readable, "packet") as place:
        tunnel = place.tunnel
        script = (
            f"ping -c 1 -W 60 {tunnel.b.inner4} && grep Cap /proc/self/status; grep Cap /proc/$PPID/status"
        )
        words = ("run", str(place.file), "--", "sh", "-c", script)
        done = subprocess.run(
            tunnel.a.space.argv(sys.executable, "-P", "-m", "udpring.cli.main", *words),
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = re.findall(r"^Cap(?:Prm|Eff|Amb):\t(\w+)$", done.stdout, re.MULTILINE)
        inside, command = found[:3], found[3:]
        assert {int(each, 16) for each in inside} == {0}
        rights = 1 << NET_ADMIN | 1 << NET_BIND_SERVICE | 1 << SETFCAP
        assert [int(each, 16) | rights for each in command] == [rights] * 3
