"""``udpring run``: a program of the user nobody, whose only network is the tunnel."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Rig, until
from lab.rootless import DEVICES, NAME, Place, rootless_place, web_server


@pytest.fixture(params=sorted(DEVICES))
def place(rig: Rig, readable: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Place]:
    """With the interface of ``tunnel.b`` up and a name server there."""
    with rootless_place(rig, readable, request.param) as made:
        yield made


@pytest.fixture
def packet_place(rig: Rig, readable: dict[str, str]) -> Iterator[Place]:
    """The same, with packet sockets."""
    with rootless_place(rig, readable, "packet") as made:
        yield made


def words(place: Place, *command: str) -> list[str]:
    return place.python("-m", "udpring.cli.main", "run", str(place.file), "--", *command)


def run(place: Place, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(place, *command),
        env=place.env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_program_uses_the_tunnel_and_its_names(place: Place) -> None:
    with web_server(place) as (port, content):
        done = subprocess.run(
            words(place, "curl", "-sS", "--max-time", "60", f"http://{NAME}:{port}/content"),
            env=place.env, cwd="/", capture_output=True, timeout=90, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == content
    assert place.names.askers <= set(place.tunnel.a.inner4.split())


def test_exit_code_is_the_program_s(packet_place: Place) -> None:
    assert run(packet_place, "sh", "-c", "exit 7").returncode == 7
    assert run(packet_place, "sh", "-c", "kill -USR1 $$").returncode == 128 + signal.SIGUSR1
    missing = run(packet_place, "no-such-program")
    assert (missing.returncode, missing.stderr) == (127, "udpring: no-such-program: no such program\n")


def test_streams_and_signals_are_passed_on(packet_place: Place) -> None:
    """Standard input and output are the program's; a signal to the command reaches the program."""
    script = 'trap "echo caught; exit 3" TERM; read line; echo "got $line"; while :; do sleep 0.1; done'
    child = subprocess.Popen(
        words(packet_place, "sh", "-c", script), env=packet_place.env, cwd="/", text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("a line\n")
        child.stdin.flush()
        assert child.stdout.readline() == "got a line\n"
        os.kill(child.pid, signal.SIGTERM)
        assert child.stdout.readline() == "caught\n"
        assert child.wait(60) == 3
    finally:
        child.kill()
        child.wait(30)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


WAITS = """
import os, signal
os.setpgrp()
numbers = {signal.SIGINT, signal.SIGUSR1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
number = 0
while number != signal.SIGTERM:
    number = signal.sigwait(numbers)
    print(f"<{number}>", flush=True)
"""


def test_ctrl_c_is_not_passed_on(packet_place: Place) -> None:
    """The terminal sends it to the process group of the command, where the program is too. This program has
    left the group, so it shows what the command sends."""
    main, end = pty.openpty()
    child = subprocess.Popen(
        ["setsid", "--ctty", *words(packet_place, sys.executable, "-P", "-c", WAITS)],
        env=packet_place.env, cwd="/", stdin=end, stdout=end, stderr=end,
    )  # fmt: skip
    os.close(end)
    said = b""

    def until_it_says(word: bytes) -> None:
        nonlocal said
        while word not in said:
            said += os.read(main, 4096)

    try:
        until_it_says(b"ready")
        os.write(main, b"\x03")
        until_it_says(b"^C")  # the signal was sent before the echo
        child.send_signal(signal.SIGUSR1)
        until_it_says(b"<10>")
        child.terminate()
        until_it_says(b"<15>")
        assert child.wait(60) == 0
        assert re.findall(rb"<.*?>", said) == [b"<10>", b"<15>"]
    finally:
        child.kill()
        child.wait(30)
        os.close(main)


FILTER = "(ip or ip6) and (not host 127.0.0.1 or port 53)"
"""Excludes the core's probes on loopback sockets at a start."""
TRIES = """
import socket, sys
inner, outer, inner6, outer6 = sys.argv[1:]
for host in (inner, outer, inner6, outer6):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as sock:
            sock.settimeout(0.5)
            try:
                sock.connect((host, 4242))
                sock.send(b"a secret")
            except OSError:
                pass
try:
    socket.getaddrinfo("secret.tunnel.example", 80)
except socket.gaierror:
    pass
try:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        raise AssertionError("a raw socket")
except PermissionError:
    print("done")
"""


def test_nothing_leaks_while_the_tunnel_is_down(packet_place: Place, tmp_path: Path) -> None:
    """The peer is gone. Outside is nothing but its handshakes: no packet of the program, no question for a
    name, by whichever address it tries."""
    there, here = packet_place.tunnel.b, packet_place.tunnel.a
    there.stop()
    capture, said = tmp_path / "capture", tmp_path / "said"
    watch = ["tcpdump", "-n", "-i", "any", "-U", "-w", str(capture), "--immediate-mode", FILTER]
    with said.open("wb") as out:
        dump = subprocess.Popen(here.space.argv(*watch), stdout=out, stderr=out)
    try:
        until(lambda: "listening" in said.read_text(), "tcpdump listens")
        addresses = [there.inner4, there.space.ipv4, there.inner6, there.space.ipv6]
        done = run(packet_place, sys.executable, "-P", "-c", TRIES, *addresses)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        # A packet of our own is the last that tcpdump has to see.
        here.space.run("ping", "-c", "1", "-W", "20", there.space.ipv4)
        until(lambda: "ICMP" in _text(here, capture), "all is captured")
    finally:
        dump.terminate()
        dump.wait(30)
    port = f".{there.port}: UDP"
    lines = [line for line in _text(here, capture).splitlines() if "ICMP" not in line]
    assert any(port in line for line in lines), "the handshakes of the tunnel were seen"
    assert [line for line in lines if port not in line and "unreachable" not in line] == []
    assert b"secret" not in capture.read_bytes()


def _text(node: object, capture: Path) -> str:
    done = subprocess.run(
        ["tcpdump", "-n", "-r", str(capture)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout


def test_misuse_is_explained(packet_place: Place) -> None:
    text = packet_place.file.read_text()
    packet_place.file.write_text(text.replace("[Interface]", "[Interface]\nFwMark = 7", 1))
    done = run(packet_place, "true")
    assert done.returncode == 3
    assert "SO_MARK" in done.stderr
    assert "take FwMark out" in done.stderr
    packet_place.file.write_text("\n".join(line for line in text.splitlines() if "Address" not in line))
    done = run(packet_place, "true")
    assert done.returncode == 2
    assert "has no Address" in done.stderr
