"""Gathers facts about the host for an interface's plan, and runs the plan, with as few ``ip -batch`` as
possible.

``gather`` -> ``interface.plan`` -> ``Setup.apply``; later ``Setup.undo``. Needs iproute2 and the right to
administer the network. A failure is taken back and raised as HostError. Programs block the caller: in an
event loop, call it in a thread.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from udpring.errors import HostError
from udpring.tunnel.config import Config, InterfaceConfig, IPAddress, Network
from udpring.tunnel.interface import (
    FIRST_TABLE,
    Command,
    Firewall,
    HostFacts,
    Plan,
    Step,
    needs_default_table,
    route_step,
)
from udpring.tunnel.refusals import cure_of

__all__ = ["Setup", "gather"]

_log = logging.getLogger(__name__)

_TIMEOUT = 30.0
_TABLES_TRIED = 1000
_RESOLVCONF_ORDER = Path("/etc/resolvconf/interface-order")
_FAILED_LINE = re.compile(r"^Command failed -:(\d+)\s*$", re.MULTILINE)
_PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "sysctl": "procps",
    "resolvconf": "openresolv",
    "resolvectl": "systemd-resolved",
}


def _run(
    argv: Sequence[str], stdin: str = "", timeout: float | None = _TIMEOUT, pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end. Raises HostError where it cannot be started or does not end."""
    try:
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            pass_fds=pass_fds,
        )  # fmt: skip
    except FileNotFoundError:
        package = _PACKAGES.get(argv[0], argv[0])
        raise HostError(
            f"{argv[0]} is not installed", cure=f"install it: apt-get install {package}"
        ) from None
    except PermissionError as failed:
        raise HostError(
            f"no right to run {argv[0]}", errno=failed.errno or 0, cure="run this as root"
        ) from None
    except OSError as failed:
        number = failed.errno or 0
        raise HostError(
            f"{argv[0]} cannot be started: {failed.strerror}", errno=number, cure=cure_of(number)
        ) from None
    except subprocess.TimeoutExpired:
        raise HostError(
            f"{argv[0]} did not end within {timeout:g} s", cure="run it by hand to see why"
        ) from None


# --- facts ---


def _ask(prefix: Sequence[str], *words: str, pass_fds: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The output of ``ip -json``. Empty if it fails (no such table, no route)."""
    done = _run((*prefix, "ip", "-json", *words), pass_fds=pass_fds)
    if done.returncode:
        return []
    try:
        found = json.loads(done.stdout or "[]")
    except ValueError:
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _shown(entries: Iterable[dict[str, Any]], family: str) -> Iterator[str]:
    """The addresses and the destinations of routes in the output of ``ip -json``, as plans have them."""
    every, host = ("0.0.0.0/0", "/32") if family == "-4" else ("::/0", "/128")
    for entry in entries:
        for each in entry.get("addr_info", ()):
            yield f"{each.get('local')}/{each.get('prefixlen')}"
        destination = str(entry.get("dst", ""))
        if destination == "default":
            yield every
        elif destination:
            yield destination if "/" in destination else destination + host


def _route_mtu(prefix: Sequence[str], route: dict[str, Any]) -> int:
    """The MTU of the route itself, or of its device. 0 if neither is known."""
    for metric in route.get("metrics", ()):
        if isinstance(metric.get("mtu"), int):
            return int(metric["mtu"])
    links = _ask(prefix, "link", "show", "dev", str(route["dev"])) if "dev" in route else []
    return int(links[0].get("mtu", 0)) if links else 0


def _endpoint_mtu(prefix: Sequence[str], address: IPAddress) -> int:
    words = [str(address)]
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        words = [str(address).partition("%")[0], "dev", address.scope_id]
    routes = _ask(prefix, "route", "get", *words)
    return _route_mtu(prefix, routes[0]) if routes else 0


def _free_table(prefix: Sequence[str]) -> int:
    for table in range(FIRST_TABLE, FIRST_TABLE + _TABLES_TRIED):
        if not any(_ask(prefix, family, "route", "show", "table", str(table)) for family in ("-4", "-6")):
            return table
    raise HostError(
        f"the routing tables {FIRST_TABLE} to {FIRST_TABLE + _TABLES_TRIED - 1} are all in use",
        cure="set FwMark to the number of a free one, or Table = off",
    )


def _firewall() -> Firewall | None:
    if shutil.which("nft"):
        return "nft"
    return "iptables" if shutil.which("iptables-restore") else None


def _src_valid_mark(prefix: Sequence[str]) -> bool:
    return _run((*prefix, "sysctl", "-n", "net.ipv4.conf.all.src_valid_mark")).stdout.strip() == "1"


def _resolvconf(interface: str) -> str | None:
    """The name for resolvconf(8): Debian's orders interfaces by patterns and expects ``tun.wg0``."""
    if not shutil.which("resolvconf"):
        return None
    try:
        order = _RESOLVCONF_ORDER.read_text(errors="replace")
    except OSError:
        return interface
    found = re.search(r"^([A-Za-z0-9-]+)\*$", order, re.MULTILINE)
    return f"{found.group(1)}.{interface}" if found else interface


def gather(
    config: Config, interface: str, endpoints: Iterable[IPAddress] = (), prefix: Sequence[str] = ()
) -> HostFacts:
    """The facts for ``interface.plan``.

    ``endpoints`` are the peers' addresses, host names resolved; without any, those that are numeric in the
    configuration. ``prefix`` goes before every command, such as ``("ip", "netns", "exec", NAME)``.
    """
    addresses = list(endpoints)
    if not addresses:
        hosts = (endpoint.address for peer in config.peers for endpoint in peer.endpoints)
        addresses = [host for host in hosts if host is not None]
    mtus: tuple[int, ...] = ()
    default_mtu = None
    if config.interface.mtu is None:
        mtus = tuple(mtu for mtu in (_endpoint_mtu(prefix, a) for a in dict.fromkeys(addresses)) if mtu)
        default = _ask(prefix, "route", "show", "default") if not mtus else []
        default_mtu = _route_mtu(prefix, default[0]) or None if default else None
    default_table = needs_default_table(config)
    return HostFacts(
        endpoint_mtus=mtus,
        default_mtu=default_mtu,
        free_table=_free_table(prefix) if default_table and not config.interface.fwmark else FIRST_TABLE,
        firewall=_firewall() if default_table else None,
        src_valid_mark=_src_valid_mark(prefix) if default_table else False,
        resolvconf=_resolvconf(interface) if config.interface.dns else None,
        resolvectl=shutil.which("resolvectl") is not None,
    )


# --- running ---


def _batch_key(command: Command) -> tuple[str, ...]:
    """Equal for commands that one ``ip -batch`` can run: the options before the object."""
    if command.argv[0] != "ip":
        return ()
    return tuple(word for word in command.argv[:2] if word == "ip" or word.startswith("-"))


class Setup:
    """Applies one plan, and later changes of it. Use it in one thread at a time.

    ``prefix`` goes before every command; ``pass_fds``: descriptors that it names.
    """

    def __init__(self, plan: Plan, prefix: Sequence[str] = (), pass_fds: Sequence[int] = ()) -> None:
        self.plan = plan
        self.prefix = tuple(prefix)
        self.pass_fds = tuple(pass_fds)
        self._done: dict[Step, None] = {}

    def apply(self) -> None:
        """Runs every step, or none: a failure takes back the steps before it and raises HostError."""
        try:
            self._do([step for step in self.plan.steps if step not in self._done])
        except BaseException:
            self.undo()
            raise

    def change(self, plan: Plan) -> None:
        """Changes to another plan. First undoes the steps that are not in it, then runs the new ones. A new
        address or route that somebody has already made by hand counts as done, and ``down`` removes it.
        Raises HostError when a new step fails, after it has undone the new steps before that one."""
        wanted = set(plan.steps)
        added = [step for step in plan.steps if step not in self._done]
        gone = [step for step in self._done if step not in wanted]
        # An added step that would be undone the same way (another MTU) takes the place of the old one.
        replaced = {step.undo for step in added}
        self._take_back([step for step in gone if step.undo not in replaced])
        self._done.update(dict.fromkeys(self._made_by_hand(added)))
        added = [step for step in added if step not in self._done]
        for step in gone:
            self._done.pop(step, None)
        self.plan = replace(plan, steps=tuple(self._done))
        self._add(added)
        self.plan, self._done = plan, dict.fromkeys(plan.steps)

    def set_routes(
        self, settings: InterfaceConfig, added: Sequence[Network], removed: Sequence[Network]
    ) -> bool:
        """Adds and removes the routes of these allowed IPs, outside the plan. The cost does not depend on the
        other steps. Raises HostError where a route is refused; the routes are then as before. False: one is
        a default route, which takes another plan."""
        if settings.table == "auto" and any(network.prefixlen == 0 for network in (*added, *removed)):
            return False
        name = self.plan.interface
        gone = [step for each in removed if (step := route_step(settings, each, name)) in self._done and step]
        new = [
            step for each in added if (step := route_step(settings, each, name)) and step not in self._done
        ]
        self._take_back(gone)
        try:
            self._add(new)
        except BaseException:
            self._add(gone)
            raise
        return True

    def undo(self) -> None:
        """Takes back the steps, the last first. Steps that went with the interface are skipped."""
        self._take_back(list(self._done))

    def _made_by_hand(self, steps: Sequence[Step]) -> list[Step]:
        """The steps whose address or route the interface has already."""
        made: dict[tuple[str, ...], set[str]] = {}
        found = []
        for step in steps:
            match step.do.argv:
                case ("ip", family, "address", "add", wanted, *dev):
                    key: tuple[str, ...] = (family, "address", "show", *dev)
                case ("ip", family, "route", "add", wanted, *dev):
                    key = (family, "route", "show", *dev)
                case _:
                    continue
            if key not in made:
                made[key] = set(_shown(_ask(self.prefix, *key, pass_fds=self.pass_fds), family))
            if wanted in made[key]:
                found.append(step)
        return found

    def _add(self, steps: Sequence[Step]) -> None:
        """Runs all steps or none."""
        try:
            self._do(steps)
        except BaseException:
            self._take_back([step for step in steps if step in self._done])
            raise

    def _do(self, steps: Sequence[Step]) -> None:
        for key, group in groupby(steps, lambda step: _batch_key(step.do)):
            together = list(group)
            for run in [together] if key else [[step] for step in together]:
                self._run_together(key, run)

    def _take_back(self, steps: Sequence[Step]) -> None:
        for step in steps:
            del self._done[step]
        commands = [step.undo for step in reversed(steps) if step.undo is not None]
        for key, group in groupby(commands, _batch_key):
            batch = list(group)
            try:
                if key:
                    self._run((*key, "-force", "-batch", "-"), _batch_text(key, batch))
                else:
                    for command in batch:
                        self._run(command.argv, command.stdin)
            except HostError as failed:
                _log.warning("%s: %s", self.plan.interface, failed)

    def _run(self, argv: Sequence[str], stdin: str) -> subprocess.CompletedProcess[str]:
        return _run((*self.prefix, *argv), stdin, pass_fds=self.pass_fds)

    def _run_together(self, key: tuple[str, ...], steps: Sequence[Step]) -> None:
        commands = [step.do for step in steps]
        if key:
            done = self._run((*key, "-batch", "-"), _batch_text(key, commands))
        else:
            done = self._run(commands[0].argv, commands[0].stdin)
        if done.returncode == 0:
            self._done.update(dict.fromkeys(steps))
            return
        failed = _FAILED_LINE.search(done.stderr)
        before = min(int(failed.group(1)) - 1, len(commands) - 1) if failed else 0
        self._done.update(dict.fromkeys(steps[:before]))
        why = " ".join(_FAILED_LINE.sub("", done.stderr).split()) or f"exit code {done.returncode}"
        denied = "permitted" in why or "denied" in why
        raise HostError(
            f"{' '.join(commands[before].argv)}: {why}",
            cure="run this as root" if denied else "correct the configuration and try again",
        )


def _batch_text(key: tuple[str, ...], commands: Iterable[Command]) -> str:
    return "".join(f"{' '.join(command.argv[len(key) :])}\n" for command in commands)
