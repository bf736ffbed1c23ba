"""A node without a device, run by a user who has no right at all: two examples ping each other."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.unprivileged import readable_copy

from udpring.tunnel.keys import generate_private_key, public_key, to_base64

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "packet_ping.py"
END_WAIT = 60.0
IDS = ["--reuid=65534", "--regid=65534", "--clear-groups"]
#: No capability now or ever, nor any by a program that is set-uid.
RIGHTLESS = ["setpriv", *IDS, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
SHOW_RIGHTS = "print(open('/proc/self/status').read())"


class Place:
    """A folder with the example and two configurations, which nobody can read."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.folder = Path(environment["PYTHONPATH"]) / "ping"
        self.folder.mkdir(mode=0o755)
        shutil.copy(EXAMPLE, self.folder)
        self._keys = [generate_private_key() for _ in range(2)]

    def file(self, own: int, endpoint: str = "") -> str:
        """The configuration of one of the two."""
        peer = 1 - own
        file = self.folder / f"wg{own}.conf"
        file.write_text(
            f"[Interface]\nPrivateKey = {to_base64(self._keys[own])}\n"
            f"Address = 10.9.0.{own + 1}/24, fd09::{own + 1}/64\n"
            f"[Peer]\nPublicKey = {to_base64(public_key(self._keys[peer]))}\n"
            f"AllowedIPs = 10.9.0.{peer + 1}/32, fd09::{peer + 1}/128\n{endpoint}"
        )
        os.chown(file, 65534, -1)
        file.chmod(0o400)
        return str(file)

    def command(self, *words: str) -> list[str]:
        """As nobody, without any right."""
        return [*RIGHTLESS, sys.executable, "-P", *words]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(str(self.folder / EXAMPLE.name), *words),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def place() -> Iterator[Place]:
    with readable_copy() as environment:
        made = Place(environment)
        tried = subprocess.run(
            made.command("-c", "import udpring._native"),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=END_WAIT,
        )
        if tried.returncode:
            pytest.skip(f"nobody cannot run such an interpreter: {tried.stderr.strip()[-200:]}")
        yield made


def test_user_without_rights_pings_through_tunnel(place: Place) -> None:
    status = subprocess.run(
        place.command("-c", SHOW_RIGHTS),
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=END_WAIT,
    ).stdout
    assert re.search(r"^Uid:\s+65534\s+65534\s+65534\s+65534$", status, re.M)
    assert set(re.findall(r"^Cap\w+:\s+(\w+)$", status, re.M)) == {"0" * 16}

    answering = place.start(place.file(0), "--answer")
    try:
        assert answering.stdout is not None
        port = re.search(r"answering on port (\d+), tier ", answering.stdout.readline())
        assert port is not None, answering.communicate()
        for target in ("10.9.0.1", "fd09::1"):
            file = place.file(1, f"Endpoint = [::1]:{port[1]}\n")
            with place.start(file, target, "--count", "2") as pinging:
                out, err = pinging.communicate(timeout=END_WAIT)
            assert (pinging.returncode, err) == (0, "")
            assert out.endswith("2 of 2 answered\n")
        answering.send_signal(signal.SIGINT)
        assert answering.communicate(timeout=END_WAIT) == ("4 answered\n", "")
    finally:
        answering.kill()
        answering.wait()
