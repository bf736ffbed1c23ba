"""Planned commands for a configuration: their order and their undoing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from udpring.errors import HostError
from udpring.tunnel import interface_setup, keys
from udpring.tunnel.config import Config
from udpring.tunnel.interface import Command, HostFacts, Plan, Step, interface_mtu, plan
from udpring.tunnel.interface_setup import Setup

PUBLIC = keys.to_base64(bytes(range(32)))
OTHER = keys.to_base64(bytes(range(1, 33)))


def config(interface: str = "", allowed: str = "", other: str = "") -> Config:
    text = f"[Interface]\n{interface}\n[Peer]\nPublicKey={PUBLIC}\nAllowedIPs={allowed}\n"
    return Config.loads(text + (f"[Peer]\nPublicKey={OTHER}\nAllowedIPs={other}\n" if other else ""))


def texts(of: Plan) -> list[str]:
    return [str(command) for command in of.commands()]


def test_addresses_mtu_and_routes_in_order() -> None:
    planned = plan(
        config("Address = 10.0.0.1/24, fd00::1/64", "10.1.0.0/16, 10.2.3.0/24, fd01::/48", "192.0.2.7/32"),
        "wg0",
        HostFacts(endpoint_mtus=(1400, 1500)),
    )
    assert texts(planned) == [
        "ip -4 address add 10.0.0.1/24 dev wg0",
        "ip -6 address add fd00::1/64 dev wg0",
        "ip link set mtu 1420 up dev wg0",
        "ip -6 route add fd01::/48 dev wg0",
        "ip -4 route add 192.0.2.7/32 dev wg0",
        "ip -4 route add 10.2.3.0/24 dev wg0",
        "ip -4 route add 10.1.0.0/16 dev wg0",
    ]
    assert (planned.mtu, planned.fwmark, planned.warnings) == (1420, 0, ())
    assert planned.lines()[0] == "[#] ip -4 address add 10.0.0.1/24 dev wg0"
    assert [str(command) for command in planned.undo_commands()] == [
        "ip -4 route del 10.1.0.0/16 dev wg0",
        "ip -4 route del 10.2.3.0/24 dev wg0",
        "ip -4 route del 192.0.2.7/32 dev wg0",
        "ip -6 route del fd01::/48 dev wg0",
        "ip link set down dev wg0",
        "ip -6 address del fd00::1/64 dev wg0",
        "ip -4 address del 10.0.0.1/24 dev wg0",
    ]
    assert [str(command) for command in planned.undo_commands(1)] == ["ip -4 address del 10.0.0.1/24 dev wg0"]
    assert planned.undo_commands(0) == ()


@pytest.mark.parametrize(
    ("address", "allowed", "routed"),
    [
        ("10.0.0.1/24", "10.0.0.2/32", False),
        ("10.0.0.1/24", "10.0.0.0/24", False),
        ("10.0.0.1/24", "10.0.0.0/23", True),
        ("10.0.0.1/32", "10.0.0.1/32", True),
        ("fd00::1/64", "fd00::2/128", False),
        ("fd00::1/128", "fd00::1/128", False),
        ("fd00::1/64", "10.0.0.2/32", True),
        ("10.0.0.1/24", "::/1", True),
    ],
)
def test_what_an_address_connects_needs_no_route(address: str, allowed: str, routed: bool) -> None:
    planned = plan(config(f"Address = {address}", allowed), "wg0", HostFacts())
    assert any(" route add " in text for text in texts(planned)) is routed


@pytest.mark.parametrize(
    ("settings", "facts", "mtu"),
    [
        ("MTU = 1280", HostFacts((1500,)), 1280),
        ("", HostFacts((1500, 9000, 1400)), 8920),
        ("", HostFacts((), 1400), 1320),
        ("", HostFacts(), 1420),
        ("", HostFacts((65536,)), 65456),
        ("", HostFacts((100,)), 68),
    ],
)
def test_mtu(settings: str, facts: HostFacts, mtu: int) -> None:
    assert interface_mtu(config(settings), facts) == mtu


def test_default_route_gets_table_mark_rules_firewall() -> None:
    planned = plan(
        config("Address = 10.0.0.1/24", "0.0.0.0/0, ::/0, 10.9.0.0/16"), "wg0", HostFacts(free_table=51822)
    )
    assert planned.fwmark == 51822
    commands = planned.commands()
    assert [str(command).partition(" <<")[0] for command in commands] == [
        "ip -4 address add 10.0.0.1/24 dev wg0",
        "ip link set mtu 1420 up dev wg0",
        "ip -4 route add 10.9.0.0/16 dev wg0",
        "ip -6 route add ::/0 dev wg0 table 51822",
        "ip -6 rule add not fwmark 51822 table 51822",
        "ip -6 rule add table main suppress_prefixlength 0",
        "nft -f -",
        "ip -4 route add 0.0.0.0/0 dev wg0 table 51822",
        "ip -4 rule add not fwmark 51822 table 51822",
        "ip -4 rule add table main suppress_prefixlength 0",
        "sysctl -q net.ipv4.conf.all.src_valid_mark=1",
        "nft -f -",
    ]
    nft6, nft4 = (command.stdin for command in commands if command.argv[0] == "nft")
    assert 'iifname != "wg0" ip daddr 10.0.0.1 fib saddr type != local drop\n' in nft4
    assert "postmangle meta l4proto udp mark 51822 ct mark set mark\n" in nft4
    assert "daddr" not in nft6
    undo = [str(command).replace("\n", " ") for command in planned.undo_commands()]
    assert undo[0] == "nft -f - <<'EOF' delete table ip udpring-wg0 EOF"
    assert "ip -4 rule del not fwmark 51822 table 51822" in undo


def test_configured_mark_names_the_table() -> None:
    """A sysctl that already has the value is left alone."""
    planned = plan(config("FwMark = 0x7", "0.0.0.0/0"), "wg0", HostFacts(free_table=9, src_valid_mark=True))
    assert planned.fwmark == 7
    assert "ip -4 rule add not fwmark 7 table 7" in texts(planned)
    assert not any("sysctl" in text for text in texts(planned))


def test_firewall_uses_iptables_without_nft() -> None:
    """Without both there is a warning."""
    asked = config("Address = 10.0.0.1/24, fd00::1/64", "0.0.0.0/0, ::/0")
    found = [c for c in plan(asked, "wg0", HostFacts(firewall="iptables")).steps if "-n" in c.do.argv]
    assert [step.do.argv[0] for step in found] == ["ip6tables-restore", "iptables-restore"]
    assert "-I PREROUTING ! -i wg0 -d fd00::1 -m addrtype" in found[0].do.stdin
    assert found[0].undo is not None
    assert found[0].undo.stdin == found[0].do.stdin.replace("-I ", "-D ")
    without = plan(asked, "wg0", HostFacts(firewall=None))
    assert "neither nft nor iptables" in without.warnings[0]
    assert plan(config("", "10.0.0.0/8"), "wg0", HostFacts(firewall=None)).warnings == ()


def test_nft_table_name_escapes_interface_name() -> None:
    planned = plan(config("Address = 10.0.0.1/24", "0.0.0.0/0"), "a+b=c", HostFacts())
    (nft,) = (command for command in planned.commands() if command.argv[0] == "nft")
    assert "add table ip udpring-a_b_c\n" in nft.stdin
    assert 'iifname != "a+b=c"' in nft.stdin


@pytest.mark.parametrize("table", ["1234", "main"])
def test_configured_table_takes_routes_without_rules(table: str) -> None:
    asked = config(f"Address = 10.0.0.1/24\nTable = {table}", "0.0.0.0/0, 10.0.0.2/32")
    planned = plan(asked, "wg0", HostFacts())
    assert texts(planned)[2:] == [
        f"ip -4 route add 10.0.0.2/32 dev wg0 table {table}",
        f"ip -4 route add 0.0.0.0/0 dev wg0 table {table}",
    ]
    assert planned.fwmark == 0


def test_table_off_is_no_routes() -> None:
    planned = plan(config("Table = off", "0.0.0.0/0, 10.0.0.0/8"), "wg0", HostFacts())
    assert texts(planned) == ["ip link set mtu 1420 up dev wg0"]
    assert planned.fwmark == 0


def test_dns_by_resolvconf() -> None:
    asked = config("DNS = 1.1.1.1, example.org, fd00::53, ~corp.example, fe80::1%eth0, ~.")
    step = plan(asked, "wg0", HostFacts(resolvconf="tun.wg0", resolvectl=True)).steps[-1]
    assert step == Step(
        Command(
            ("resolvconf", "-a", "tun.wg0", "-m", "0", "-x"),
            "nameserver 1.1.1.1\nnameserver fd00::53\nnameserver fe80::1%eth0\n"
            "search example.org ~corp.example ~.\n",
        ),
        Command(("resolvconf", "-d", "tun.wg0", "-f")),
    )


@pytest.mark.parametrize(
    ("dns", "domains"),
    [("", "~."), (", example.org, ~corp.example", "example.org ~corp.example ~."), (", ~.", "~.")],
)
def test_dns_by_resolvectl_takes_every_name(dns: str, domains: str) -> None:
    planned = plan(config(f"DNS = 1.1.1.1, fe80::1%eth0{dns}"), "wg0", HostFacts(resolvectl=True))
    assert texts(planned)[1:] == [
        "resolvectl dns wg0 1.1.1.1 fe80::1%eth0",
        " ".join(f"'{word}'" if "~" in word else word for word in f"resolvectl domain wg0 {domains}".split()),
    ]
    assert str(planned.undo_commands()[0]) == "resolvectl revert wg0"


def test_dns_that_cannot_be_set_is_a_failure() -> None:
    with pytest.raises(HostError, match="neither resolvconf nor resolvectl"):
        plan(config("DNS = 1.1.1.1"), "wg0", HostFacts())


def test_search_domains_alone_set_nothing() -> None:
    planned = plan(config("DNS = example.org"), "wg0", HostFacts(resolvconf="wg0"))
    assert len(planned.steps) == 1
    assert "no server" in planned.warnings[0]


# --- running a plan on a host that only records ---


class Host:
    """Replaces subprocess: records commands and fails at the one that the test names."""

    def __init__(self, fail: str = "", error: str = "RTNETLINK answers: File exists") -> None:
        self.fail = fail
        self.error = error
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(
        self,
        argv: Sequence[str],
        stdin: str = "",
        timeout: float | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        lines = stdin.splitlines()
        self.calls.append((" ".join(argv), lines))
        for number, line in enumerate(lines, 1):
            if self.fail and self.fail in line and "-force" not in argv:
                text = f"{self.error}\nCommand failed -:{number}\n"
                return subprocess.CompletedProcess(argv, 1, "", text)
        return subprocess.CompletedProcess(argv, 0, "", "")


PLANNED = plan(
    config("Address = 10.0.0.1/24, 10.0.1.1/24, fd00::1/64", "10.1.0.0/16, 10.2.0.0/16"), "wg0", HostFacts()
)


def test_one_ip_process_for_each_run_of_one_family(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    monkeypatch.setattr(interface_setup, "_run", host)
    setup = Setup(PLANNED, prefix=("in", "there"))
    setup.apply()
    assert host.calls == [
        ("in there ip -4 -batch -", ["address add 10.0.0.1/24 dev wg0", "address add 10.0.1.1/24 dev wg0"]),
        ("in there ip -6 -batch -", ["address add fd00::1/64 dev wg0"]),
        ("in there ip -batch -", ["link set mtu 1420 up dev wg0"]),
        ("in there ip -4 -batch -", ["route add 10.1.0.0/16 dev wg0", "route add 10.2.0.0/16 dev wg0"]),
    ]
    host.calls.clear()
    setup.undo()
    assert [line for _, lines in host.calls for line in lines] == [
        "route del 10.2.0.0/16 dev wg0",
        "route del 10.1.0.0/16 dev wg0",
        "link set down dev wg0",
        "address del fd00::1/64 dev wg0",
        "address del 10.0.1.1/24 dev wg0",
        "address del 10.0.0.1/24 dev wg0",
    ]
    assert all("-force -batch -" in argv for argv, _ in host.calls)
    host.calls.clear()
    setup.undo()
    assert host.calls == []


@pytest.mark.parametrize("at", range(6))
def test_failure_takes_back_only_what_was_done(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    commands = PLANNED.commands()
    failing = (
        " ".join(commands[at].argv).partition(" -6 ")[2] or " ".join(commands[at].argv).partition(" -4 ")[2]
    )
    failing = failing or "link set"
    host = Host(failing)
    monkeypatch.setattr(interface_setup, "_run", host)
    with pytest.raises(HostError) as caught:
        Setup(PLANNED).apply()
    assert str(caught.value).startswith(f"{' '.join(commands[at].argv)}: RTNETLINK answers: File exists (")
    undone = [line for argv, lines in host.calls if "-force" in argv for line in lines]
    expected = [" ".join(command.argv).split("ip ")[1] for command in PLANNED.undo_commands(at)]
    assert undone == [text.removeprefix("-4 ").removeprefix("-6 ") for text in expected]


def test_no_right_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        interface_setup, "_run", Host("address", "RTNETLINK answers: Operation not permitted")
    )
    with pytest.raises(HostError, match=r"\(run this as root\)"):
        Setup(PLANNED).apply()


def test_missing_or_hanging_program_is_reported() -> None:
    with pytest.raises(HostError, match=r"udpring-none is not installed \(install it"):
        interface_setup._run(("udpring-none",))
    with pytest.raises(HostError, match=r"did not end within 0\.2 s"):
        interface_setup._run((sys.executable, "-P", "-c", "import signal; signal.pause()"), timeout=0.2)
