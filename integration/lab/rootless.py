"""A rootless node of the user nobody, who has no right, beside a root node with names and a web server."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.device_node import why_no_node, with_node
from lab.names import NameServer
from lab.node import SUBJECT
from lab.rig import Rig, Tunnel
from lab.space import until
from lab.unprivileged import as_nobody, user_namespaces

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAME = "www.tunnel.example"
DEVICES = {"tun": 0o666, "packet": 0o600}
"""The mode of /dev/net/tun with which the node chooses that device."""


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


@contextmanager
def rootless_place(rig: Rig, readable: dict[str, str], device: str) -> Iterator[Place]:
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
    made = Place(tunnel, file, directory, {**readable, "HOME": "/"}, device)
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
