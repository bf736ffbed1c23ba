"""Rootless nodes, run by the user nobody without any right, with a TUN device and with packet sockets."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Rig, until
from lab.rootless import DEVICES, EXAMPLES, NAME, Place, rootless_place, spot, web_server
from lab.traffic import ping
from lab.unprivileged import user_namespaces

SECCOMP = Path(__file__).resolve().parents[1] / "tests" / "seccomp.py"


@pytest.fixture(params=sorted(DEVICES))
def place(rig: Rig, readable: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Place]:
    """With the interface of ``tunnel.b`` up and a name server there."""
    with rootless_place(rig, readable, request.param) as made:
        yield made


def test_http_client_goes_through_the_tunnel(place: Place) -> None:
    """By number in both families, and by a name that only the server in the tunnel knows."""
    with web_server(place) as (port, content):
        for host in (spot(place, 4), spot(place, 6), NAME):
            argv = place.python(str(place.directory / "rootless_client.py"), str(place.file))
            url = f"http://{host}:{port}/content"
            done = subprocess.run(
                [*argv, url], env=place.env, cwd="/", capture_output=True, timeout=90, check=False
            )
            assert done.returncode == 0, done.stderr.decode()[-3000:]
            assert done.stdout == content
    assert NAME in place.names.asked


@pytest.mark.parametrize(
    ("place", "setting"),
    [("tun", "UDPRING_WORKERS=3"), ("packet", "UDPRING_WORKERS=3"), ("packet", "UDPRING_OFFLOADS=none")],
    indirect=["place"],
)
def test_content_arrives_with_every_setting(place: Place, setting: str) -> None:
    """Several workers, each with a queue of its own; without super-packets; without trains."""
    with web_server(place) as (port, content):
        url = f"http://{spot(place, 4)}:{port}/content"
        argv = place.python(str(place.directory / "rootless_client.py"), str(place.file), url)
        name, _, value = setting.partition("=")
        done = subprocess.run(
            argv, env={**place.env, name: value}, cwd="/", capture_output=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        assert done.stdout == content


def test_http_server_is_reached_through_the_tunnel_alone(place: Place) -> None:
    here, there = place.tunnel.a, place.tunnel.b
    words = [sys.executable, "-P", str(place.directory / "rootless_server.py"), str(place.file), "80"]
    with place.program(*words) as server:
        until(lambda: "port 80" in place.said() or server.poll() is not None, "the server is up")
        assert server.poll() is None, place.said()
        inner6 = str(ipaddress.ip_address(there.inner6))
        for host, source in ((here.inner4, there.inner4), (f"[{here.inner6}]", inner6)):
            done = there.space.run("curl", "-sS", "--max-time", "30", f"http://{host}/", timeout=60)
            said = ipaddress.ip_address(done.stdout.split()[-1])
            assert source in (str(said), str(getattr(said, "ipv4_mapped", None)))
        assert ":80 " not in here.space.run("ss", "-Hltn").stdout
        outside = there.space.run("curl", "-sS", f"http://{here.space.ipv4}/", check=False, timeout=60)
        assert outside.returncode == 7, "refused"


def test_directory_in_sqlite_serves_its_clients(place: Place) -> None:
    """The node knows nobody but by its database."""
    here, there = place.tunnel.a, place.tunnel.b
    example = place.directory / "sqlite_directory.py"
    example.write_bytes((EXAMPLES / example.name).read_bytes())
    own = place.directory / "own"
    own.mkdir()
    file, database = own / "wg0.conf", str(own / "clients.sqlite")
    file.write_text(place.file.read_text().partition("[Peer]")[0])
    file.chmod(0o600)
    for each in (own, file):
        shutil.chown(each, "nobody")
    allowed = (f"{there.inner4}/32", f"{there.inner6}/128")
    place.run(str(example), "add", database, there.public_key, *allowed)
    with place.program(sys.executable, "-P", str(example), "serve", database, str(file)) as server:
        until(lambda: "UDP port" in place.said() or server.poll() is not None, "the node is up")
        assert server.poll() is None, place.said()
        ping(there.space, here.inner4)
        ping(there.space, here.inner6)
        until(lambda: f"{there.public_key}: " in place.said(), "it prints its client")


INSIDE = r"""
import asyncio, os, signal, socket, sys
import udpring

async def main(path, name, address, kind):
    config = udpring.Config.load(path)
    async with udpring.Node(config, attachment=udpring.Rootless()) as node:
        assert node._attached.spaces.kind == kind, node._attached.spaces.kind
        found = [str(each) for each in await node.resolve(name)]
        assert address in found, found
        try:
            await node.resolve("absent.tunnel.example")
        except socket.gaierror:
            pass
        else:
            raise AssertionError("it was found")

        async def double(reader, writer):
            writer.write(2 * await reader.readexactly(5))
            await writer.drain()
            writer.close()

        own = str(config.interface.addresses[0].ip)
        server = await node.start_server(double, own, 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await node.open_connection(own, port)
        writer.write(b"hello")
        assert await reader.read() == b"hellohello"
        writer.close()
        server.close()

        with node.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect((address, 9))
            assert sock.getsockname()[0] == own and not sock.getblocking()

        async def said(*command):
            child = await node.spawn(*command, stdout=asyncio.subprocess.PIPE, cwd="/usr")
            out, _ = await child.communicate()
            assert child.returncode == 0, (command, child.returncode)
            return out.decode()

        assert await said("cat", "/etc/resolv.conf") == f"nameserver {address}\n"
        assert await said("sh", "-c", "pwd; id -u") == f"/usr\n{os.getuid()}\n"
        assert "CapEff:\t0000000000000000" in await said("cat", "/proc/self/status")
        ignored = int((await said("grep", "SigIgn", "/proc/self/status")).split()[1], 16)
        assert not ignored >> (signal.SIGPIPE - 1) & 1 and not ignored >> (signal.SIGXFSZ - 1) & 1
        assert "1 received" in await said("ping", "-c", "1", "-W", "10", address)
        devices = (await said("cat", "/proc/net/dev")).count("|") and await said("ip", "-o", "route")
        assert "default" not in devices, devices
        try:
            await node.spawn("no-such-program")
        except FileNotFoundError:
            pass
        else:
            raise AssertionError("it was started")

if sys.argv[1] == "uvloop":
    import uvloop
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
asyncio.run(main(*sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("place", "loop"), [("tun", "asyncio"), ("packet", "uvloop"), ("packet", "asyncio")], indirect=["place"]
)
def test_sockets_names_and_programs_of_the_inside(place: Place, loop: str) -> None:
    place.run("-c", INSIDE, loop, str(place.file), NAME, place.tunnel.b.inner4, place.device)


ENDS = """
import asyncio, os, signal, sys, time
import udpring
from udpring.errors import HostError

async def main(path):
    async with udpring.Node(udpring.Config.load(path), attachment=udpring.Rootless()) as node:
        events = node.events()
        os.kill(node._attached.spaces.pid, signal.SIGKILL)
        end = await asyncio.wait_for(node.wait(), 30)
        assert "signal 9" in end.reason, end
        seen = [event async for event in events]
        assert any(isinstance(event, udpring.InterfaceGone) for event in seen), seen
        for call in (node.socket, node.socket):
            try:
                call()
            except HostError as error:
                assert "has ended" in str(error), error
            else:
                raise AssertionError("a dead process made a socket")
    async with udpring.Node(udpring.Config.load(path), attachment=udpring.Rootless()) as node:
        prefix, spaces = node._attached.spaces.entry(keep_rights=True)
        words = [*prefix, "ip", "link", "delete", "dev", node.name]
        if node._attached.spaces.kind == "tun":
            words = [*prefix, "ip", "tuntap", "del", "mode", "tun", node.name]
            words = [*prefix, "ip", "link", "delete", "dev", node.name]
        child = await asyncio.create_subprocess_exec(*words, pass_fds=spaces)
        assert await child.wait() == 0
        end = await asyncio.wait_for(node.wait(), 30)
        assert end.reason, end
    kept = udpring.Node(udpring.Config.load(path), attachment=udpring.Rootless())
    before = sorted(os.listdir("/proc/self/fd"))
    for life in range(10):
        await kept.start()
        await kept.stop()
    assert sorted(os.listdir("/proc/self/fd")) == before
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        return
    raise AssertionError("a process is left")

asyncio.run(main(sys.argv[1]))
"""


def test_helper_or_interface_lost_ends_the_node(place: Place) -> None:
    """And ten lives leave neither descriptor nor process."""
    place.run("-c", ENDS, str(place.file))


def test_doctor_says_which_device_a_rootless_node_has(place: Place) -> None:
    words = place.python("-m", "udpring.cli.main", "doctor")
    done = subprocess.run(
        words, env=place.env, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (3, ""), "a node of root cannot run"
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("rootless")]
    device = {"tun": "a TUN device", "packet": "packet sockets, since there is no TUN device: /dev/net/tun"}
    assert device[place.device] in line
    assert done.stdout.endswith("no node can run here, except a rootless one\n")


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (["unshare", "-r", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"],
         ["no user namespace can be made", "max_user_namespaces"]),
        ([sys.executable, str(SECCOMP), "unshare=EPERM", "--"],
         ["no user namespace can be made", "allow unshare"]),
        ([sys.executable, str(SECCOMP), f"socket=EPERM:0=={int(socket.AF_PACKET)}", "--"],
         ["packet socket is refused"]),
    ],
)  # fmt: skip
def test_denied_namespaces_have_a_cure(
    readable: dict[str, str], before: list[str], words: list[str], tmp_path: Path
) -> None:
    user_namespaces(readable)
    script = (
        "import asyncio, udpring; from udpring.tunnel.config import *\n"
        "config = Config(InterfaceConfig(private_key=bytes(32)))\n"
        "try: asyncio.run(udpring.Node(config, attachment=udpring.Rootless('packet')).start())\n"
        "except udpring.HostError as error: print(error)"
    )
    done = subprocess.run(
        [*before, sys.executable, "-P", "-c", script],
        env=readable, cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for each in words:
        assert each in done.stdout
