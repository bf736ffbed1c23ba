"""The plan for a node's interface on the host: addresses, MTU, routes, rules, firewall, DNS.

This module only plans: it turns a configuration and facts about the host into commands, in the order of
``wg-quick`` (wg-quick(8), ``src/wg-quick/linux.bash``). ``interface_setup`` gathers the facts and runs the
plan. The order:

1. addresses; 2. MTU and up; 3. DNS; 4. routes, the longest prefixes first. A default route (``/0``) with
   ``Table = auto`` goes to a table of its own. Packets without the node's mark use that table first, and the
   main table only where it has more than a default route. A small firewall keeps the mark of replies and
   drops packets to the tunnel's addresses that do not come through the tunnel.

Each step has the command that takes it back. Deleting the interface would undo most of them. Undoing all
leaves nothing behind.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from udpring.errors import HostError
from udpring.tunnel.config import MAX_MTU, MIN_MTU, Config, InterfaceAddress, InterfaceConfig, Network

__all__ = [
    "FIRST_TABLE",
    "Command",
    "Firewall",
    "HostFacts",
    "Plan",
    "Step",
    "interface_mtu",
    "keep_unset",
    "needs_default_table",
    "plan",
    "route_step",
]

FIRST_TABLE = 51820
"""The first routing table, and mark, that is tried for a default route."""

OVERHEAD = 80
"""Bytes that the tunnel adds to a packet at most: IPv6 40, UDP 8, WireGuard header and tag 32."""

DEFAULT_PATH_MTU = 1500

Firewall: TypeAlias = Literal["nft", "iptables"]

_TABLE_NAME = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Command:
    """One program to run; ``stdin`` is its standard input."""

    argv: tuple[str, ...]
    stdin: str = ""

    def __str__(self) -> str:
        text = shlex.join(self.argv)
        return f"{text} <<'EOF'\n{self.stdin}EOF" if self.stdin else text


@dataclass(frozen=True, slots=True)
class Step:
    """A command and the one that takes it back; None: none is needed."""

    do: Command
    undo: Command | None = None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Facts about the host that the plan needs.

    ``endpoint_mtus``: MTUs of the routes to the peers' endpoints; ``default_mtu``: of the default route,
    None without one; ``free_table``: a routing table without routes; ``resolvconf``: the name to give DNS
    servers under, None where there is no resolvconf(8); ``resolvectl``: whether there is resolvectl(1).
    """

    endpoint_mtus: tuple[int, ...] = ()
    default_mtu: int | None = None
    free_table: int = FIRST_TABLE
    firewall: Firewall | None = "nft"
    src_valid_mark: bool = False
    """Whether net.ipv4.conf.all.src_valid_mark is set already: a container may be unable to set it."""
    resolvconf: str | None = None
    resolvectl: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps for one interface.

    ``fwmark`` is the mark that the node needs before the steps run: the configuration's, or the one in the
    rules of a default route. ``warnings`` name the settings that this host cannot have.
    """

    interface: str
    steps: tuple[Step, ...]
    mtu: int
    fwmark: int
    warnings: tuple[str, ...] = ()

    def commands(self) -> tuple[Command, ...]:
        """The commands, in order."""
        return tuple(step.do for step in self.steps)

    def undo_commands(self, done: int | None = None) -> tuple[Command, ...]:
        """The commands that undo the first ``done`` steps (default: all), the last first."""
        return tuple(step.undo for step in reversed(self.steps[:done]) if step.undo is not None)

    def lines(self) -> tuple[str, ...]:
        """For ``--dry-run``: each command as ``wg-quick`` prints it."""
        return tuple(f"[#] {command}" for command in self.commands())


def interface_mtu(config: Config, facts: HostFacts) -> int:
    """The configured MTU, or the widest of the endpoints' routes (as ``wg-quick``), else the default
    route's, less 80."""
    if config.interface.mtu is not None:
        return config.interface.mtu
    path = max(facts.endpoint_mtus, default=0) or facts.default_mtu or DEFAULT_PATH_MTU
    return min(max(path - OVERHEAD, MIN_MTU), MAX_MTU)


def needs_default_table(config: Config) -> bool:
    """Whether a default route leads into the tunnel, so that a table and a mark are needed."""
    prefixes = (network for peer in config.peers for network in peer.allowed_ips)
    return config.interface.table == "auto" and any(network.prefixlen == 0 for network in prefixes)


def plan(config: Config, interface: str, facts: HostFacts, *, alone: bool = False) -> Plan:
    """The steps for ``interface``, which exists, is down, and has no addresses.

    ``alone``: in a network namespace of its own, where the node's sockets are not. Default routes then take
    no table, mark or firewall.

    Raises HostError if the configuration has DNS servers and the host cannot set them: queries would bypass
    the tunnel.
    """
    settings = config.interface
    mtu = interface_mtu(config, facts)
    fwmark = settings.fwmark
    default_table = needs_default_table(config) and not alone
    if default_table and not fwmark:
        fwmark = facts.free_table
    steps = [_address(address, interface) for address in settings.addresses]
    steps.append(_link_up(interface, mtu))
    warnings = []
    if settings.dns:
        steps += _dns(config, interface, facts)
    elif settings.dns_search:
        warnings.append("DNS has search domains and no server: nothing is set, as under wg-quick")
    steps += _routes(config, interface, fwmark, facts, alone)
    if default_table and facts.firewall is None:
        warnings.append(
            "no firewall for the default route: this host has neither nft nor iptables (install nftables)"
        )
    return Plan(interface, tuple(steps), mtu, fwmark, tuple(warnings))


# --- steps ---


def _ip(version: int | None, *words: object) -> Command:
    family = () if version is None else (f"-{version}",)
    return Command(("ip", *family, *map(str, words)))


def _address(address: InterfaceAddress, interface: str) -> Step:
    words = (address.with_prefixlen, "dev", interface)
    version = address.version
    return Step(_ip(version, "address", "add", *words), _ip(version, "address", "del", *words))


def _link_up(interface: str, mtu: int) -> Step:
    return Step(
        _ip(None, "link", "set", "mtu", mtu, "up", "dev", interface),
        _ip(None, "link", "set", "down", "dev", interface),
    )


def _dns(config: Config, interface: str, facts: HostFacts) -> Iterator[Step]:
    """The tunnel's servers before all others (``-m 0``) and instead of them (``-x``)."""
    settings = config.interface
    if facts.resolvconf is not None:
        name = facts.resolvconf
        text = "".join(f"nameserver {address}\n" for address in settings.dns)
        if settings.dns_search:
            text += f"search {' '.join(settings.dns_search)}\n"
        yield Step(
            Command(("resolvconf", "-a", name, "-m", "0", "-x"), text),
            Command(("resolvconf", "-d", name, "-f")),
        )
    elif facts.resolvectl:
        # The domain "~." sends every name to these servers, as resolvectl does for resolvconf's -x.
        domains = dict.fromkeys((*settings.dns_search, "~."))
        revert = Command(("resolvectl", "revert", interface))
        yield Step(Command(("resolvectl", "dns", interface, *map(str, settings.dns))), revert)
        yield Step(Command(("resolvectl", "domain", interface, *domains)))
    else:
        raise HostError(
            "DNS cannot be set: this host has neither resolvconf nor resolvectl",
            cure="apt-get install openresolv, or take DNS out of the configuration",
        )


def _route(network: Network, interface: str, table: object = None) -> Step:
    words = (network, "dev", interface, *(() if table is None else ("table", table)))
    version = network.version
    return Step(_ip(version, "route", "add", *words), _ip(version, "route", "del", *words))


def _routes(config: Config, interface: str, fwmark: int, facts: HostFacts, alone: bool) -> Iterator[Step]:
    table = config.interface.table
    if table == "off":
        return
    networks = {network for peer in config.peers for network in peer.allowed_ips}
    for network in sorted(networks, key=lambda n: (-n.prefixlen, -n.version, n.network_address.packed)):
        if table == "auto" and network.prefixlen == 0 and alone:
            yield _route(network, interface)
        elif table == "auto" and network.prefixlen == 0:
            yield from _default_route(config, network, interface, fwmark, facts)
        elif (step := route_step(config.interface, network, interface)) is not None:
            yield step


def route_step(settings: InterfaceConfig, network: Network, interface: str) -> Step | None:
    """The one route of an allowed IP. None where it needs none, or is a default route, which has steps of
    its own."""
    if settings.table == "off":
        return None
    if settings.table != "auto":
        return _route(network, interface, settings.table)
    if network.prefixlen == 0 or _connected(network, settings.addresses):
        return None
    return _route(network, interface)


def _connected(network: Network, addresses: Iterable[InterfaceAddress]) -> bool:
    """Whether the kernel has this route already because of an address of the interface (IPv4 makes none for a
    /32)."""
    for address in addresses:
        routed = address.network
        if isinstance(routed, ipaddress.IPv4Network):
            if (
                isinstance(network, ipaddress.IPv4Network)
                and routed.prefixlen < 32
                and network.subnet_of(routed)
            ):
                return True
        elif isinstance(network, ipaddress.IPv6Network) and network.subnet_of(routed):
            return True
    return False


def _default_route(
    config: Config, network: Network, interface: str, table: int, facts: HostFacts
) -> Iterator[Step]:
    version = network.version
    yield _route(network, interface, table)
    for rule in (
        ("not", "fwmark", table, "table", table),
        ("table", "main", "suppress_prefixlength", 0),
    ):
        yield Step(_ip(version, "rule", "add", *rule), _ip(version, "rule", "del", *rule))
    addresses = [str(address.ip) for address in config.interface.addresses if address.version == version]
    if version == 4 and not facts.src_valid_mark:
        # Replies carry the mark too; without this, reverse path filtering drops them.
        yield Step(Command(("sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=1")))
    if facts.firewall == "nft":
        yield _nft(interface, "ip" if version == 4 else "ip6", addresses, table)
    elif facts.firewall == "iptables":
        yield _iptables(interface, "iptables" if version == 4 else "ip6tables", addresses, table)


def _nft(interface: str, family: str, addresses: Iterable[str], mark: int) -> Step:
    name = f"{family} {_TABLE_NAME.sub('_', f'udpring-{interface}')}"
    lines = [
        f"add table {name}",
        f"add chain {name} preraw {{ type filter hook prerouting priority -300; }}",
        f"add chain {name} premangle {{ type filter hook prerouting priority -150; }}",
        f"add chain {name} postmangle {{ type filter hook postrouting priority -150; }}",
    ]
    lines += [
        f'add rule {name} preraw iifname != "{interface}" {family} daddr {address} '
        "fib saddr type != local drop"
        for address in addresses
    ]
    lines += [
        f"add rule {name} postmangle meta l4proto udp mark {mark} ct mark set mark",
        f"add rule {name} premangle meta l4proto udp meta mark set ct mark",
    ]
    text = "".join(f"{line}\n" for line in lines)
    return Step(Command(("nft", "-f", "-"), text), Command(("nft", "-f", "-"), f"delete table {name}\n"))


def _iptables(interface: str, program: str, addresses: Iterable[str], mark: int) -> Step:
    comment = f'-m comment --comment "udpring rule for {interface}"'
    raw = [
        f"PREROUTING ! -i {interface} -d {address} -m addrtype ! --src-type LOCAL -j DROP {comment}"
        for address in addresses
    ]
    mangle = [
        f"POSTROUTING -m mark --mark {mark} -p udp -j CONNMARK --save-mark {comment}",
        f"PREROUTING -p udp -j CONNMARK --restore-mark {comment}",
    ]

    def restore(how: str) -> Command:
        lines = ["*raw", *(f"{how} {rule}" for rule in raw), "COMMIT"]
        lines += ["*mangle", *(f"{how} {rule}" for rule in mangle), "COMMIT"]
        return Command((f"{program}-restore", "-n"), "".join(f"{line}\n" for line in lines))

    return Step(restore("-I"), restore("-D"))


def keep_unset(config: Config, live: Plan) -> Config:
    """Keeps the MTU and the mark that were chosen before. A new look-up would find routes through the tunnel
    itself."""
    settings = config.interface
    return replace(
        config,
        interface=replace(
            settings,
            mtu=live.mtu if settings.mtu is None else settings.mtu,
            fwmark=settings.fwmark or (live.fwmark if needs_default_table(config) else 0),
        ),
    )
