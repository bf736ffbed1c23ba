"""Rootless nodes, run by the user nobody without any right, with a TUN device and with packet sockets."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lab import SUBJECT, Rig, Tunnel, until
from lab.device_node import why_no_node, with_node
from lab.names import NameServer
from lab.unprivileged import as_nobody, user_namespaces

SECCOMP = Path(__file__).resolve().parents[1] / "tests" / "seccomp.py"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAME = "www.tunnel.example"
DEVICES = {"tun": 0o666, "packet": 0o600}
"""What /dev/net/tun has to be, for the node to choose that device by itself."""


@dataclass
class Place:
    """``tunnel.a`` is the rootless node, ``tunnel.b`` a root one, with a name server at its inner address."""

    tunnel: Tunnel
    file: Path
    directory: Path
    env: dict[str, str]
    device: str
    names: NameServer = field(init=False)

    def argv(self, *command: str) -> list[str]:
        """As nobody, where ``tunnel.a`` is."""
        inside = [*with_node(DEVICES[self.device]), *as_nobody(*command)]
        return self.tunnel.a.space.argv(*inside)

    def python(self, *arguments: str) -> list[str]:
        return self.argv(sys.executable, "-P", *arguments)

    def run(self, *arguments: str, timeout: float = 90) -> str:
        """Runs Python so, to its end; its output."""
        done = subprocess.run(
            self.python(*arguments), env=self.env, cwd="/", capture_output=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return done.stdout.decode()

    @contextmanager
    def program(self, *command: str, space: str = "a") -> Iterator[subprocess.Popen[bytes]]:
        """A program that is killed at the end; its output in ``self.directory/out``."""
        argv = self.argv(*command) if space == "a" else self.tunnel.b.space.argv(*command)
        with (self.directory / "out").open("ab") as out:
            process = subprocess.Popen(argv, stdout=out, stderr=out, env=self.env, cwd="/")
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)

    def said(self) -> str:
        return (self.directory / "out").read_text(errors="replace")


@pytest.fixture(params=sorted(DEVICES))
def place(
    rig: Rig, readable: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """With the interface of ``tunnel.b`` up and a name server there."""
    if why := why_no_node():
        pytest.skip(why)
    user_namespaces(readable)
    tunnel = rig.tunnel((SUBJECT, SUBJECT), both_know=True, start=False)
    tunnel.b.start()
    tunnel.b.space.ip("link", "set", "lo", "up")
    directory = Path(readable["PYTHONPATH"]) / rig.prefix
    directory.mkdir(mode=0o755)
    file = directory / "wg0.conf"
    head = f"[Interface]\nAddress = {', '.join(tunnel.a.inner)}\nDNS = {tunnel.b.inner4}\n"
    file.write_text(tunnel.a.configuration().replace("[Interface]\n", head, 1))
    file.chmod(0o600)
    os.chown(file, pwd.getpwnam("nobody").pw_uid, -1)
    for example in EXAMPLES.glob("rootless*.py"):
        (directory / example.name).write_bytes(example.read_bytes())
        (directory / example.name).chmod(0o644)
    made = Place(tunnel, file, directory, {**readable, "HOME": "/"}, request.param)
    with NameServer(
        tunnel.b.space, tunnel.b.inner4, {NAME: [tunnel.b.inner4, tunnel.b.inner6]}
    ) as made.names:
        yield made
        made.names.check()
    shutil.rmtree(directory)


def spot(place: Place, family: int) -> str:
    """The inner address of ``tunnel.b``, as a URL has it."""
    return place.tunnel.b.inner4 if family == 4 else f"[{place.tunnel.b.inner6}]"


@contextmanager
def web_server(place: Place) -> Iterator[tuple[int, bytes]]:
    """On ``tunnel.b``, at both inner addresses: its port and the content of /content."""
    content = os.urandom(1 << 20)
    (place.directory / "web").mkdir()
    (place.directory / "web/content").write_bytes(content)
    port, folder = 8080, str(place.directory / "web")
    words = [sys.executable, "-P", "-m", "http.server", str(port), "--bind", "::", "--directory", folder]
    with place.program(*words, space="b"):
        space = place.tunnel.b.space
        listening = lambda: f":{port}" in space.run("ss", "-Hltn").stdout  # noqa: E731
        until(listening, "the web server listens")
        yield port, content


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


def test_http_server_is_reached_through_the_tunnel_alone(place: Place) -> None:
    here, there = place.tunnel.a, place.tunnel.b
    words = [sys.executable, "-P", str(place.directory / "rootless_server.py"), str(place.file), "80"]
    with place.program(*words) as server:
        until(lambda: "port 80" in place.said() or server.poll() is not None, "the server is up")
        assert server.poll() is None, place.said()
        for host, source in ((here.inner4, there.inner4), (f"[{here.inner6}]", there.inner6)):
            done = there.space.run("curl", "-sS", "--max-time", "30", f"http://{host}/", timeout=60)
            assert done.stdout.rstrip().endswith(source), "IPv4 may be written as ::ffff:1.2.3.4"
        assert ":80 " not in here.space.run("ss", "-Hltn").stdout
        outside = there.space.run("curl", "-sS", f"http://{here.space.ipv4}/", check=False, timeout=60)
        assert outside.returncode == 7, "refused"


INSIDE = r"""
import asyncio, os, socket, sys
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
        assert "SigIgn:\t0000000000000000" in await said("cat", "/proc/self/status")
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


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sockets_names_and_programs_of_the_inside(place: Place, loop: str) -> None:
    place.run("-c", INSIDE, loop, str(place.file), NAME, place.tunnel.b.inner4, place.device)


ENDS = """
import asyncio, os, signal, sys, time
import udpring
from udpring.errors import HostError

async def main(path):
    async with udpring.Node(udpring.Config.load(path), attachment=udpring.Rootless()) as node:
        os.kill(node._attached.spaces._process.pid, signal.SIGKILL)
        end = await asyncio.wait_for(node.wait(), 30)
        assert "signal 9" in end.reason, end
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
