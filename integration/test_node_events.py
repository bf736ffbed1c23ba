"""A program that embeds a node hears of its peers and its interface: real nodes, in asyncio and uvloop."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading

import pytest
from lab import GO, Node, Rig, Space, Tunnel, until
from lab.event_program import EventProgram
from lab.node import Peer
from lab.traffic import TcpStream, ping, unreached

UDPRING = (sys.executable, "-P", "-m", "udpring.cli.main")
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def configuration(node: Node, *, peers: bool = True) -> str:
    text = node.configuration() if peers else node.configuration().partition("[Peer]")[0]
    return text.replace("[Interface]\n", f"[Interface]\nAddress = {', '.join(node.inner)}\n", 1)


def event_program(rig: Rig, node: Node, loop: str = "asyncio", *, peers: bool = True) -> EventProgram:
    made = EventProgram(node.space, node.interface, configuration(node, peers=peers), loop)
    rig.later(made.close)
    return made


def command(space: Space, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        space.argv(*UDPRING, *words), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def tunnel(rig: Rig) -> Tunnel:
    """Node a is not started: the test embeds it. b knows a, and where it is."""
    made = rig.tunnel(start=False, both_know=True)
    made.b.start()
    return made


@LOOPS
def test_peer_comes_up_roams_and_the_interface_ends(rig: Rig, tunnel: Tunnel, loop: str) -> None:
    a, b = tunnel.a, tunnel.b
    program = event_program(rig, a, loop)
    ping(a.space, b.inner4)
    assert program.expect("HandshakeCompleted", public_key=b.public_key)["initiator"] is True
    assert program.expect("PeerUp")["endpoint"] == [b.space.ipv4, b.port]
    for port in (40000, 40001):
        former, b.port = b.port, port
        b.wg("set", b.interface, "listen-port", str(port))
        ping(b.space, a.inner4)
        roamed = program.expect("PeerRoamed", endpoint=[b.space.ipv4, port])
        assert roamed["public_key"] == b.public_key
        assert roamed["former"] == [b.space.ipv4, former]
    a.space.ip("link", "set", a.interface, "down")
    program.expect("PeerSilent", public_key=b.public_key, reason="interface down")
    a.space.ip("link", "set", a.interface, "up")
    ping(a.space, b.inner4)
    program.expect("PeerUp", public_key=b.public_key)
    first, lost = program.do("slow")
    assert first == ["HandshakeCompleted"], "the reader that does not read keeps what came first"
    assert lost >= 5
    a.space.ip("link", "del", a.interface)
    assert program.expect("InterfaceGone")["failed"] is False
    program.expect("ended")


def test_unanswered_peer_is_silent(rig: Rig, tunnel: Tunnel) -> None:
    a, b = tunnel.a, tunnel.b
    program = event_program(rig, a, "uvloop")
    ping(a.space, b.inner4)
    program.expect("PeerUp")
    b.space.ip("link", "set", "under", "down")
    unreached(a.space, b.inner4)
    program.expect("PeerSilent", public_key=b.public_key, reason="unanswered")


@LOOPS
def test_peer_added_while_running_gets_traffic_and_routes(rig: Rig, tunnel: Tunnel, loop: str) -> None:
    a, b = tunnel.a, tunnel.b
    program = event_program(rig, a, loop, peers=False)
    b.space.run("ping", "-n", "-c", "1", "-W", "1", a.inner4, check=False)
    program.expect("PeerRefused", public_key=b.public_key, reason="unknown_peer")
    program.do("add", b.public_key, [f"{b.inner4}/32", "10.250.0.0/24"], b.outer())
    assert "10.250.0.0/24" in a.space.ip("route")
    ping(a.space, b.inner4)
    program.expect("PeerUp", public_key=b.public_key)
    stream = TcpStream(a.space, b.space, b.inner4, rate=400_000)
    until(lambda: stream.received_bytes > 50_000, "the stream flows")
    stranger = rig.node(a.space, inner=["10.250.0.9/32"])
    for _ in range(3):
        program.do("add", stranger.public_key, ["10.250.0.0/24", "10.251.0.0/24"], "")
        assert "10.251.0.0/24" in a.space.ip("route")
        program.do("remove", stranger.public_key)
        assert "10.25" not in a.space.ip("route"), "a prefix that moved goes with its last owner"
    stream.finish()
    assert program.do("peers") == [b.public_key]
    program.do("remove", b.public_key)
    assert unreached(a.space, b.inner4)


def test_pause_keeps_sessions_and_refuses_new_ones(rig: Rig, tunnel: Tunnel) -> None:
    """``wg`` works as ever, and ``udpring show`` says that the interface is paused."""
    a, b = tunnel.a, tunnel.b
    other = rig.node(b.space, inner=["10.100.0.7/24"], port=51999)
    other.peers.append(Peer(a, [f"{a.inner4}/32"], endpoint=a.outer()))
    a.peers.append(Peer(other, ["10.100.0.7/32"]))
    other.spawn()
    other.configure()
    program = event_program(rig, a, "uvloop")
    ping(a.space, b.inner4)
    assert command(a.space, "pause", a.interface).returncode == 0
    assert program.do("paused") is True
    assert "paused: yes" in command(a.space, "show", a.interface).stdout
    assert "listening port" in a.wg("show", a.interface)
    a.wg("set", a.interface, "peer", b.public_key, "persistent-keepalive", "25")
    assert program.do("paused") is True
    other.space.ip("link", "set", other.interface, "up")
    other.wg("set", other.interface, "peer", a.public_key, "persistent-keepalive", "1")
    program.expect("PeerRefused", public_key=other.public_key, reason="paused")
    assert program.do("dropped")["paused"] >= 1
    ping(b.space, a.inner4)
    assert command(a.space, "resume", a.interface).returncode == 0
    program.expect("PeerUp", public_key=other.public_key)


def test_pause_is_refused_by_other_programs(rig: Rig) -> None:
    node = rig.node(rig.topology()["a"], GO, inner=["10.1.2.3/24"]).start()
    before = node.wg("showconf", node.interface)
    done = command(node.space, "pause", node.interface)
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert "cannot pause it" in done.stderr
    assert node.wg("showconf", node.interface) == before


def test_drain_waits_for_the_end_of_traffic(rig: Rig, tunnel: Tunnel) -> None:
    a, b = tunnel.a, tunnel.b
    program = event_program(rig, a)
    stream = TcpStream(a.space, b.space, b.inner4, rate=400_000)
    until(lambda: stream.received_bytes > 50_000, "the stream flows")
    assert program.do("drain", 6, 4) == [b.public_key]
    ended = threading.Event()
    threading.Timer(1, lambda: (stream.finish(), ended.set())).start()
    assert program.do("drain", 50, 3) == []
    assert ended.wait(30)


FLOOD = """
import hashlib, os, socket, sys, time
host, port, public = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
key = hashlib.blake2s(b"mac1----" + public).digest()
sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    message = b"\\1\\0\\0\\0" + os.urandom(112)
    message += hashlib.blake2s(message, key=key, digest_size=16).digest() + bytes(16)
    try:
        sending.sendto(message, (host, port))
    except OSError:
        pass
"""


@LOOPS
def test_overload_begins_and_ends(rig: Rig, tunnel: Tunnel, loop: str) -> None:
    a, b = tunnel.a, tunnel.b
    program = event_program(rig, a, loop)
    public = base64.b64decode(a.public_key).hex()
    words = (sys.executable, "-P", "-c", FLOOD, a.space.ipv4, str(a.port), public, "60")
    with subprocess.Popen(b.space.argv(*words)) as flood:
        try:
            program.expect("OverloadBegan")
        finally:
            flood.kill()
    assert program.expect("OverloadEnded")["seconds"] > 0
    ping(a.space, b.inner4)
