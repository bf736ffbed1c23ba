"""Fixtures of the integration tests. The tests need root with its capabilities and TUN, or they skip with a
reason."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Program, Rig
from lab.reaper import Reaper
from lab.rig import leftovers
from lab.unprivileged import readable_copy

TOOLS = ("ip", "nsenter", "nft", "wg", "ping", "tcpdump", "wireguard-go")
#: Capabilities that root may lack in a container, by their bits (linux/capability.h).
RIGHTS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
#: All nodes of the run inherit these, except in tests about one of them.
FORCED = ("UDPRING_TIER", "UDPRING_OFFLOADS", "UDPRING_WORKERS")
# The kernel takes ten changes of the weight of sessions a second, of the whole machine. Each start of a node
# would wait for its turn. Tests of the weight set the variable themselves.
os.environ.setdefault("UDPRING_NICE", "0")
# A shell starts background jobs with SIGINT ignored, and each program of a test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
_prefixes: list[str] = []
_reaper = Reaper()


def _missing() -> str:
    if os.geteuid() != 0:
        return "not root: run it with sudo, or in `unshare -Urnm`"
    held = int(re.findall(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)[0], 16)
    denied = [right for right, bit in RIGHTS.items() if not held >> bit & 1]
    if denied:
        return f"root without {' '.join(denied)}: give the container these"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun: modprobe tun, or give the container the device"
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    if absent:
        return f"not installed: {' '.join(absent)} (scripts/bootstrap installs them)"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    reason = _missing()
    for item in items:
        if here in item.path.parents:
            item.add_marker("netns")
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
    # The longest first: the others run at the same time, on another worker.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_report_header() -> list[str]:
    forced = [f"{name}={value}" for name in FORCED if (value := os.environ.get(name))]
    return [f"program under test: {' '.join(SUBJECT.argv)}", f"forced: {' '.join(forced) or 'nothing'}"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    rig = getattr(item, "funcargs", {}).get("rig")
    if report.failed and isinstance(rig, Rig):
        report.sections.append(("what the nodes wrote", rig.logs()))
    return report


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    _reaper.close()
    left = [each for prefix in _prefixes for each in leftovers(prefix)]
    assert not left, f"left behind: {left}"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Makes topologies, nodes and tunnels. Removes them when the test ends in any way."""
    made = Rig(tmp_path)
    _prefixes.append(made.prefix)
    _reaper.watch(made.prefix)
    try:
        yield made
    finally:
        made.close()
        _reaper.forget(made.prefix)


@pytest.fixture(scope="session")
def readable() -> Iterator[dict[str, str]]:
    """An environment in which every user may read the package."""
    with readable_copy() as environment:
        yield environment


@pytest.fixture
def subject() -> Program:
    """The program under test."""
    return SUBJECT


@pytest.fixture
def go() -> Program:
    """Debian's wireguard-go."""
    return GO
