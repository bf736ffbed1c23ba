"""`udpring stats` and the exporter agree with `wg show` and the interface's counters after traffic."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import GO, SUBJECT, Node, Rig, until
from lab.host import UDPRING
from lab.intrusion import connected
from lab.processes import command, status
from prometheus_client.parser import text_string_to_metric_families

from udpring.tunnel.capabilities import DAC_OVERRIDE

_FETCHED = Path(__file__).parent.parent / "build" / "promtool"
PROMTOOL = shutil.which("promtool") or (str(_FETCHED) if _FETCHED.exists() else None)


def _metrics(text: str) -> dict[tuple[str, ...], float]:
    """(name, values of the labels but the interface, sorted...) -> value."""
    return {
        (
            sample.name,
            *sorted(value for name, value in sample.labels.items() if name != "interface"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Figures:
    """The figures of a node at one time, of each source."""

    def __init__(self, node: Node, other: Node) -> None:
        name, run = node.interface, node.space.run
        self.stats = json.loads(run(*UDPRING, "stats", name, "--json").stdout)[name]
        self.text = run(*UDPRING, "exporter", "--once", name).stdout
        self.metrics = _metrics(self.text)
        self.peer = node.status(other)
        self.link = json.loads(run("ip", "-json", "-s", "link", "show", "dev", name).stdout)[0]["stats64"]


def _holds_the_transfer(before: Figures, after: Figures) -> None:
    """20 echoes of 1028 bytes, and their answers. Sealed they have 1072: padding to 16, header and tag."""

    def more(*metric: str) -> float:
        return after.metrics[metric] - before.metrics[metric]

    for direction in ("in", "out"):
        assert more("udpring_interface_packets_total", direction) >= 20
        assert more("udpring_interface_bytes_total", direction) >= 20 * 1028
    for way in ("sent", "received"):
        [peer] = [name for name in after.metrics if name[0] == f"wireguard_{way}_bytes_total"]
        assert 20 * 1072 <= more(*peer) < 20 * 1072 + 4000, "a few keepalives and handshakes at most"


def test_figures_agree_with_wg_and_the_interface(rig: Rig) -> None:
    tunnel = rig.tunnel((SUBJECT, GO))
    node = tunnel.a
    tunnel.ping()
    before = Figures(node, tunnel.b)
    node.space.run("ping", "-c", "20", "-i", "0.01", "-s", "1000", "-W", "10", tunnel.b.inner4)
    _holds_the_transfer(before, Figures(node, tunnel.b))
    nobody = node.space.run("ping", "-c", "3", "-i", "0.01", "-W", "1", "10.100.0.99", check=False)
    assert nobody.returncode
    looks = [Figures(node, tunnel.b)]

    def quiet() -> bool:
        looks.append(Figures(node, tunnel.b))
        return looks[-1].link == looks[-2].link and looks[-1].peer == looks[-2].peer

    until(quiet, "no packet passes between two looks")
    now = looks[-1]  # nothing has changed since the look before
    assert {each[0]: value for each, value in now.metrics.items() if tunnel.b.public_key in each} == {
        "wireguard_received_bytes_total": now.peer.received,
        "wireguard_sent_bytes_total": now.peer.sent,
        "wireguard_latest_handshake_seconds": now.peer.handshake,
    }
    for direction, kernel in (("in", "rx"), ("out", "tx")):
        for unit in ("packets", "bytes"):
            counted = now.link[kernel][unit]
            assert now.metrics[f"udpring_interface_{unit}_total", direction] == counted
            assert now.stats["interface"][f"{unit}_{direction}"] == counted
    completed = now.stats["handshakes"]["completed"]
    assert now.metrics["udpring_handshakes_total", "completed"] == completed >= 1
    dropped = now.stats["drops"]["no_peer"]
    assert now.metrics["udpring_packets_dropped_total", "no_peer"] == dropped >= 3
    assert now.stats["queues"]["sends_pending"] == 0
    assert now.stats["queues"]["send_slots"] >= 64
    assert (now.stats["tables"]["peers"], now.stats["tables"]["allowed_ips"]) == (1, 2)
    for name in ("receive", "send"):
        sizes = now.stats["histograms"][f"{name}_batches"]
        assert now.metrics[f"udpring_{name}_batch_datagrams_sum",] == sizes["sum"]
        assert now.metrics[f"udpring_{name}_batch_datagrams_bucket", "+Inf"] == sizes["count"] > 0
    assert now.stats["histograms"]["send_batches"]["sum"] == now.stats["send"]["packets"]
    assert f"  no peer  {dropped}\n" in node.space.run(*UDPRING, "stats", node.interface).stdout
    if PROMTOOL is None:
        pytest.skip("promtool is not installed: scripts/bootstrap fetches it")
    checked = subprocess.run(
        (PROMTOOL, "check", "metrics"),
        input=now.text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def _scraped(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    return body.decode()


def test_confined_exporter_serves_and_removes_its_file(rig: Rig) -> None:
    """It has no right to open a file for writing, to start a program or to make a network socket."""
    tunnel = rig.tunnel((SUBJECT, GO))
    tunnel.ping()
    path = rig.directory / "metrics"
    command = tunnel.a.space.argv(*UDPRING, "exporter", tunnel.a.interface, "--listen", str(path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout
            assert running.stdout.readline() == f"metrics at {path}\n"
            for _ in range(2):
                assert _metrics(_scraped(path))[("udpring_scrape_success",)] == 1
            [process] = [each for each in tunnel.a.space.pids() if _is_confined_exporter(each)]
            fields = status(process)
            assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
            assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {1 << DAC_OVERRIDE}
            os.kill(process, signal.SIGTERM)
            assert running.wait(60) == 0
            assert running.stderr
            assert running.stderr.read() == ""
        finally:
            running.kill()
    assert not path.exists()


def _made_by_intruder(directory: Path, confinement: str) -> list[Any]:
    """What an intruder in the exporter may do: make a socket file, read a file, write one."""
    script, way, made = Path(__file__).parent / "lab" / "intruder.py", directory / "way", directory / "made"
    environment = {**os.environ, "UDPRING_INTRUDER": str(way), "UDPRING_CONFINEMENT": confinement}
    command = (sys.executable, "-P", str(script), "exporter", "--listen", str(directory / "metrics"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        try:
            assert running.stdout
            assert running.stdout.readline()
            with connected(way) as attempt:
                return [
                    attempt(f"socket.socket(socket.AF_UNIX).bind({str(made)!r})"),
                    attempt("os.close(os.open('/etc/passwd', os.O_RDONLY))"),
                    attempt(f"os.close(os.open({str(directory / 'file')!r}, os.O_WRONLY | os.O_CREAT))"),
                ]
        finally:
            running.terminate()
            running.wait(60)
            way.unlink()
            made.unlink(missing_ok=True)


def test_intruder_in_the_exporter_makes_no_files(tmp_path: Path) -> None:
    """Nor socket files, where Landlock is."""
    assert _made_by_intruder(tmp_path, "off") == [None, None, None]
    landlock = ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1) >= 2
    expected = [-errno.EACCES if landlock else None, None, -errno.EPERM]
    assert _made_by_intruder(tmp_path, "on") == expected


def _is_confined_exporter(pid: int) -> bool:
    return status(pid).get("Seccomp") == "2" and "exporter" in command(pid)
