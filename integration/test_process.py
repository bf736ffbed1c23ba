"""The program as a process: how it starts and ends, what it leaves behind, what may change at run time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Rig, Space, until
from lab.traffic import ping, tcp

udpring_only = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go does it otherwise")


def _alone(rig: Rig) -> Node:
    return rig.node(rig.topology()["a"], SUBJECT, inner=["10.100.0.1/24"])


def _daemon(node: Node) -> int:
    """Starts it in the background as wg-quick does. Returns its pid. The node is complete when the command
    returns."""
    before = set(node.space.leaders())
    # With the pipes of capture_output, this call would not return while the daemon held them open.
    node.space.run(*SUBJECT.argv, node.interface, timeout=60)
    assert node.answers(), "the command returned before the UAPI socket answered"
    assert node.exists(), "the command returned before the interface was there"
    fresh = set(node.space.leaders()) - before
    assert len(fresh) == 1, f"processes left: {fresh}"
    return fresh.pop()


def _gone(node: Node, pid: int) -> None:
    until(lambda: not Path(f"/proc/{pid}").exists(), "the process ends")
    until(lambda: not node.exists(), "the interface is gone")
    until(lambda: not node.uapi.exists(), "the socket file is gone")


def test_background(rig: Rig) -> None:
    node = _alone(rig)
    pid = _daemon(node)
    process = Path(f"/proc/{pid}")
    assert os.getsid(pid) != os.getsid(0), "it must leave the caller's session"
    assert (process / "cwd").resolve() == Path("/")
    for stream in ("0", "1", "2"):
        assert str((process / "fd" / stream).readlink()) == "/dev/null"
    assert (process / "ns" / "net").stat().st_ino == node.space.path.stat().st_ino
    assert oct(node.uapi.stat().st_mode & 0o777) == "0o700"
    os.kill(pid, signal.SIGTERM)
    _gone(node, pid)


# A hangup of its terminal kills wireguard-go, which leaves its socket file behind.
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGHUP, marks=udpring_only)]
)
def test_signals_end_it(rig: Rig, number: signal.Signals) -> None:
    node = _alone(rig)
    node.start()
    assert node.process
    node.process.send_signal(number)
    assert node.process.wait(30) == 0
    _gone(node, node.process.pid)


@pytest.mark.parametrize("how", ["interface deleted", "socket file removed"])
def test_ends_when_its_interface_or_socket_goes(rig: Rig, how: str) -> None:
    """The same name can be used again at once, several times."""
    node = _alone(rig)
    for _ in range(3):
        pid = _daemon(node)
        if how == "interface deleted":
            node.space.ip("link", "del", node.interface)
        else:
            node.uapi.unlink()
        _gone(node, pid)


def test_the_same_name_again_after_a_kill(rig: Rig) -> None:
    """The socket file of a killed process does not prevent a start."""
    node = _alone(rig)
    pid = _daemon(node)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")
    until(lambda: not node.exists(), "the interface is gone")
    if not node.uapi.exists():  # `wg show` of another test may have removed it: it unlinks what nobody serves
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(node.uapi))
    pid = _daemon(node)
    os.kill(pid, signal.SIGTERM)
    _gone(node, pid)


@udpring_only
def test_a_name_in_use(rig: Rig) -> None:
    """A second one with the same name: exit 3 and one line. The first continues."""
    node = _alone(rig)
    node.start()
    for flags in ([], ["-f"]):
        done = node.space.run(*SUBJECT.argv, *flags, node.interface, check=False)
        assert done.returncode == 3, done
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert node.interface in done.stderr
    assert node.answers()
    node.wg("show", node.interface)
    # The name of a link of another kind.
    done = node.space.run(*SUBJECT.argv, "under", check=False)
    assert done.returncode == 3, done
    assert "under" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@udpring_only
def test_without_the_right(rig: Rig) -> None:
    """Not root: exit 3, one line, nothing left."""
    node = _alone(rig)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    done = node.space.run(*nobody, *SUBJECT.argv, node.interface, check=False)
    assert done.returncode == 3, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not node.exists()
    assert not node.uapi.exists()


@udpring_only
@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "..", "a b", "a\udcff"])
def test_bad_names(rig: Rig, name: str) -> None:
    space = rig.topology()["a"]
    done = space.run(*SUBJECT.argv, name, check=False)
    assert done.returncode in (2, 3), done
    assert done.stderr


def test_started_without_standard_streams(rig: Rig) -> None:
    """Some supervisors and init scripts start it with descriptors 0 to 2 closed."""
    node = _alone(rig)
    for closed in (">&-", "<&- >&- 2>&-"):
        node.space.run("sh", "-c", f'exec "$@" {closed}', "sh", *SUBJECT.argv, node.interface, timeout=20)
        assert node.answers()
        node.uapi.unlink()
        until(lambda: not node.exists() and not node.space.pids(), "it ends")


def test_start_and_stop_leave_nothing(rig: Rig) -> None:
    """Ten lives with one name, each with the set-up of a session."""
    node = _alone(rig)
    for _ in range(10):
        node.start()
        node.stop()
        assert node.process
        assert node.process.returncode == 0
        assert not node.exists()
        assert not node.uapi.exists()
    assert not node.space.pids()


# ---- while it runs ----

# 65507 bytes of UDP payload less header and tag, in whole blocks of 16: padding fills the last one.
LARGEST_INNER = (65507 - 32) // 16 * 16


def _elsewhere(rig: Rig, node: Node) -> Space:
    """Moves the interface, with its addresses, to a namespace without the underlay."""
    other = rig.topology()["a"]
    other.ip("link", "del", "under")
    node.space.ip("link", "set", node.interface, "netns", other.name)
    node.space = other
    node.bring_up()
    return other


@pytest.mark.parametrize("mover", ["a", "b"])
def test_interface_in_another_namespace(rig: Rig, mover: str) -> None:
    """The sockets stay in the program's namespace, also with a new port. Its end is still noticed."""
    tunnel = rig.tunnel((SUBJECT, GO) if mover == "a" else (GO, SUBJECT))
    tunnel.ping()
    node, other = (tunnel.a, tunnel.b) if mover == "a" else (tunnel.b, tunnel.a)
    home = node.space
    _elsewhere(rig, node)
    tunnel.ping()
    tunnel.ping(back=True)
    tunnel.tcp_both_ways(1 << 20)
    node.wg("set", node.interface, "listen-port", "40001")
    ping(node.space, other.inner4)
    until(lambda: other.status(node).endpoint.endswith(":40001"), "the new port is used")
    assert "40001" in home.run("ss", "-Hlnu").stdout
    assert "40001" not in node.space.run("ss", "-Hlnu").stdout
    # Link and MTU change where its netlink socket gets no message.
    node.space.ip("link", "set", node.interface, "down")
    node.space.ip("link", "set", node.interface, "mtu", "9000", "up")
    ping(other.space, node.inner4)
    node.space.ip("link", "del", node.interface)
    assert node.process
    assert node.process.wait(30) == 0
    until(lambda: not node.uapi.exists(), "the socket file is gone")


@pytest.mark.parametrize("programs", [(SUBJECT, GO), (GO, SUBJECT), (SUBJECT, SUBJECT)], ids=str)
def test_largest_mtu(rig: Rig, programs: tuple) -> None:  # type: ignore[type-arg]
    """MTU 65535: inner packets up to the size of one outer datagram."""
    tunnel = rig.tunnel(programs, mtu=65535)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    for size in (1473, 9000, 32768, 65000, LARGEST_INNER - 28):
        ping(a.space, b.inner4, size=size)
        ping(b.space, a.inner4, size=size)
    # A larger one cannot be carried: it is dropped, and the next one gets through.
    a.space.run("ping", "-n", "-c", "1", "-W", "1", "-s", str(65535 - 28), b.inner4, check=False)
    ping(a.space, b.inner4)
    # At the largest MTU whose packets can be carried, TCP fills them.
    for end in (a, b):
        end.space.ip("link", "set", end.interface, "mtu", str(LARGEST_INNER))
    tcp(a.space, b.space, b.inner4, 4 << 20)
    tcp(b.space, a.space, a.inner6, 4 << 20)


def test_mtu_changed_while_it_runs(rig: Rig) -> None:
    tunnel = rig.tunnel((SUBJECT, GO))
    tunnel.ping()
    for mtu in (1280, 9000, 65535, 1420):
        for end in (tunnel.a, tunnel.b):
            end.space.ip("link", "set", end.interface, "mtu", str(mtu))
        for size in (mtu - 28, 56):
            ping(tunnel.a.space, tunnel.b.inner4, size=min(size, LARGEST_INNER - 28))


def test_link_down_and_up(rig: Rig) -> None:
    tunnel = rig.tunnel((SUBJECT, GO))
    tunnel.ping()
    node = tunnel.a
    for _ in range(3):
        node.space.ip("link", "set", node.interface, "down")
        assert node.answers()
        node.space.ip("link", "set", node.interface, "up")
        ping(tunnel.b.space, node.inner4)
        ping(node.space, tunnel.b.inner4)


@pytest.mark.parametrize("family", [4, 6])
def test_fwmark(rig: Rig, family: int) -> None:
    """Every outgoing packet carries it, also after the sockets were made again. 0 removes it."""
    tunnel = rig.tunnel((SUBJECT, GO), family=family)
    node, other = tunnel.a, tunnel.b
    node.space.nft(
        "table inet watch { counter marked {}; counter plain {}; "
        "chain leaves { type filter hook output priority filter; policy accept; }; }\n"
        "add rule inet watch leaves oifname under meta l4proto udp meta mark 0x1234 counter name marked\n"
        "add rule inet watch leaves oifname under meta l4proto udp meta mark 0 counter name plain"
    )

    def seen() -> tuple[int, int]:
        return node.space.nft_counter("watch", "marked"), node.space.nft_counter("watch", "plain")

    node.wg("set", node.interface, "fwmark", "0x1234")
    assert node.wg("show", node.interface, "fwmark").strip() == "0x1234"
    tunnel.ping()
    marked, plain = seen()
    assert marked >= 3  # initiation and two pings
    assert plain == 0
    node.wg("set", node.interface, "listen-port", "40002")
    tunnel.ping()
    assert seen()[0] > marked
    assert seen()[1] == 0
    node.wg("set", node.interface, "fwmark", "0")
    assert node.wg("show", node.interface, "fwmark").strip() == "off"
    marked, _ = seen()
    ping(node.space, other.inner4)
    assert seen()[0] == marked
    assert seen()[1] > 0


def test_listen_port_taken(rig: Rig) -> None:
    """`wg set` fails with 'Address already in use'. The old port stays in use."""
    tunnel = rig.tunnel((SUBJECT, GO))
    tunnel.ping()
    node = tunnel.a
    with node.space.socket("0.0.0.0", socket.SOCK_DGRAM, 40003) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        done = node.space.run("wg", "set", node.interface, "listen-port", "40003", check=False)
        assert done.returncode != 0
        if SUBJECT.name != GO.name:
            assert "in use" in done.stderr
            assert node.wg("show", node.interface, "listen-port").strip() == str(node.port)
            tunnel.ping()
    node.wg("set", node.interface, "listen-port", "40003")
    tunnel.ping()


def test_listen_port_zero_is_chosen(rig: Rig) -> None:
    tunnel = rig.tunnel((SUBJECT, GO))
    tunnel.ping()
    node = tunnel.a
    node.wg("set", node.interface, "listen-port", "0")
    port = int(node.wg("show", node.interface, "listen-port"))
    assert port not in (0, node.port)
    assert str(port) in node.space.run("ss", "-Hlnu").stdout
    tunnel.ping()
    assert tunnel.b.status(node).endpoint.endswith(f":{port}")


@udpring_only
def test_version() -> None:
    done = subprocess.run(
        [*SUBJECT.argv, "--version"], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.startswith("udpring-wg ")
