"""`udpring bench` for real, as short as possible: it runs, prints its results, and leaves nothing behind."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import SUBJECT, until
from lab.node import UAPI
from lab.processes import descendants, has_ended

from udpring_tools.bench import setup

TOP = Path(__file__).resolve().parents[1]
PREFIX = "bench"
LEFT = "left in /run: "
SEPARATE = f"""
mount -t tmpfs tmpfs /run || exit
"$@"
code=$?
ls /run/wireguard 2>&- | sed 's|^|{LEFT}|' >&2
exit $code
"""
SHORT = ("tunnel", "--seconds", "1", "--runs", "1")

needs_iperf3 = pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
pytestmark = [needs_iperf3, pytest.mark.xdist_group("bench")]


def argv(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "udpring.cli.main", "bench", *words]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """With its own /run, so that everything left there was left by it."""
    separate = ["unshare", "--mount", "sh", "-c", SEPARATE, "sh"]
    done = subprocess.run(
        [*separate, *argv(*words)], capture_output=True, text=True, timeout=100, cwd=TOP, check=False
    )
    assert LEFT not in done.stderr
    return done


def sockets_of(pids: list[int]) -> list[Path]:
    """The UAPI sockets of the interfaces at the end of these processes' command lines."""
    found = set()
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2].decode()
        except (OSError, IndexError):
            continue
        found |= {UAPI / f"{name}.sock"} if name.startswith(PREFIX) else set()
    return sorted(found)


def test_against_itself() -> None:
    against = shlex.join(SUBJECT.argv)
    done = bench(
        "tunnel", "--seconds", "1", "--runs", "1", "--only", "tcp,rtt,memory", "--json", "--against", against
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    mine, other = result["programs"]
    assert mine["program"] == "udpring"
    assert mine["tier"]
    assert mine["aead"]
    assert mine["figures"].keys() == other["figures"].keys()
    assert result["ratios"][0]["figures"].keys() == mine["figures"].keys()
    for program in (mine, other):
        assert all(figure["median"] > 0 for figure in program["figures"].values())
    assert "run 1/1, udpring: TCP, reverse" in done.stderr


def test_forced_tier_is_in_the_table() -> None:
    done = bench(*SHORT, "--only", "rtt_loaded", "--tier", "mmsg")
    assert done.returncode == 0, done.stderr
    assert "tier mmsg" in done.stdout
    assert "round trip, full TCP stream, p99" in done.stdout


def test_tiers_and_workers_are_compared() -> None:
    words = ("--tier", "uring-multishot", "--tier", "mmsg", "--workers", "2")
    done = bench(*SHORT, "--only", "rtt", *words, "--json")
    assert done.returncode == 0, done.stderr
    programs = json.loads(done.stdout)["programs"]
    assert [(each["program"], each["tier"], each["workers"]) for each in programs] == [
        ("udpring uring-multishot", "uring-multishot", 2),
        ("udpring mmsg", "mmsg", 2),
    ]


def test_rootless_nodes_are_compared() -> None:
    done = bench(*SHORT, "--only", "rtt,memory", "--rootless", "packet", "--json")
    assert done.returncode == 0, done.stderr
    mine, without = json.loads(done.stdout)["programs"]
    assert (mine["program"], without["program"]) == ("udpring", "udpring rootless packet")
    assert without["tier"] == mine["tier"]
    assert without["figures"].keys() == mine["figures"].keys()


def test_proxy_is_compared_with_root() -> None:
    done = bench("embedding", "--seconds", "1", "--runs", "1", "--only", "proxy", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    root, proxy = result["ways"]
    assert (root["way"], proxy["way"]) == ("root", "proxy socks")
    for way in (root, proxy):
        assert all(figure["median"] > 0 for figure in way["figures"].values())
    assert all(part > 0 for part in proxy["ratios"].values())
    assert result["tier"]
    assert result["packets"] == []


def test_both_ciphers_are_compared() -> None:
    done = bench(
        *SHORT, "--only", "rtt", "--cipher", "chacha20-poly1305", "--cipher", "aes-256-gcm", "--json"
    )
    assert done.returncode == 0, done.stderr
    programs = json.loads(done.stdout)["programs"]
    assert [(each["program"], each["cipher"]) for each in programs] == [
        ("udpring", "chacha20-poly1305"),
        ("udpring aes-256-gcm", "aes-256-gcm"),
    ]


def test_program_that_fails_to_start_is_reported() -> None:
    """The error is one line."""
    words = shlex.join(["sh", "-c", "echo no tunnels today >&2; exit 4"])
    done = bench(*SHORT, "--only", "rtt", "--against", words)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "udpring: sh ended at once (exit code 4): no tunnels today"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_when_it_is_ended(number: signal.Signals) -> None:
    process = subprocess.Popen(
        argv("tunnel", "--seconds", "60", "--only", "tcp"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )
    try:
        assert process.stderr
        for line in process.stderr:
            if "TCP, one stream" in line:
                break
        children = descendants(process.pid)
        assert len(children) >= 4  # two namespaces, two nodes
        sockets = sockets_of(children)
        assert [path.exists() for path in sockets] == [True, True]
        until(lambda: len(descendants(process.pid)) >= 6, "iperf3 runs", timeout=10)
        children = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(30) == (-number if number == signal.SIGKILL else 130)
        until(lambda: all(map(has_ended, children)), "every process has ended", timeout=20)
        until(lambda: not any(path.exists() for path in sockets), "the sockets are gone", timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        if process.stderr:
            process.stderr.close()


def test_peers() -> None:
    done = bench("peers", "--seconds", "1", "--runs", "1", "--rate", "5000", "--largest", "100", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert [(row["peers"], row["prefixes"]) for row in result["cases"]] == [(1, 1), (100, 1300)]
    for row in result["cases"]:
        assert row["packets_s"]["median"] > 0
        assert row["resident_mib"] > 0


def test_setup() -> None:
    against = shlex.join(SUBJECT.argv)
    done = bench("setup", "--peers", "100", "--runs", "1", "--json", "--against", against)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["peers"], result["runs"]) == (100, 1)
    mine, other = result["programs"]
    assert mine["figures"].keys() == other["figures"].keys() == {figure.key for figure in setup.FIGURES}
    for key in ("start_ms", "resident_mib", "setconf_s", "syncconf_s", "show_s"):
        assert mine["figures"][key]["median"] > 0


def test_handshakes() -> None:
    done = bench("handshakes", "--seconds", "1", "--runs", "1", "--rate", "5000", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["handshakes"]["handshakes_s"]["median"] > 0
    assert result["handshakes"]["answered_percent"]["median"] > 50  # a machine that stalls loses some
    assert [row["phase"] for row in result["flood"]["phases"]] == [
        "quiet",
        "unrelated",
        "wrong-mac1",
        "right-mac1",
    ]
    assert all(row["gbit_s"]["median"] > 0 for row in result["flood"]["phases"])
    assert all(row["flood_packets_s"]["median"] > 0 for row in result["flood"]["phases"][1:])
