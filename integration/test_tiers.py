"""Each tier carries the same traffic. Where io_uring is denied, it is mmsg."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Program, Rig
from lab.counters import counters, watched
from lab.traffic import datagrams

pytestmark = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go has no tiers")

TIERS = ["uring-multishot", "uring-pool", "mmsg"]
SECCOMP = Path(__file__).resolve().parents[1] / "tests" / "seccomp.py"


def _denied(program: Program, error: str) -> Program:
    """The program under a filter that denies io_uring, like Docker's default."""
    return Program(
        program.name,
        (sys.executable, str(SECCOMP), f"io_uring_setup={error}", "--", *program.argv),
        program.env,
    )


def _exchange(rig: Rig, programs: tuple[Program, Program]) -> tuple[Node, Node]:
    tunnel = rig.tunnel(programs)
    tunnel.ping()
    tunnel.ping(back=True)
    tunnel.tcp_both_ways(8 << 20)
    a, b = tunnel.a, tunnel.b
    sizes = [*range(0, 1393, 8), 1392, 4000, 20000, 65000]
    datagrams(a.space, b.space, a.inner4, b.inner4, sizes)
    datagrams(b.space, a.space, b.inner6, a.inner6, sizes)
    return a, b


@pytest.mark.traffic
@pytest.mark.parametrize("tier", TIERS)
def test_two_nodes(rig: Rig, tmp_path: Path, tier: str) -> None:
    ends = []
    for name in "ab":
        (tmp_path / name).mkdir()
        ends.append(watched(tmp_path / name).with_env(UDPRING_TIER=tier))
    for end in _exchange(rig, (ends[0], ends[1])):
        assert counters(end)["plane"]["tier"] == tier


@pytest.mark.parametrize("tier", TIERS)
def test_against_wireguard_go(rig: Rig, tmp_path: Path, tier: str) -> None:
    subject = watched(tmp_path).with_env(UDPRING_TIER=tier)
    node, _ = _exchange(rig, (subject, GO))
    assert counters(node)["plane"]["tier"] == tier


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_io_uring_denied(rig: Rig, tmp_path: Path, error: str) -> None:
    """The node starts on mmsg, gives the reason, and carries traffic."""
    free = watched(tmp_path).with_env(UDPRING_TIER="auto")
    node, _ = _exchange(rig, (_denied(free, error), GO))
    assert counters(node)["plane"]["tier"] == "mmsg"
    line = next(line for line in node.log_text().splitlines() if "tier mmsg" in line)
    assert "io_uring" in line, f"it does not say why: {line}"


@pytest.mark.parametrize("tier", TIERS[:2])
def test_a_tier_that_cannot_be_had(rig: Rig, tier: str) -> None:
    """A tier that is named and that the host refuses: exit 3 and one line with the cause. Nothing is left."""
    node = rig.node(rig.topology()["a"], SUBJECT, inner=[])
    program = _denied(SUBJECT, "EPERM")
    for flags in ([], ["-f"]):
        done = node.space.run(
            "env", f"UDPRING_TIER={tier}", *program.argv, *flags, node.interface, check=False
        )
        assert done.returncode == 3, done
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "io_uring" in done.stderr
        assert not node.exists()
        assert not node.uapi.exists()


def test_an_unknown_tier(rig: Rig) -> None:
    node = rig.node(rig.topology()["a"], SUBJECT, inner=[])
    done = node.space.run("env", "UDPRING_TIER=fastest", *SUBJECT.argv, "-f", node.interface, check=False)
    assert done.returncode == 2, done
    assert "fastest" in done.stderr
    assert "mmsg" in done.stderr, "the line should name what there is"
