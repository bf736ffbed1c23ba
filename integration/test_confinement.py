"""A node under its seccomp filter and with its last capabilities: what code inside it can still do, and that
the node itself works."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import SUBJECT, Program, Rig
from lab.intrusion import Attempt, connected
from lab.processes import thread_statuses
from lab.rig import Tunnel

from udpring.tunnel.capabilities import NET_ADMIN, NET_BIND_SERVICE
from udpring.tunnel.system_calls import this_architecture

NUMBERS = found.numbers if (found := this_architecture()) else {}
pytestmark = pytest.mark.skipif(not NUMBERS, reason=f"no filter for {os.uname().machine}")
RIGHTS = 1 << NET_ADMIN | 1 << NET_BIND_SERVICE
#: linux/socket.h up to AF_MCTP. A node has AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK.
FAMILIES = set(range(1, 46)) - {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}


def _intruded(directory: Path, **environment: str) -> Program:
    script = Path(__file__).parent / "lab" / "intruder.py"
    variables = {"UDPRING_INTRUDER": str(directory / "intruder"), **environment}
    return Program("udpring", (sys.executable, str(script)), tuple(variables.items()))


@pytest.fixture
def tunnel(rig: Rig, tmp_path: Path) -> Tunnel:
    return rig.tunnel((_intruded(tmp_path), SUBJECT))


@pytest.fixture
def attempt(tunnel: Tunnel, tmp_path: Path) -> Iterator[Attempt]:
    with connected(tmp_path / "intruder") as within:
        yield within


def _threads(tunnel: Tunnel) -> list[dict[str, str]]:
    assert tunnel.a.process
    return thread_statuses(tunnel.a.process.pid)


def test_intruder_gets_nothing_and_the_tunnel_works(tunnel: Tunnel, attempt: Attempt) -> None:
    """Files, programs, processes, sockets, rings, and the ways out of the filter."""
    tunnel.ping()
    assert attempt("'cryptography' in sys.modules") is False  # it takes 8 MiB
    for code in (
        "open('/etc/passwd').read()",
        "os.open('/etc/udpring-was-here', os.O_WRONLY | os.O_CREAT)",
        f"call({NUMBERS['openat']}, -100, b'/etc/passwd', 0)",
        f"call({NUMBERS['openat2']}, -100, b'/etc/passwd', bytes(24), 24)",
        f"call({NUMBERS['execve']}, b'/bin/true', 0, 0)",
        f"call({NUMBERS['execveat']}, -100, b'/bin/true', 0, 0, 0)",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        f"call({NUMBERS['ptrace']}, 0, 0, 0, 0)",
        f"call({NUMBERS['ptrace']}, 16, 1, 0, 0)",
        f"call({NUMBERS['process_vm_readv']}, 1, 0, 0, 0, 0, 0)",
        "os.kill(1, 0)",
        f"call({NUMBERS['fcntl']}, 0, 8, 1)",  # F_SETOWN
        "os.unlink('/etc/passwd.no')",
        "os.rename('/etc/passwd.no', '/etc/passwd.no2')",
        "os.memfd_create('code')",
        f"call({NUMBERS['io_uring_setup']}, 8, bytes(120))",
        f"call({NUMBERS['bpf']}, 0, bytes(128), 128)",
        f"call({NUMBERS['mount']}, 0, b'/mnt', b'tmpfs', 0, 0)",
        f"call({NUMBERS['unshare']}, 0x10000000)",
        f"call({NUMBERS['setns']}, 0, 0)",
        f"call({NUMBERS['prctl']}, 4, 1, 0, 0, 0)",
        f"call({NUMBERS['seccomp']}, 0, 0, 0)",
        f"call({NUMBERS['capset']}, bytes(8), bytes(24))",
        f"call({NUMBERS['mmap']}, 0, 4096, 7, 0x22, -1, 0)",
        "os.setuid(0)",
        "os.chroot('/')",
    ):
        result = attempt(code)
        assert result == -errno.EPERM, (code, result)
    tunnel.ping(back=True)


def test_intruder_has_only_sockets_of_a_node(tunnel: Tunnel, attempt: Attempt) -> None:
    made = f"call({NUMBERS['socket']}, {{}}, {{}}, {{}})"
    for family in FAMILIES:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            assert attempt(made.format(family, int(kind), 0)) == -errno.EAFNOSUPPORT, (family, kind)
    for family, kind, protocol in (
        (socket.AF_INET, socket.SOCK_STREAM, 0),
        (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        (socket.AF_NETLINK, socket.SOCK_RAW, 12),
    ):
        assert attempt(made.format(int(family), int(kind), protocol)) == -errno.EAFNOSUPPORT
    assert attempt(made.format(int(socket.AF_INET), int(socket.SOCK_DGRAM), 0)) > 0


def test_intruder_makes_no_socket_file(tunnel: Tunnel, attempt: Attempt, tmp_path: Path) -> None:
    """Nor by a socket that is allowed. Where Landlock is, which a filter cannot replace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(444, None, 0, 1) < 2:
        pytest.skip("this kernel has no Landlock with links between folders (5.19)")
    path = tmp_path / "made"
    for made in ("socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)", "socket.socketpair()[0]"):
        assert attempt(f"{made}.bind({str(path)!r})") == -errno.EACCES
    assert not path.exists()


def test_every_thread_has_the_filter_and_two_capabilities(tunnel: Tunnel, attempt: Attempt) -> None:
    attempt("threading.Thread(target=threading.Event().wait, daemon=True).start()")
    threads = _threads(tunnel)
    assert len(threads) >= 4, "the main thread, a worker, the watch of routes and ours"
    for status in threads:
        assert status["Seccomp"] == "2", status["Name"]
        assert status["NoNewPrivs"] == "1"
        assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {RIGHTS}
        assert int(status["CapAmb"], 16) == int(status["CapInh"], 16) == 0


def test_no_memory_gets_into_a_core_dump(tunnel: Tunnel) -> None:
    assert tunnel.a.process
    process = Path(f"/proc/{tunnel.a.process.pid}")
    assert re.search(r"^Max core file size\s+0\s+0\s", (process / "limits").read_text(), re.MULTILINE)
    assert int((process / "coredump_filter").read_text(), 16) == 0


def test_ports_change_without_new_rings(tunnel: Tunnel) -> None:
    """Each change opens sockets and takes the rings that were kept. A port below 1024 takes a capability."""
    tunnel.ping()
    for port in (700, 40001, 40002, 40003):
        tunnel.a.wg("set", tunnel.a.interface, "listen-port", str(port))
        assert tunnel.a.wg("show", tunnel.a.interface, "listen-port").strip() == str(port)
        tunnel.ping()
        tunnel.ping(back=True)


def test_variable_switches_the_confinement_off(rig: Rig, tmp_path: Path) -> None:
    tunnel = rig.tunnel((_intruded(tmp_path, UDPRING_CONFINEMENT="off"), SUBJECT))
    with connected(tmp_path / "intruder") as attempt:
        assert attempt("os.close(os.open('/etc/passwd', 0))") is None
    assert {status["Seccomp"] for status in _threads(tunnel)} == {"0"}
