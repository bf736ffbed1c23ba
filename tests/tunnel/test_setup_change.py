"""From one plan of an interface to another: only the differences are applied and undone."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from udpring.errors import HostError
from udpring.tunnel import interface_setup
from udpring.tunnel.config import Config
from udpring.tunnel.interface import HostFacts, Plan, plan
from udpring.tunnel.interface_setup import Setup

KEY = "6Ee8RqNDNzDXHr1AM+eZeQ5rkbVqgxNl6Pn4n0mAFXQ="


def planned(addresses: str, allowed: str, mtu: int = 1420) -> Plan:
    head = f"[Interface]\nAddress = {addresses}\nMTU = {mtu}\n"
    text = f"{head}[Peer]\nPublicKey = {KEY}\nAllowedIPs = {allowed}\n"
    return plan(Config.loads(text), "wg0", HostFacts())


class Host:
    """Applies ip commands to a list of words instead of a host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.refused = ""
        self.answers: dict[str, str] = {}
        """What `ip -json` prints, by its words."""
        monkeypatch.setattr(interface_setup, "_run", self._run)

    def _run(
        self, argv: Sequence[str], stdin: str = "", timeout: float | None = None, pass_fds: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        if "-json" in argv:
            return subprocess.CompletedProcess(argv, 0, self.answers.get(" ".join(argv[2:]), ""), "")
        lines = stdin.splitlines() if "-batch" in argv else [" ".join(argv[1:])]
        for number, line in enumerate(lines, 1):
            if self.refused and self.refused in line:
                return subprocess.CompletedProcess(argv, 1, "", f"Error: no.\nCommand failed -:{number}\n")
            self.ran.append(line)
        return subprocess.CompletedProcess(argv, 0, "", "")

    def take(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_only_the_difference_is_run(host: Host) -> None:
    setup = Setup(planned("10.0.0.1/24", "10.1.0.0/16, 10.2.0.0/16"))
    setup.apply()
    assert len(host.take()) == 4
    setup.change(planned("10.0.0.1/24", "10.2.0.0/16, 10.3.0.0/16"))
    assert host.take() == ["route del 10.1.0.0/16 dev wg0", "route add 10.3.0.0/16 dev wg0"]
    setup.change(planned("10.0.0.1/24", "10.2.0.0/16, 10.3.0.0/16"))
    assert host.take() == []
    setup.undo()
    undone = host.take()
    assert sorted(undone[:2]) == ["route del 10.2.0.0/16 dev wg0", "route del 10.3.0.0/16 dev wg0"]
    assert undone[2:] == ["link set down dev wg0", "address del 10.0.0.1/24 dev wg0"]


def test_another_mtu_takes_the_link_not_down(host: Host) -> None:
    setup = Setup(planned("10.0.0.1/24", "10.1.0.0/16"))
    setup.apply()
    host.take()
    setup.change(planned("10.0.0.1/24", "10.1.0.0/16", mtu=1300))
    assert host.take() == ["link set mtu 1300 up dev wg0"]


def test_failed_step_is_taken_back(host: Host) -> None:
    """The steps that succeeded stay recorded."""
    setup = Setup(planned("10.0.0.1/24", "10.1.0.0/16"))
    setup.apply()
    host.take()
    host.refused = "10.5.0.0"
    with pytest.raises(HostError, match=r"10\.5\.0\.0"):
        setup.change(planned("10.0.0.1/24, 10.4.0.1/24", "10.5.0.0/16"))
    assert host.take() == [
        "route del 10.1.0.0/16 dev wg0",
        "address add 10.4.0.1/24 dev wg0",
        "address del 10.4.0.1/24 dev wg0",
    ]
    setup.undo()
    assert host.take() == ["link set down dev wg0", "address del 10.0.0.1/24 dev wg0"]


def test_steps_made_by_hand_are_taken_over(host: Host) -> None:
    setup = Setup(planned("10.0.0.1/24", "10.1.0.0/16"))
    setup.apply()
    host.take()
    host.answers = {
        "-4 address show dev wg0": '[{"addr_info": [{"local": "10.4.0.1", "prefixlen": 24}]}]',
        "-4 route show dev wg0": '[{"dst": "10.5.0.9"}, {"dst": "10.6.0.0/16"}, {"dst": "default"}]',
    }
    wanted = "10.0.0.1/24, 10.4.0.1/24", "10.1.0.0/16, 10.5.0.9/32, 10.6.0.0/16, 10.7.0.0/16"
    setup.change(planned(*wanted))
    assert host.take() == ["route add 10.7.0.0/16 dev wg0"]
    setup.undo()
    assert {"address del 10.4.0.1/24 dev wg0", "route del 10.5.0.9/32 dev wg0"} <= set(host.take())
