"""udpring.Node with a real data plane: repeated starts, reloads under traffic, up, down and the demo."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import Node, Rig, Space, Tunnel, until
from lab.device_node import with_node
from lab.traffic import TcpStream, ping
from lab.unprivileged import as_nobody, environment, user_namespaces

UDPRING = (sys.executable, "-P", "-m", "udpring.cli.main")

LIVES = """
import asyncio, gc, json, os, sys
import udpring, uvloop
from udpring import keys

def kind(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}").split(":")[0]
    except FileNotFoundError:
        return "the listing itself"

def status(name):
    return next(line for line in open("/proc/self/status") if line.startswith(name))

def now():
    gc.collect()
    maps = [line.split()[-1] for line in open("/proc/self/maps")]
    return {
        "descriptors": sorted(map(kind, os.listdir("/proc/self/fd"))),
        "threads": len(os.listdir("/proc/self/task")),
        "rings": sum("io_uring" in line for line in maps),
        "maps": len(maps),
        "interfaces": sorted(os.listdir("/proc/sys/net/ipv4/conf")),
        "sockets": [name for name in os.listdir("/run/wireguard") if name == "life.sock"]
        if os.path.exists("/run/wireguard")
        else [],
        "locked": status("VmLck"),
        "tasks": len(asyncio.all_tasks()),
        "objects": len(gc.get_objects()),
        "resident": int(status("VmRSS").split()[1]),
    }

async def live(config, uapi, guest):
    node = udpring.Node(config, name="life", uapi=uapi)
    events = node.events()
    async with node:
        assert node.peers[0].endpoint == ("127.0.0.1", 9)
        await node.add_peer(guest)
        node.pause()
        await node.remove_peer(guest.public_key)
    assert [event async for event in events] == []

async def main():
    rounds, uapi = int(sys.argv[1]), sys.argv[2] == "uapi"
    guest = udpring.PeerConfig(keys.public_key(keys.generate_private_key()))
    key = keys.to_base64(keys.generate_private_key())
    other = keys.to_base64(keys.public_key(keys.generate_private_key()))
    config = udpring.Config.loads(
        f"[Interface]\\nPrivateKey = {key}\\nAddress = 10.66.0.1/24\\n"
        f"[Peer]\\nPublicKey = {other}\\nAllowedIPs = 10.66.0.0/24\\n"
        "Endpoint = 127.0.0.1:9\\nPersistentKeepalive = 1\\n"
    )
    for _ in range(5):
        await live(config, uapi, guest)
    before = now()
    for _ in range(rounds):
        await live(config, uapi, guest)
    # A thread that has said its last word may still be on its way out.
    for _ in range(2000):
        if now()["threads"] == before["threads"]:
            break
        await asyncio.sleep(0.01)
    print(json.dumps([before, now()]))

(uvloop if "uvloop" in sys.argv else asyncio).run(main())
"""

NODE = """
import asyncio, json, sys
import udpring

async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    node = udpring.Node(udpring.Config.loads(json.loads(await reader.readline())), name=sys.argv[1])
    async with node:
        while True:
            peers = [{"key": p.public_key, "handshake": p.last_handshake, "rx": p.rx_bytes,
                      "allowed": [str(each) for each in p.allowed_ips]} for p in node.peers]
            print(json.dumps({"port": node.listen_port, "tier": node.tier, "peers": peers}), flush=True)
            line = await reader.readline()
            if not line:
                break
            text = json.loads(line)
            if text:
                await node.reload(udpring.Config.loads(text))

asyncio.run(main())
"""


def check_lives(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert after["maps"] - before["maps"] < 50, (
        "mappings: a few of malloc's may come, one for each life may not"
    )
    assert after["objects"] - before["objects"] < 100
    assert after["resident"] - before["resident"] < 8192, "KiB"
    for each in ("maps", "objects", "resident"):
        del before[each], after[each]
    assert after == before
    assert "life" not in after["interfaces"]
    assert "life.sock" not in after["sockets"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_200_lives_of_a_node_leave_nothing(loop: str) -> None:
    command = f'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$0" -P -c "$1" 200 uapi {loop}'
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", command, sys.executable, LIVES],
        capture_output=True, text=True, timeout=110, env=environment(), check=False,
    )  # fmt: skip
    check_lives(done)


def test_a_node_lives_in_a_user_namespace(readable: dict[str, str]) -> None:
    user_namespaces(readable)
    command = 'ip link set lo up && exec "$0" -P -c "$1" 10 none'
    enter = with_node() + as_nobody(
        "unshare", "--user", "--map-root-user", "--net", "sh", "-c", command, sys.executable, LIVES
    )
    check_lives(
        subprocess.run(enter, capture_output=True, text=True, timeout=100, env=readable, cwd="/", check=False)
    )


HANDED_IN = """
import fcntl, os, socket, struct, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", sys.argv[1].encode(), IFF_TUN | IFF_NO_PI))
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[2])
listening.listen()
os.set_inheritable(tun, True)
os.set_inheritable(listening.fileno(), True)
os.environ.update(WG_TUN_FD=str(tun), WG_UAPI_FD=str(listening.fileno()))
os.execv(sys.executable, [sys.executable, "-P", "-m", "udpring.cli.wg", sys.argv[1]])
"""


def test_descriptors_may_be_handed_in(rig: Rig) -> None:
    """WG_TUN_FD and WG_UAPI_FD, as for wireguard-go. The node goes to the background with them."""
    node = rig.node(rig.topology()["a"], inner=["10.1.2.3/24"])
    node.uapi.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        node.space.argv(sys.executable, "-P", "-c", HANDED_IN, node.interface, str(node.uapi)),
        capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    node.configure()
    assert node.wg("show", node.interface, "listen-port").strip() == str(node.port)
    node.bring_up()
    node.space.ip("link", "del", node.interface)
    until(lambda: not node.uapi.exists(), "its socket file goes with the interface")
    until(lambda: not node.space.pids(), "the process ends")


LAUNCHER = """
import os, socket, subprocess, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[2])
listening.listen()
descriptor = listening.fileno()
environment = dict(os.environ, WG_UAPI_FD=str(descriptor))
words = [sys.executable, "-P", "-m", "udpring.cli.wg", "-f", sys.argv[1]]
node = subprocess.Popen(words, pass_fds=[descriptor], env=environment)
print(node.pid, flush=True)
print(node.wait(), flush=True)
sys.stdin.read()
"""


def test_down_ends_the_node_and_not_its_launcher(rig: Rig) -> None:
    """The launcher made the socket and passed it by WG_UAPI_FD."""
    node = rig.node(rig.topology()["a"], inner=["10.1.2.3/24"])
    node.uapi.parent.mkdir(exist_ok=True)
    with subprocess.Popen(
        node.space.argv(sys.executable, "-P", "-c", LAUNCHER, node.interface, str(node.uapi)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    ) as launcher:  # fmt: skip
        assert launcher.stdout
        assert int(launcher.stdout.readline())
        until(lambda: node.answers() and node.exists(), "the node serves its socket")
        down = [sys.executable, "-P", "-m", "udpring.cli.main", "down", node.interface]

        def ended() -> bool:
            """The socket accepts connections before the node has its interface."""
            done = subprocess.run(
                down, capture_output=True, text=True, timeout=60, env=environment(), check=False
            )
            return done.returncode == 0

        until(ended, "udpring down ends it")
        assert launcher.stdout.readline() == "0\n", "the node ended in order"
        assert launcher.poll() is None
        launcher.communicate("", timeout=30)
        assert launcher.returncode == 0
    until(lambda: not node.exists(), "the interface is gone")


# ---- reload ----


def configuration(node: Node, *more: str, port: int | None = None) -> str:
    head = f"[Interface]\nAddress = {', '.join(node.inner)}\n"
    text = node.configuration().replace("[Interface]\n", head, 1)
    if port is not None:
        text = text.replace(f"ListenPort = {node.port}", f"ListenPort = {port}")
    return "\n".join([text, *more])


class Embedded:
    """A process that embeds a Node and reads configurations from a pipe."""

    def __init__(self, space: Space, name: str) -> None:
        self.process = subprocess.Popen(
            space.argv(sys.executable, "-P", "-c", NODE, name),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def tell(self, text: str | None) -> dict[str, Any]:
        """Sends a new configuration, or None for a query. Returns the node's answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(text) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the node ended"
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            assert self.process.wait(30) == 0
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout
            self.process.stdout.close()


@pytest.fixture
def tunnel(rig: Rig) -> Tunnel:
    made = rig.tunnel(start=False)
    made.b.start()
    return made


def test_a_reload_under_traffic_keeps_the_session(rig: Rig, tunnel: Tunnel) -> None:
    a, b = tunnel.a, tunnel.b
    stranger = rig.node(a.space, inner=["10.250.0.2/32"])
    more = f"[Peer]\nPublicKey = {stranger.public_key}\nAllowedIPs = 10.250.0.0/24\nEndpoint = {b.outer()}\n"
    embedded = Embedded(a.space, a.interface)
    rig.later(embedded.close)
    embedded.tell(configuration(a))
    ping(a.space, b.inner4)
    before = embedded.tell(None)
    assert before["peers"][0]["handshake"]
    stream = TcpStream(a.space, b.space, b.inner4)
    until(lambda: stream.received_bytes > 1 << 20, "the stream flows")
    for round_ in range(6):
        extra = [more] if round_ % 2 == 0 else []
        said = embedded.tell(configuration(a, *extra, port=a.port + round_))
        assert said["port"] == a.port + round_
        assert len(said["peers"]) == 1 + len(extra)
        routes = a.space.ip("route")
        assert ("10.250.0.0/24" in routes) == bool(extra)
    stream.finish()
    after = embedded.tell(None)
    assert after["peers"][0]["handshake"] == before["peers"][0]["handshake"], "no second handshake was needed"
    assert stream.longest_silence < 5


def test_the_interface_comes_and_goes_with_the_node(tunnel: Tunnel) -> None:
    a = tunnel.a
    embedded = Embedded(a.space, a.interface)
    try:
        embedded.tell(configuration(a))
        shown = json.loads(a.space.ip("-json", "address", "show", "dev", a.interface))[0]
        held = {
            ipaddress.ip_interface(f"{each['local']}/{each['prefixlen']}")
            for each in shown["addr_info"]
            if each["scope"] == "global"
        }
        assert held == {ipaddress.ip_interface(each) for each in a.inner}
        assert shown["mtu"] == 1420
        assert not a.uapi.exists()
    finally:
        embedded.close()
    assert not a.exists()


FLOOD = """
import hashlib, os, socket, sys, time
host, port, public = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
key = hashlib.blake2s(b"mac1----" + public).digest()
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(16)]
end = time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    for each in sockets:
        message = b"\\1\\0\\0\\0" + os.urandom(112)
        message += hashlib.blake2s(message, key=key, digest_size=16).digest() + bytes(16)
        try:
            each.sendto(message, (host, port))
        except OSError:
            pass
"""


def test_a_flood_of_initiations_leaves_sessions_and_clients_alone(rig: Rig) -> None:
    """With a valid mac1, which anybody can make who knows the public key. Each costs the node a reply."""
    tunnel = rig.tunnel(both_know=True)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    shook = b.status(a).handshake
    public = base64.b64decode(b.public_key).hex()
    flood = subprocess.Popen(
        a.space.argv(sys.executable, "-P", "-c", FLOOD, b.space.ipv4, str(b.port), public, "5")
    )
    try:
        # ``statuses`` fails if wg gets no answer in time.
        pings = a.space.run("ping", "-n", "-i", "0.1", "-c", "30", "-W", "2", b.inner4, check=False).stdout
        until(lambda: b.statuses() and flood.poll() is not None, "the flood is over", 60, interval=0.2)
    finally:
        flood.kill()
        flood.wait()
    answered = re.search(r"(\d+) received", pings)
    assert answered
    assert int(answered[1]) >= 15, pings
    tunnel.ping(back=True)
    assert b.status(a).handshake == shook
    b.stop()
    b.restart()
    tunnel.ping(back=True)


# ---- up and down ----


def command(space: Space, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        space.argv(*UDPRING, *words),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )


def test_up_hooks_hang_up_and_down(rig: Rig, tunnel: Tunnel, tmp_path: Path) -> None:
    a, b = tunnel.a, tunnel.b
    reported = tmp_path / "reported"
    hooks = "".join(
        f"{hook} = echo {hook} %i >> {reported}\n" for hook in ("PreUp", "PostUp", "PreDown", "PostDown")
    )
    file = tmp_path / f"{a.interface}.conf"
    text = configuration(a).replace("[Interface]\n", f"[Interface]\n{hooks}", 1)
    file.write_text(text)
    file.chmod(0o600)
    done = command(a.space, "up", str(file))
    rig.later(lambda: command(a.space, "down", a.interface))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert reported.read_text().split("\n") == [f"PreUp {a.interface}", f"PostUp {a.interface}", ""]
    ping(a.space, b.inner6)
    again = command(a.space, "up", str(file))
    assert again.returncode == 3
    assert len(again.stderr.splitlines()) == 1
    file.write_text(
        text.replace("PersistentKeepalive", "#").replace("[Peer]\n", "[Peer]\nPersistentKeepalive = 7\n")
    )
    (pid,) = a.space.leaders()
    os.kill(int(pid), signal.SIGHUP)
    until(lambda: a.status(b).keepalive == "7", "the new configuration is in force")
    file.write_text("nonsense")
    os.kill(int(pid), signal.SIGHUP)
    ping(a.space, b.inner4)
    down = command(a.space, "down", a.interface)
    assert down.returncode == 0
    assert f"{file}:1:1: " in down.stderr
    assert "configuration that it has loaded" in down.stderr
    assert not a.exists()
    assert not a.uapi.exists()
    assert reported.read_text().split("\n")[2:] == [f"PreDown {a.interface}", f"PostDown {a.interface}", ""]
    assert command(a.space, "down", a.interface).returncode == 3


def test_what_up_says_of_bad_input(rig: Rig, tunnel: Tunnel, tmp_path: Path) -> None:
    a = tunnel.a
    file = tmp_path / f"{a.interface}.conf"

    def up(text: str) -> tuple[int, str]:
        file.write_text(text)
        file.chmod(0o600)
        done = command(a.space, "up", str(file))
        assert not a.exists(), "nothing may be left of it"
        assert not a.uapi.exists()
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.returncode, done.stderr

    code, said = up(configuration(a).replace("PublicKey = ", "PublicKey = !"))
    assert code == 2
    assert f"{file}:" in said
    code, said = up("[Interface]\n")
    assert (code, "udpring genkey" in said) == (2, True)
    code, said = up(configuration(a).replace("[Interface]\n", "[Interface]\nPreUp = exit 4\n", 1))
    assert code == 3
    with a.space.socket(a.space.ipv4, 2, port=a.port):
        code, said = up(configuration(a))
    assert code == 3
    assert f"{a.port}" in said
    assert "ListenPort" in said


# ---- the demo ----


def check_demo(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert reported["tier"] in ("uring-multishot", "uring-pool", "mmsg")
    assert reported["aead"]
    assert [(each["outer"], each["inner"]) for each in reported["tunnels"]] == [
        ("IPv4", "IPv4"), ("IPv4", "IPv6"), ("IPv6", "IPv4"), ("IPv6", "IPv6"),
    ]  # fmt: skip
    for each in reported["tunnels"]:
        assert each["handshake_ms"] > 0
        assert each["rtt_p50_ms"] > 0
        assert each["tcp_forward_gbit_s"] > 0
        assert each["tcp_reverse_gbit_s"] > 0


def test_demo_prints_figures_and_leaves_nothing() -> None:
    mark = secrets.token_hex(8)
    done = subprocess.run(
        [*UDPRING, "demo", "--seconds", "0.2", "--json"],
        capture_output=True, text=True, timeout=100, env=environment(UDPRING_TEST_MARK=mark), check=False,
    )  # fmt: skip
    check_demo(done)
    assert not marked(mark)


def test_demo_prints_a_table() -> None:
    done = subprocess.run(
        [*UDPRING, "demo", "--seconds", "0.1"],
        capture_output=True, text=True, timeout=100, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("udpring ")
    assert sum("Gbit/s" in line for line in lines) == 4


def test_demo_works_without_root(readable: dict[str, str]) -> None:
    user_namespaces(readable)
    done = subprocess.run(
        with_node() + as_nobody(*UDPRING, "demo", "--seconds", "0.1", "--json"),
        capture_output=True, text=True, timeout=100, env=readable, cwd="/", check=False,
    )  # fmt: skip
    check_demo(done)


def marked(mark: str) -> list[str]:
    """Processes with the mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append(f"{process.name} {(process / 'cmdline').read_text()}")
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_stopped_takes_everything_with_it(number: signal.Signals) -> None:
    mark = secrets.token_hex(8)
    demo = subprocess.Popen(
        [*UDPRING, "demo", "--seconds", "60"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(UDPRING_TEST_MARK=mark),
    )  # fmt: skip
    try:
        until(
            lambda: sum("udpring_tools.demo.node" in each for each in marked(mark)) >= 2,
            "both nodes are there",
            60,
        )
        demo.send_signal(number)
        assert demo.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    finally:
        demo.kill()
        demo.wait()
    until(lambda: not marked(mark), "all its processes are gone", 30)
