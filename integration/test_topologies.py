"""The scripts of netns-scripts/ in use: help, wrong arguments, interruption, nothing left behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import Rig, Space, until
from lab.rig import leftovers
from lab.topology import SCRIPTS
from lab.traffic import datagrams, ping

ALL = sorted(path.name for path in SCRIPTS.iterdir() if os.access(path, os.X_OK) and path.is_file())


def _say(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPTS / script), *args], capture_output=True, text=True, timeout=60, check=False
    )


def test_they_are_all_here() -> None:
    assert ALL == ["dual-stack", "hub-and-spokes", "lossy", "narrow-mtu", "nat", "two-nodes", "two-uplinks"]


@pytest.mark.parametrize("script", ALL)
def test_help_has_the_drawing(script: str) -> None:
    done = _say(script, "--help")
    assert done.returncode == 0
    assert "┌──" in done.stdout
    for verb in ("up", "down", "exec", "show"):
        assert f"{script} {verb}" in done.stdout


@pytest.mark.parametrize("script", ALL)
@pytest.mark.parametrize(
    "args",
    [
        ("sideways",),
        ("up", "Not-A-Prefix"),
        ("up", "toolongprefix"),
        ("up", "--no-such-option", "1"),
        ("up", "--mtu", "many"),
        ("up", "--mtu"),
        ("down",),
        ("exec", "nobody"),
        ("run",),
    ],
)
def test_wrong_use(script: str, args: tuple[str, ...]) -> None:
    done = _say(script, *args)
    assert done.returncode == 2, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("script", ALL)
def test_by_hand(script: str) -> None:
    """up, show, exec, a second up of the same prefix, down, down again."""
    prefix = "u" + secrets.token_hex(3)
    try:
        up = _say(script, "up", prefix)
        assert up.returncode == 0, up.stderr
        assert _say(script, "show", prefix).stdout == up.stdout
        first = up.stdout.split()[0]
        inside = _say(script, "exec", prefix, first, "sh", "-c", "exit 7")
        assert inside.returncode == 7
        assert _say(script, "up", prefix).returncode == 1
        assert _say(script, "show", prefix).stdout == up.stdout, "a refused second up must not harm the first"
        # A process that was left running inside ends with it.
        subprocess.Popen(
            [str(SCRIPTS / script), "exec", prefix, first, "sleep", "600"], stdin=subprocess.DEVNULL
        )
        until(lambda: Space(f"{prefix}-{first}").pids(), "the sleep runs")
    finally:
        down = _say(script, "down", prefix)
    assert down.returncode == 0, down.stderr
    until(lambda: not leftovers(prefix), "what ran inside has ended")
    assert _say(script, "down", prefix).returncode == 1
    assert _say(script, "show", prefix).returncode == 1


def test_run_gives_names_and_the_commands_exit_code() -> None:
    done = _say(
        "two-nodes", "run", "--", "sh", "-c", 'echo "$PREFIX $a $b"; ip netns exec "$a" true && exit 9'
    )
    assert done.returncode == 9
    prefix, a, b = done.stdout.split()
    assert (a, b) == (f"{prefix}-a", f"{prefix}-b")
    assert not leftovers(prefix)


def test_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    said = tmp_path / "prefix"
    process = subprocess.Popen(
        [
            str(SCRIPTS / "hub-and-spokes"),
            "run",
            "--",
            "sh",
            "-c",
            f'echo "$PREFIX" > {said}; exec sleep 600',
        ],
        start_new_session=True,
    )
    until(lambda: said.exists() and said.read_text().strip(), "the command runs")
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)
    assert not leftovers(said.read_text().strip())


def test_a_failed_up_leaves_nothing() -> None:
    prefix = "u" + secrets.token_hex(3)
    # IPv6 does not permit this MTU on a link, so the build fails half way.
    done = _say("two-nodes", "up", prefix, "--mtu", "68")
    assert done.returncode != 0
    assert not leftovers(prefix)


def test_a_killed_run_is_cleaned_up() -> None:
    """As if SIGKILL ended pytest: the reaper sees the end of its pipe and removes everything."""
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); from lab.reaper import Reaper\n"
        "reaper = Reaper(); reaper.watch(sys.argv[2]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    prefix = "u" + secrets.token_hex(3)
    assert _say("two-nodes", "up", prefix).returncode == 0
    try:
        here = str(Path(__file__).parent)
        done = subprocess.run([sys.executable, "-P", "-c", program, here, prefix], check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
        until(lambda: not leftovers(prefix), "all of it is gone")
    finally:
        _say("two-nodes", "down", prefix)


# ---- the topologies are as drawn ----


def test_nat_hides_the_inside(rig: Rig) -> None:
    nat = rig.topology("nat")
    for family in (4, 6):
        ping(nat["a"], nat["b"].address(family))
    datagrams(nat["a"], nat["nat"], nat["a"].ipv4, nat["nat"].ipv4, [10])
    done = nat["b"].run("ping", "-n", "-c", "1", "-w", "1", nat["a"].ipv4, check=False)
    assert done.returncode != 0


def test_spokes_reach_the_hub_alone(rig: Rig) -> None:
    hub = rig.topology("hub-and-spokes", "--spokes", "4")
    assert set(hub.spaces) == {"hub", "s1", "s2", "s3", "s4"}
    for number in range(1, 5):
        for address in (hub["hub"].ipv4s[number - 1], hub["hub"].ipv6s[number - 1]):
            ping(hub[f"s{number}"], address)
    done = hub["s1"].run("ping", "-n", "-c", "1", "-w", "1", hub["s2"].ipv4, check=False)
    assert done.returncode != 0


def test_narrow_path_refuses_what_does_not_fit(rig: Rig) -> None:
    narrow = rig.topology("narrow-mtu", "--narrow", "1300")
    for there, extra in ((narrow["b"].ipv4, 28), (narrow["b"].ipv6, 48)):
        ping(narrow["a"], there, size=1300 - extra, more=("-M", "do"))
        done = narrow["a"].run(
            "ping",
            "-n",
            "-c",
            "2",
            "-i",
            "0.2",
            "-w",
            "1",
            "-s",
            str(1301 - extra),
            "-M",
            "do",
            there,
            check=False,
        )
        assert done.returncode == 1


def test_lossy_path_loses_what_it_says(rig: Rig) -> None:
    lossy = rig.topology("lossy", "--loss", "50")

    def answered() -> int:
        said = (
            lossy["a"]
            .run("ping", "-n", "-c", "200", "-i", "0.002", "-W", "1", lossy["b"].ipv4, check=False)
            .stdout
        )
        return int(said.split(" received")[0].split()[-1])

    assert 10 <= answered() <= 100  # a quarter of 200, with random variation
    lossy.set("loss", "0")
    assert answered() == 200
    lossy.set("loss", "100")
    assert answered() == 0
