"""Configurations for the comparison of wg-quick and udpring: selected by hand, and generated from a seed.

``{K}`` is a private key, ``{P}`` and ``{Q}`` are public keys of peers, ``{S}`` is a preshared key. A hook
writes its environment to ``hooks`` in the caller's directory.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

FILLED = {
    "{K}": "EL+Eafqe+EhU5LXY8tvQ7dLRxaiGtl/u8FU8EvXQD1I=",
    "{P}": "ldZQCQWvd/wpsE3v81JEhLs07z5o3KyFIsg4MFeFwlM=",
    "{Q}": "QMdqAPAUt1Dlw0xZRhRkbyNYXDCDLkhHHdG6aYqVxFE=",
    "{S}": "RuOamyQ6g9NBD19G+A6Gq7caJe0leniXfYuWj/+4nbg=",
}
KEY = "PrivateKey = {K}\n"
PEER = "[Peer]\nPublicKey = {P}\nEndpoint = 192.0.2.9:51820\nAllowedIPs = "


@dataclass(frozen=True)
class Case:
    """One file and the actions around it.

    ``resolver``: the exit code of a resolvconf that records its calls. None: the host has none.
    ``hidden``: programs that the host lacks. ``before`` runs before up, ``between`` while it is up.
    ``rewritten`` is the file that down finds, ``suffix`` the end of the interface's name.
    ``fails``: up must fail.
    ``userspace``: only if wg-quick finds no WireGuard in the kernel. ``differs``: the parts of the picture
    that differ, and ``row`` the row of docs/wg-quick.md with the reason.
    """

    name: str
    text: str
    resolver: int | None = None
    hidden: tuple[str, ...] = ()
    ipv6: bool = False
    mode: int = 0o600
    suffix: str = ""
    userspace: bool = False
    before: str = ""
    between: str = ""
    rewritten: str | None = None
    twice: bool = False
    fails: bool = False
    differs: tuple[str, ...] = ()
    row: str = ""

    def filled(self, text: str) -> str:
        for name, value in FILLED.items():
            text = text.replace(name, value)
        return text


def interface(more: str = "", address: str = "10.9.0.1/24", key: str = KEY) -> str:
    return f"[Interface]\n{key}{f'Address = {address}' if address else ''}\n{more}\n"


def both(more: str, allowed: str = "10.8.0.0/16", **options: str) -> str:
    """An interface and one peer."""
    return f"{interface(more, **options)}{PEER}{allowed}\n"


HOOKS = "".join(
    f"{key} = echo {key} $INTERFACE >> hooks\n" for key in ("PreUp", "PostUp", "PreDown", "PostDown")
)


def picked() -> Iterator[Case]:
    yield from _hooks()
    yield from _dns()
    yield from _values()
    yield from _routes()
    yield from _life()
    yield from _syntax()
    yield from _different()


def _hooks() -> Iterator[Case]:
    yield Case("hooks-all", both(HOOKS))
    for name, hook in {
        "false-then-echo": "false; echo opened >> hooks",
        "pipe": "false | true",
        "and-list": "[ -e /no-such-file ] && echo found >> hooks",
        "or-list": "false || echo saved >> hooks",
        "negated": "! true; echo negated >> hooks",
        "if": "if [ -e /no-such-file ]; then false; fi; echo fine >> hooks",
        "exit-0": "exit 0; echo never >> hooks",
        "exit-7": "exit 7",
        "unknown-command": "no-such-command-anywhere",
        "syntax-error": "if true; echo",
        "subshell": "(false); echo after >> hooks",
        "substitution": "x=$(false); echo after >> hooks",
        "local-substitution": "f() { local x=$(false); echo inside >> hooks; }; f",
        "background": "false & wait; echo after >> hooks",
        "unset-variable": 'echo "[$NO_SUCH]" >> hooks',
        "extglob": "[[ wg12 == wg+([0-9]) ]] && echo matched >> hooks",
        "nocase": "[[ ABC == abc ]] || echo different >> hooks",
        "arrays": 'echo "${ADDRESSES[0]} ${#DNS[@]}" >> hooks',
        "percent": "echo %i %%i %I >> hooks",
        "variables": 'echo "${CONFIG_FILE##*/} $INTERFACE|$MTU|$TABLE" >> hooks',
        "not-exported": "env | grep -c ^INTERFACE= >> hooks || true",
        "locale": "echo $LC_ALL >> hooks; env | grep ^LC_ALL= >> hooks",
        "stdin": "cat >> hooks; echo read >> hooks",
        "cd": "cd /; pwd >> hooks 2>/dev/null || true; cd - >/dev/null; echo back >> hooks",
        "own-set": "set +e; false; echo on >> hooks",
        "flags": "echo $- | tr -d sBc >> hooks; shopt -o pipefail >> hooks",
        "two-lines": "true >> hooks\nPostUp = echo second >> hooks\nPostUp = echo third >> hooks",
        "one-of-two-fails": "echo first >> hooks\nPostUp = false\nPostUp = echo never >> hooks",
        "iptables-like": "ip route add 10.77.0.0/16 dev %i && echo routed >> hooks",
        "route-left": "ip route add blackhole 10.78.0.0/16\nPostDown = ip route del blackhole 10.78.0.0/16",
        "rule-added": "ip rule add to 10.79.0.0/16 table main prio 99\nPreDown = ip rule del prio 99",
        "fwmark": "wg set %i fwmark 0x55; wg show %i fwmark >> hooks",
        "semicolons": ";",
        "brace": "{ false; echo in >> hooks; }; echo out >> hooks",
        "function": "f() { false; echo in >> hooks; }; f || echo caught >> hooks",
        "trap": "trap 'echo left >> hooks' EXIT; false",
    }.items():
        yield Case(f"post-up-{name}", both(f"PostUp = {hook}\nPostDown = echo down >> hooks"))
    yield Case("pre-up-fails", both("PreUp = false; true\nPostDown = echo down >> hooks"))
    yield Case(
        "pre-up-before-the-link", both("PreUp = ip link show dev %i >/dev/null 2>&1 || echo none >> hooks")
    )
    yield Case("pre-up-makes-the-link", both("PreUp = ip link add %i type dummy\nPostUp = echo up >> hooks"))
    yield Case(
        "pre-down-fails", both("PreDown = echo no >> hooks; false; true\nPostDown = echo down >> hooks")
    )
    yield Case("post-down-fails", both("PostDown = false; echo down >> hooks"))
    yield Case(
        "post-down-after-the-link", both("PostDown = ip link show %i 2>/dev/null || echo none >> hooks")
    )
    yield Case(
        "kill-switch-fails",
        both(
            "PostUp = nft add table inet ks; nft add chain inet no-such-table x; echo open >> hooks\n"
            "PostDown = nft delete table inet ks",
            "0.0.0.0/0, ::/0",
        ),
    )
    yield Case(
        "kill-switch",
        both(
            "PostUp = nft add table inet ks\n"
            "PostUp = nft add chain inet ks out '{ type filter hook output priority 0; }'\n"
            "PreDown = nft delete table inet ks",
            "0.0.0.0/0",
        ),
    )
    for key in ("PreUp", "PostUp", "PreDown", "PostDown", "DNS", "MTU", "Table", "Address"):
        yield Case(f"empty-{key}", both(f"{key} ="), resolver=0)
    yield Case("empty-hooks-of-a-generator", both("PreUp = \nPostUp = \nPreDown = \nPostDown = # none"))
    yield Case("key-by-hook", both("PostUp = wg set %i private-key <(echo {K})", key=""))
    yield Case("changed-while-up", both(HOOKS), rewritten=both("PostDown = echo another >> hooks"))


def _dns() -> Iterator[Case]:
    for name, value in {
        "one": "10.9.0.53",
        "two": "10.9.0.53, fd00::53",
        "search": "10.9.0.53, corp.example, example.org",
        "search-first": "corp.example, 10.9.0.53",
        "search-only": "corp.example",
        "routing": "10.9.0.53, ~corp.example, ~.",
        "scoped": "fe80::1%eth0",
        "blanks": "10.9.0.53   fd00::53,,corp.example",
        "twice": "10.9.0.53\nDNS = fd00::53, corp.example",
        "repeated": "10.9.0.53, 10.9.0.53",
        "underscore": "10.9.0.53, _srv.corp.example",
    }.items():
        yield Case(f"dns-{name}", both(f"DNS = {value}\n{HOOKS}"), resolver=0)
    yield Case("dns-no-resolvconf", both(f"DNS = 10.9.0.53\n{HOOKS}"), hidden=("resolvconf", "resolvectl"))
    yield Case("dns-refused", both(f"DNS = 10.9.0.53\n{HOOKS}", "0.0.0.0/0"), resolver=1)
    yield Case(
        "dns-search-only-no-resolvconf", both("DNS = corp.example"), hidden=("resolvconf", "resolvectl")
    )
    yield Case("dns-and-failing-post-up", both("DNS = 10.9.0.53\nPostUp = false"), resolver=0)


def _values() -> Iterator[Case]:
    for name, line in {
        "port": "ListenPort = 40400",
        "port-0": "ListenPort = 0",
        "port-blank-inside": "Listen Port = 40 400",
        "port-by-name": "ListenPort = ntp",
        "mark-hex": "FwMark = 0x99",
        "mark-off": "FwMark = off",
        "mark-big": "FwMark = 0xffffffff",
        "mark-bad": "FwMark = on",
        "mtu": "MTU = 1380",
        "mtu-68": "MTU = 1280",
        "mtu-too-small": "MTU = 10",
        "mtu-twice": "MTU = 1300\nMTU = 1400",
        "mtu-taken-back": "MTU = 1300\nMTU =",
        "table": "Table = 123",
        "table-main": "Table = main",
        "table-0": "Table = 0",
        "table-off": "Table = off",
        "table-auto": "Table = auto",
        "table-bad": "Table = no-such-table",
        "table-taken-back": "Table = off\nTable =",
        "save-config-bad": "SaveConfig = yes",
        "save-config-case": "SAVECONFIG = TRUE",
        "key-case": "listenport = 40402\nmtu = 1300",
        "address-more": "Address = 10.9.1.1/24\nAddress = fd00::1/64, fd00:1::1/128",
        "address-same": "Address = 10.9.0.1/24",
        "address-second-in-net": "Address = 10.9.0.2/24",
        "address-host": "Address = 10.9.5.1",
        "address-host-6": "Address = fd00::1",
        "address-mask": "Address = 10.9.7.1/255.255.255.0",
        "address-31": "Address = 10.9.6.0/31",
        "address-bad": "Address = 10.9.0.300/24",
        "address-blanks": "Address = 10.9.2.1/24 10.9.3.1/24",
        "unknown-key": "ListenPrt = 4",
        "no-equals": "ListenPort",
    }.items():
        yield Case(f"interface-{name}", both(line, "10.8.0.0/16, fd08::/32"))
    for name, more in {
        "psk": "PresharedKey = {S}",
        "psk-empty": "PresharedKey =",
        "keepalive": "PersistentKeepalive = 25",
        "keepalive-off": "PersistentKeepalive = off",
        "keepalive-big": "PersistentKeepalive = 65536",
        "endpoint-6": "Endpoint = [2001:db8::9]:5",
        "endpoint-6-bare": "Endpoint = 2001:db8::9:5",
        "endpoint-by-port-name": "Endpoint = 192.0.2.9:ntp",
        "endpoint-localhost": "Endpoint = localhost:5",
        "endpoint-no-port": "Endpoint = 192.0.2.9",
        "endpoint-empty": "Endpoint =",
        "endpoint-narrow": "Endpoint = 198.51.100.1:5",
        "endpoint-narrow-6": "Endpoint = [2001:db8:1::1]:5",
        "endpoint-blank": "Endpoint = 192.0.2.9 : 5",
        "unknown-key": "AlowedIPs = 10.0.0.0/8",
        "allowed-empty-item": "AllowedIPs = 10.7.0.0/16,",
        "allowed-mask": "AllowedIPs = 10.7.0.0/255.255.0.0",
        "allowed-more": "AllowedIPs = 10.7.0.0/16\nAllowedIPs = 10.6.0.0/16",
    }.items():
        base = both("")
        if name.startswith("endpoint"):
            base = re.sub("Endpoint = .*\n", "", base)  # with a second one the programs differ on purpose
        yield Case(f"peer-{name}", f"{base}{more}\n")
    yield Case("two-sections-of-a-peer", both("") + "PersistentKeepalive = 5\n" + PEER + "10.7.0.0/16\n")
    yield Case("two-sections-endpoint-only", both("") + "[Peer]\nPublicKey = {P}\nEndpoint = 192.0.2.8:6\n")
    yield Case("two-sections-default-route", both("", "0.0.0.0/0") + PEER + "10.7.0.0/16\n")
    yield Case("no-public-key", interface() + "[Peer]\nAllowedIPs = 10.8.0.0/16\n")
    yield Case("key-bad", both("", key="PrivateKey = short\n"))
    yield Case("no-peers", interface())
    yield Case("no-address", both("", address=""))


def _routes() -> Iterator[Case]:
    for name, allowed in {
        "default-4": "0.0.0.0/0",
        "default-6": "::/0",
        "default-both": "0.0.0.0/0, ::/0",
        "default-and-more": "::/0, 10.8.0.0/16, 0.0.0.0/0, fd08::/32",
        "halves": "0.0.0.0/1, 128.0.0.0/1",
        "host-bits": "10.8.1.2/16",
        "same-twice": "10.8.0.0/16, 10.8.0.0/16",
        "nested": "10.0.0.0/8, 10.8.0.0/16, 10.8.1.0/24, 10.8.1.1/32",
        "own-net": "10.9.0.0/24",
        "inside-own-net": "10.9.0.2/32, 10.9.0.128/25",
        "around-own-net": "10.0.0.0/8",
        "own-address": "10.9.0.1/32",
        "outside-net": "192.0.2.0/24",
        "multicast": "224.0.0.0/4, ff00::/8",
        "none": "10.8.0.1/32",
    }.items():
        yield Case(f"routes-{name}", both("", allowed, address="10.9.0.1/24, fd09::1/64"))
    yield Case("routes-default-only-6-address", both("", "::/0", address="fd09::1/64"))
    yield Case("routes-default-two-addresses", both("", "0.0.0.0/0", address="10.9.0.1/24, 10.9.1.1/24"))
    yield Case("routes-default-own-mark", both("FwMark = 0x1234", "0.0.0.0/0, ::/0"))
    yield Case("routes-default-own-table", both("Table = 777", "0.0.0.0/0, ::/0"))
    yield Case("routes-default-table-0", both("Table = 0", "::/0"), before="ip -6 route del default")
    yield Case("routes-default-table-off", both("Table = off", "0.0.0.0/0"))
    taken = "ip route add blackhole 10.66.0.0/16 table 51820\nip -6 route add blackhole fd66::/32 table 51821"
    yield Case("routes-table-taken", both("", "0.0.0.0/0, ::/0"), before=taken)
    yield Case(
        "routes-default-fails", both("", "0.0.0.0/0"), before="ip rule add prio 0 table main", resolver=0
    )
    yield Case("routes-moved-between-peers", both("") + "[Peer]\nPublicKey = {Q}\nAllowedIPs = 10.8.0.0/16\n")
    yield Case("routes-two-peers", both("") + "[Peer]\nPublicKey = {Q}\nAllowedIPs = 10.7.0.0/16, ::/0\n")
    taken = "ip link add d0 type dummy\nip link set d0 up\nip route add 10.8.0.0/16 dev d0"
    yield Case("routes-taken-by-another-link", both(HOOKS), before=taken)
    yield Case(
        "mark-set-before", both("", "0.0.0.0/0"), before="sysctl -qw net.ipv4.conf.all.src_valid_mark=1"
    )
    yield Case("iptables", both("", "0.0.0.0/0, ::/0", address="10.9.0.1/24, fd09::1/64"), hidden=("nft",))
    yield Case("ipv6-only-host", both("", "0.0.0.0/0, ::/0", address="10.9.0.1/24, fd09::1/64"), ipv6=True)
    yield Case("ipv6-only-host-no-endpoint", interface() + "[Peer]\nPublicKey = {P}\n", ipv6=True)
    yield Case("no-default-route", both("").replace("Endpoint", "#"), before="ip route del default")
    yield Case(
        "mtu-of-the-default-route",
        both("").replace("Endpoint", "#"),
        before="ip route replace default via 192.0.2.254 mtu 1350",
    )
    wide = both("") + "[Peer]\nPublicKey = {Q}\nEndpoint = 198.51.100.1:5\n"
    yield Case("mtu-of-the-widest-route", wide)
    yield Case("mtu-of-the-loopback", both("").replace("192.0.2.9", "127.0.0.1"))


def _life() -> Iterator[Case]:
    yield Case("up-twice", both(HOOKS), twice=True)
    yield Case("up-twice-default", both(HOOKS, "0.0.0.0/0, ::/0"), twice=True)
    yield Case("link-exists", both(HOOKS), before="ip link add $NAME type dummy")
    yield Case("peer-removed-while-up", both(HOOKS), between="wg set $NAME peer {P} remove")
    yield Case("address-removed-while-up", both(HOOKS), between="ip address flush dev $NAME")
    yield Case("route-removed-while-up", both(HOOKS), between="ip route del 10.8.0.0/16 dev $NAME")
    yield Case("route-added-while-up", both(HOOKS), between="ip route add 10.70.0.0/16 dev $NAME")
    yield Case("port-taken", both("ListenPort = 40400"), before="PORT 40400", fails=True)
    yield Case("save", both("SaveConfig = true\nMTU = 1380\nListenPort = 40403\nTable = 55\n" + HOOKS))
    yield Case(
        "save-changed",
        both("SaveConfig = true\nListenPort = 40403"),
        between=(
            "ip address add 10.9.9.1/32 dev $NAME\nwg set $NAME fwmark 7 peer {Q} allowed-ips 10.6.0.0/16\n"
            "wg set $NAME peer {P} persistent-keepalive 9 endpoint 192.0.2.77:7"
        ),
    )
    yield Case("save-default", both("SaveConfig = true\nListenPort = 40403", "0.0.0.0/0, ::/0"))
    yield Case(
        "save-dns", both("SaveConfig = true\nListenPort = 1234\nDNS = 10.9.0.53, fd00::53"), resolver=0
    )
    yield Case("save-false", both("SaveConfig = false"), between="wg set $NAME peer {P} remove")
    yield Case("save-then-failing-post-down", both("SaveConfig = true\nListenPort = 4\nPostDown = false"))


def _syntax() -> Iterator[Case]:
    good = both(HOOKS)
    yield Case("comments", good.replace("\n", " # a comment\n"))
    yield Case("crlf", both("MTU = 1380\nDNS = 10.9.0.53").replace("\n", "\r\n"), resolver=0)
    yield Case("tabs-and-blanks", both("").replace("\n", " \t\n\t ").replace(" = ", "\t=  "))
    yield Case("no-blanks", both("").replace(" = ", "="))
    yield Case("no-last-line-end", both("").rstrip("\n"))
    yield Case("sections-in-any-case", both("").replace("Interface", "iNTERFACE").replace("Peer", "PEER"))
    yield Case("peer-first", PEER + "10.8.0.0/16\n" + interface())
    yield Case("interface-twice", both("") + "[Interface]\nMTU = 1333\nAddress = 10.9.4.1/24\n")
    yield Case("line-before-any-section", "ListenPort = 5\n" + both(""))
    yield Case("unknown-section", both("") + "[Peers]\n")
    yield Case("utf-16", "\ufeff[Interface]", mode=0o601)
    yield Case("other-bytes-in-a-comment", "# \u00e9\n" + both("PostUp = echo \u00e9 >> hooks # \u00fc"))


#: The directory in which the node's own process runs the hooks: /.
HOOKS_THERE = HOOKS.replace("hooks", "${CONFIG_FILE%/*}/hooks")

#: The parts of a picture of an interface with a route that is up on only one of the two hosts.
UP = ("up.code", "up.exists", "up.link", "up.addresses", "up.routes", "up.config", "down.code")


def _different() -> Iterator[Case]:
    """Intended differences. docs/wg-quick.md has the reasons."""
    hook_logs = ("up.hooks", "down.hooks")
    yield Case(
        "stranger", both("PostUp = :"), mode=0o666, differs=UP, row="commands of a file that others can write"
    )
    yield Case("no-key", both("", key=""), differs=UP, row="no PrivateKey, and no PostUp to set it")
    yield Case(
        "empty-file",
        "",
        differs=tuple(set(UP) - {"up.addresses", "up.routes"}),
        row="no PrivateKey, and no PostUp to set it",
    )
    yield Case(
        "unknown-host",
        both(HOOKS).replace("192.0.2.9", "no-such-host.invalid"),
        differs=(*UP, *hook_logs),
        before="ip route del default; ip -6 route del default",
        row="an endpoint's name that cannot be looked up",
    )
    yield Case("port-too-big", both("ListenPort = 70000"), differs=UP, row="ListenPort above 65535")
    yield Case("endpoint-port-0", both("").replace(":51820", ":0"), differs=UP, row="an endpoint's port of 0")
    yield Case(
        "two-public-keys", both("") + "PublicKey = {Q}\n", differs=UP, row="two PublicKeys in one [Peer]"
    )
    yield Case(
        "table-in-capitals",
        both("Table = OFF"),
        differs=tuple(set(UP) - {"up.routes"}),
        row="`Table = OFF` or `Auto`, in any case",
    )
    yield Case("byte-order-mark", "\ufeff" + both(""), differs=UP, row="a byte order mark (UTF-8)")
    yield Case(
        "blanks-in-brackets",
        both("").replace("Interface", " Interface "),
        differs=UP,
        row="blanks within a section's brackets",
    )
    yield Case(
        "empty-allowed-ips", both("") + "AllowedIPs =\n", differs=UP, row="`AllowedIPs =` without a value"
    )
    yield Case(
        "signed-allowed-ips",
        both("") + "AllowedIPs = +10.7.0.0/16\n",
        differs=UP,
        row="AllowedIPs with `+` or `-`",
    )
    yield Case("cipher", both("") + "Cipher = chacha20-poly1305\n", differs=UP, row="Cipher")
    yield Case("offload", both("") + "Offload = off\n", differs=UP, row="Offload")
    yield Case(
        "odd-name",
        both("", "0.0.0.0/0"),
        suffix="=+",
        row="an interface's name with `=`, `+` or a leading digit",
        differs=(*UP, "up.rules", "up.firewall"),
    )
    yield Case(
        "save-search",
        both("SaveConfig = true\nListenPort = 4\nDNS = 10.9.0.53, corp.example"),
        resolver=0,
        differs=("down.file",),
        row="SaveConfig",
    )
    yield Case(
        "others-rule",
        both("", "0.0.0.0/0"),
        before="ip rule add table main suppress_prefixlength 0 prio 7",
        differs=("down.rules",),
        row="rules of other programs at `down`",
    )
    yield Case(
        "file-gone",
        both(HOOKS_THERE),
        between="rm $NAME.conf",
        row="the file is gone when `down` is called",
        differs=(
            "down.code",
            "down.exists",
            "down.link",
            "down.addresses",
            "down.routes",
            "down.config",
            "down.hooks",
        ),
    )
    yield Case(
        "link-gone",
        both(HOOKS_THERE, "0.0.0.0/0"),
        between="ip link delete dev $NAME",
        differs=("up.rules", "up.firewall", "down.rules", "down.firewall", "up.hooks", "down.hooks"),
        row="the interface is deleted by other means",
    )
    yield Case(
        "link-local-allowed-ips",
        both("", "fe80::5/128"),
        userspace=True,
        differs=("up.routes",),
        row="a link-local prefix in AllowedIPs",
    )


def generated(count: int = 24) -> Iterator[Case]:
    """Random legal files, the same in every run."""
    for number in range(count):
        chance = random.Random(number)
        lines = []
        addresses = chance.sample(
            ["10.9.0.1/24", "10.9.0.1/32", "fd09::1/64", "10.10.0.1/16", "fd0a::1/128", "172.16.0.1/30"],
            chance.randint(1, 3),
        )
        if chance.random() < 0.5:
            lines.append("Address = " + chance.choice([", ", ","]).join(addresses))
        else:
            lines += [f"Address = {address}" for address in addresses]
        for odds, choices in (
            (0.3, ["MTU = 1300", "MTU = 1420", "MTU ="]),
            (0.3, ["Table = off", "Table = 99", "Table = auto", "Table = main"]),
            (0.3, ["FwMark = 0x77", "FwMark = off", "FwMark = 4660"]),
            (0.3, ["ListenPort = 40500", "ListenPort = 0"]),
            (0.3, ["DNS = 10.9.0.53", "DNS = fd00::53, example.org", "DNS ="]),
            (
                0.4,
                [
                    "PostUp = echo up >> hooks",
                    "PostUp = false; true",
                    "PreDown = echo pre >> hooks; false",
                ],
            ),
            (0.4, ["PostDown = echo gone >> hooks", "PreUp = echo first >> hooks"]),
            (0.2, ["SaveConfig = true", "SaveConfig = false"]),
        ):
            if chance.random() < odds:
                lines.append(chance.choice(choices))
        chance.shuffle(lines)
        text = "[Interface]\n" + KEY + "\n".join(lines) + "\n"
        prefixes = [
            "0.0.0.0/0",
            "::/0",
            "10.8.0.0/16",
            "10.8.4.0/24",
            "fd08::/32",
            "10.9.0.0/24",
            "10.9.0.7/32",
        ]
        for peer in ["{P}", "{Q}"][: chance.randint(1, 2)]:
            text += f"[Peer]\nPublicKey = {peer}\n"
            some = chance.sample(prefixes, chance.randint(0, 4))
            if some:
                text += f"AllowedIPs = {', '.join(some)}\n"
            text += chance.choice(["", "Endpoint = 192.0.2.9:5\n", "Endpoint = [2001:db8::9]:5\n"])
            text += chance.choice(["", "PresharedKey = {S}\n", "PersistentKeepalive = 25\n"])
        yield Case(f"generated-{number}", text, resolver=0)


CASES = [*picked(), *generated()]
