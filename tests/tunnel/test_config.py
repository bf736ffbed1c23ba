"""Files of wg-quick: everything legal, each error with its place, round trips, garbage."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import udpring
from udpring.errors import ConfigError
from udpring.tunnel import config_parser, keys
from udpring.tunnel.config import Config, Endpoint, InterfaceConfig, PeerConfig, locate
from udpring.wireguard.cipher import Cipher

SECRET = bytes([0x58] * 32)
PRIVATE = keys.to_base64(SECRET)
PUBLIC = keys.to_base64(bytes(range(32)))
OTHER = keys.to_base64(bytes(range(1, 33)))

FULL = f"""\
# my node
[Interface]  # trailing
PrivateKey = {PRIVATE}
ListenPort=51820
fwmark = 0xCA6C
ADDRESS = 10.0.0.1/24, fd00::1/64
Address = 10.1.0.1 10.2.0.2/255.255.0.0
DNS = 1.1.1.1,example.org fd00::53
MTU = 1420
Table = 1234
PreUp = echo pre
PostUp = iptables -A FORWARD -i %i -j ACCEPT; echo "a=b,[c]" # a comment
PostUp = second
PreDown = echo %i
PostDown = echo gone
SaveConfig = True

[Peer]
# laptop of Bob
PublicKey = {PUBLIC}
PresharedKey = {PRIVATE}
AllowedIPs = 10.0.0.2/32, fd00::2
AllowedIPs = 192.168.7.0/24
Endpoint = [fd00::5]:51820
PersistentKeepalive = 25

[ peer ]
public key = {OTHER}
Endpoint = vpn.example.org : 51820
PersistentKeepalive = off
Cipher = AES-256-GCM
Offload = Off
allowedips =
"""


def one_error(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config.loads(text, "f.conf")
    assert str(caught.value).startswith(f"f.conf:{caught.value.line}:{caught.value.column}: ")
    return caught.value


# --- legal ---


def test_a_full_file() -> None:
    config = Config.loads(FULL, "wg0.conf")
    assert config == Config(
        InterfaceConfig(
            private_key=SECRET,
            listen_port=51820,
            fwmark=0xCA6C,
            addresses=tuple(
                map(ipaddress.ip_interface, ("10.0.0.1/24", "fd00::1/64", "10.1.0.1/32", "10.2.0.2/16"))
            ),
            dns=(ipaddress.ip_address("1.1.1.1"), ipaddress.ip_address("fd00::53")),
            dns_search=("example.org",),
            mtu=1420,
            table="1234",
            pre_up=("echo pre",),
            post_up=('iptables -A FORWARD -i %i -j ACCEPT; echo "a=b,[c]"', "second"),
            pre_down=("echo %i",),
            post_down=("echo gone",),
            save_config=True,
        ),
        (
            PeerConfig(
                bytes(range(32)),
                SECRET,
                tuple(map(ipaddress.ip_network, ("10.0.0.2/32", "fd00::2/128", "192.168.7.0/24"))),
                Endpoint("fd00::5", 51820),
                25,
                "laptop of Bob",
            ),
            PeerConfig(
                bytes(range(1, 33)),
                endpoint=Endpoint("vpn.example.org", 51820),
                cipher=Cipher.AES_256_GCM,
                offload=False,
            ),
        ),
    )
    assert config.file == "wg0.conf"
    assert config.warnings == ()
    assert udpring.Config is Config


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n  # comments", "[Interface]", "[interface]\r\n\r\n"])
def test_an_empty_configuration(text: str) -> None:
    assert Config.loads(text) == Config()


def test_line_ends_and_a_missing_last_one() -> None:
    assert Config.loads(FULL.replace("\n", "\r\n")) == Config.loads(FULL)
    assert Config.loads(FULL.rstrip("\n")) == Config.loads(FULL)


def test_blanks_are_ignored_as_wg_does() -> None:
    key = f"Private Key\t=\t{PRIVATE[:20]} {PRIVATE[20:]}\v"
    text = f"[ Inter face ]\n\t{key}\nListen Port = 51 820\nfwmark=o f f"
    assert Config.loads(text).interface == InterfaceConfig(SECRET, 51820)


def test_what_showconf_prints() -> None:
    text = (
        f"[Interface]\nListenPort = 51820\nFwMark = 0xca6c\nPrivateKey = {PRIVATE}\n\n"
        f"[Peer]\nPublicKey = {PUBLIC}\nPresharedKey = {PRIVATE}\nAllowedIPs = 10.0.0.0/8, ::/0\n"
        "Endpoint = 1.2.3.4:5\nPersistentKeepalive = 25\n\n"
        f"[Peer]\nPublicKey = {OTHER}\nEndpoint = [fe80::1%eth0]:5\n"
    )
    config = Config.loads(text)
    assert config.interface == InterfaceConfig(SECRET, 51820, 0xCA6C)
    assert [peer.endpoint for peer in config.peers] == [Endpoint("1.2.3.4", 5), Endpoint("fe80::1%eth0", 5)]
    assert config.peers[1].allowed_ips == ()


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("# friendly_name = Bob's box", "Bob's box"),
        ("#friendly_name=x", "x"),
        ("# just a comment", "just a comment"),
        ("## Ann ##\n# second", "Ann ##"),
        ("# first\n# Friendly_Name = second", "second"),
        ("# friendly_name = first\n# friendly_name = second", "first"),
        ("AllowedIPs = 10.0.0.0/8 # not the name", ""),
        ("# AllowedIPs = 10.0.0.0/8", ""),
        ("#PresharedKey=" + PRIVATE, ""),
        ("# " + PRIVATE, ""),
        ("# AllowedIPs = 10.0.0.0/8\n# Carl", "Carl"),
        ("# \x07a\tb\x1b[31m", "a b [31m"),
        ("# " + "a b " * 50, "a b " * 31 + "a b"),
        ("#\n# later", "later"),
    ],
)
def test_names_of_peers(lines: str, name: str) -> None:
    assert Config.loads(f"[Peer]\n{lines}\nPublicKey = {PUBLIC}").peers[0].name == name


def test_name_belongs_to_its_section_line() -> None:
    text = f"# file\n[Interface]\n# node\n[Peer] # Ann\nPublicKey = {PUBLIC}\n[Peer]\nPublicKey = {OTHER}"
    assert [peer.name for peer in Config.loads(text).peers] == ["Ann", ""]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.0/8, +10.1.0.0/16", ["10.0.0.0/8", "10.1.0.0/16"]),
        ("10.0.0.0/8, 10.1.0.0/16, -10.0.0.0/8", ["10.1.0.0/16"]),
        ("10.0.0.0/8,10.0.0.0/8", ["10.0.0.0/8"]),
        ("10.1.2.3/8", ["10.0.0.0/8"]),
        ("::ffff:1.2.3.4", ["::ffff:102:304/128"]),
        ("0.0.0.0/0,::/0", ["0.0.0.0/0", "::/0"]),
        ("", []),
    ],
)
def test_allowed_ips(value: str, expected: list[str]) -> None:
    (peer,) = Config.loads(f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = {value}").peers
    assert list(map(str, peer.allowed_ips)) == expected


@pytest.mark.parametrize(
    ("value", "mark"), [("off", 0), ("OFF", 0), ("0", 0), ("0x0", 0), ("010", 10), ("0xffffffff", 0xFFFFFFFF)]
)
def test_fwmark(value: str, mark: int) -> None:
    assert Config.loads(f"[Interface]\nFwMark = {value}").interface.fwmark == mark


@pytest.mark.parametrize(
    ("value", "table"),
    [("OFF", "off"), ("Auto", "auto"), ("main", "main"), ("7", "7"), ("0", "0"), ("", "auto")],
)
def test_table(value: str, table: str) -> None:
    assert Config.loads(f"[Interface]\nTable = {value}").interface.table == table


@pytest.mark.parametrize(
    ("text", "endpoint", "numeric"),
    [
        ("1.2.3.4:5", Endpoint("1.2.3.4", 5), True),
        ("[fd00::1]:65535", Endpoint("fd00::1", 65535), True),
        ("[fe80::1%eth0]:1", Endpoint("fe80::1%eth0", 1), True),
        ("host:1", Endpoint("host", 1), False),
        ("bücher.example:1", Endpoint("bücher.example", 1), False),
        ("a_b.example.:1", Endpoint("a_b.example.", 1), False),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint, numeric: bool) -> None:
    (peer,) = Config.loads(f"[Peer]\nPublicKey={PUBLIC}\nEndpoint = {text}").peers
    assert peer.endpoint == endpoint
    assert endpoint.numeric is numeric
    assert str(endpoint) == text
    assert (endpoint.address is not None) is numeric


# --- legal, but probably a mistake ---


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = 10.0.0.0/8, 10.1.2.3/8",
            "3:26: AllowedIPs 10.1.2.3/8 has host bits",
        ),
        (
            f"[Peer]\nPublicKey={PUBLIC}\nEndpoint = fd00::5:51820",
            "3:12: Endpoint is an IPv6 address without brackets",
        ),
        (
            f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs = -10.0.0.0/8",
            "3:14: AllowedIPs -10.0.0.0/8 removes a prefix that is not listed before",
        ),
        (
            "[Interface]\nListenPort = 1\nListenPort = 2",
            "3:14: ListenPort is set again (first on line 2). The last value counts",
        ),
        ("[Interface]\nMTU = 1280\n[Interface]\n", "3:1: a second [Interface] (the first is on line 1)"),
        (
            f"[Peer]\nPublicKey={PUBLIC}\nAllowedIPs=10.0.0.0/8\n[Peer]\nPublicKey={OTHER}\nAllowedIPs=10.0.0.0/8",
            "6:12: AllowedIPs 10.0.0.0/8 moves here from the peer of line 3",
        ),
    ],
)
def test_warnings(text: str, warning: str) -> None:
    (found,) = Config.loads(text, "f.conf").warnings
    assert found.startswith(f"f.conf:{warning}")


def test_several_endpoints_are_kept_in_order() -> None:
    """Also when they are written and read again. A repeated one counts once."""
    lines = [
        f"Endpoint = {each}" for each in ("vpn.example:5", "[fe80::1%eth0]:6", "vpn.example:5", "192.0.2.1:7")
    ]
    config = Config.loads("\n".join(["[Peer]", f"PublicKey = {PUBLIC}", *lines]))
    (peer,) = config.peers
    assert peer.endpoint == Endpoint("vpn.example", 5)
    assert peer.fallbacks == (Endpoint("fe80::1%eth0", 6), Endpoint("192.0.2.1", 7))
    assert peer.endpoints == (peer.endpoint, *peer.fallbacks)
    assert not config.warnings
    assert Config.loads(config.dumps()) == config
    again = Config.loads(config.dumps() + f"[Peer]\nPublicKey = {PUBLIC}\nEndpoint = 192.0.2.9:9\n")
    assert again.peers[0].endpoints == (Endpoint("192.0.2.9", 9),), "a later section has the last word"


def test_too_many_endpoints_are_refused() -> None:
    many = tuple(Endpoint("192.0.2.1", port) for port in range(1, 10))
    with pytest.raises(ConfigError, match="more than 8 endpoints"):
        PeerConfig(bytes(range(1, 33)), endpoint=many[0], fallbacks=many[1:])
    with pytest.raises(ConfigError, match="no endpoint"):
        PeerConfig(bytes(range(1, 33)), fallbacks=many[:1])


# --- errors: line, column, text, cure ---


@pytest.mark.parametrize(
    ("line", "column", "text", "says"),
    [
        ("ListenPort = 65536", 14, "65536", "not a number from 0 to 65535"),
        ("ListenPort = -1", 14, "-1", "not a number"),
        ("ListenPort = ٣", 14, "٣", "not a number"),
        ("ListenPort =", 13, "", "no value"),
        ("ListenPort", 1, "ListenPort", "not 'key = value'"),
        ("  ListenPrt = 1", 3, "ListenPrt", "did you mean ListenPort?"),
        ("PublicKey = x", 1, "PublicKey", "PublicKey belongs in [Peer]"),
        ("Quxquux = aes", 1, "Quxquux", "[Interface] has PrivateKey, "),
        ("Cipher = aes-256-gcm", 1, "Cipher", "Cipher belongs in [Peer]"),
        ("FwMark = 0x100000000", 10, "0x100000000", "0xffffffff"),
        ("FwMark = on", 10, "on", "not a mark"),
        ("FwMark = 0x", 10, "0x", "not a mark"),
        ("Address = 10.0.0.1/24, 10.0.0.300", 24, "10.0.0.300", "not an IP address"),
        ("Address = 10.0.0.1/33", 11, "10.0.0.1/33", "from 0 to 32"),
        ("Address = fd00::1/129", 11, "fd00::1/129", "from 0 to 128"),
        ("Address = 10.0.0.1/255.0.255.0", 11, "10.0.0.1/255.0.255.0", "the netmask has holes"),
        ("Address = fe80::1%eth0/64", 11, "fe80::1%eth0/64", "not an IP address"),
        ("DNS = 1.1.1.1, 1.1.1", 16, "1.1.1", "not an IP address"),
        ("DNS = a!b", 7, "a!b", "neither an address nor a search domain"),
        ("MTU = 67", 7, "67", "from 68 to 65535"),
        ("MTU = 65536", 7, "65536", "from 68 to 65535"),
        ("Table = 4294967296", 9, "4294967296", "not a routing table"),
        ("ListenPort = no-such-service", 14, "no-such-service", "/etc/services has no UDP port"),
        ("FwMark =", 9, "", "no value"),
        ("SaveConfig =", 13, "", "no value"),
        ("DNS = 10.0.0.1%eth0", 7, "10.0.0.1%eth0", "neither an address"),
        ("DNS = fe80::1%", 7, "fe80::1%", "scope is not an interface"),
        ("Table = a/b", 9, "a/b", "not a routing table"),
        ("SaveConfig = yes", 14, "yes", "neither 'true' nor 'false'"),
        ("PostUp = a\rb", 10, "a\rb", "put it into a script"),
        ("PostUp = a\0b", 10, "", "NUL"),
        ("[Peers]", 1, "[Peers]", "did you mean [Peer]?"),
        ("[", 1, "", "unknown section"),
    ],
)
def test_wrong_lines_of_an_interface(line: str, column: int, text: str, says: str) -> None:
    error = one_error(f"[Interface]\n{line}\n")
    assert (error.line, error.column, error.text) == (2, column, text)
    assert says in str(error)


@pytest.mark.parametrize(
    ("line", "column", "text", "says"),
    [
        ("AllowedIPs = 10.0.0.0/8,, ::/0", 25, "", "remove the extra comma"),
        ("AllowedIPs = 10.0.0.0/8,", 25, "", "remove the extra comma"),
        ("AllowedIPs = 10.0.0.0/33", 14, "10.0.0.0/33", "from 0 to 32"),
        ("AllowedIPs = 10.0.0.0/", 14, "10.0.0.0/", "from 0 to 32"),
        ("AllowedIPs = 10.0.0.0/255.0.0.0", 14, "10.0.0.0/255.0.0.0", "from 0 to 32"),
        ("AllowedIPs = ::/0 , - 10.0.0/8", 22, " 10.0.0/8", "not an IP address"),
        ("Endpoint = 1.2.3.4", 12, "1.2.3.4", "no port"),
        ("Endpoint = 1.2.3.4:", 12, "1.2.3.4:", "no port"),
        ("Endpoint = [fd00::1]", 12, "[fd00::1]", "no port"),
        ("Endpoint = [fd00::1:5", 12, "[fd00::1:5", "brackets"),
        ("Endpoint = [host]:5", 12, "[host]:5", "brackets"),
        ("Endpoint = 1.2.3.4:0", 12, "1.2.3.4:0", "from 1 to 65535"),
        ("Endpoint = 1.2.3.4:65536", 12, "1.2.3.4:65536", "from 1 to 65535"),
        ("Endpoint = 1.2.3.400:5", 12, "1.2.3.400", "not an IPv4 address"),
        ("Endpoint = [fd00::g]:5", 12, "fd00::g", "not an IPv6 address"),
        ("Endpoint = [fe80::1%]:5", 12, "fe80::1%", "scope"),
        ("Endpoint = ho st/x:5", 12, "host/x", "neither an address nor a host name"),
        ("Endpoint = a..b:5", 12, "a..b", "neither an address nor a host name"),
        ("Endpoint = " + "a" * 64 + ".b:5", 12, "a" * 64 + ".b", "neither an address nor a host name"),
        ("PersistentKeepalive = 65536", 23, "65536", "(seconds) or 'off'"),
        ("PersistentKeepalive = on", 23, "on", "not a number"),
        ("Offload = true", 11, "true", "('on', 'off' or 'auto')"),
        ("Cipher = aes", 10, "aes", "(there are chacha20-poly1305, aes-256-gcm)"),
        ("Cipher =", 9, "", "no value"),
        ("Address = 10.0.0.1/24", 1, "Address", "Address belongs in [Interface]"),
        (f"PublicKey = {OTHER}", 13, OTHER, "is a [Peer] line missing?"),
    ],
)
def test_wrong_lines_of_a_peer(line: str, column: int, text: str, says: str) -> None:
    error = one_error(f"[Peer]\nPublicKey = {PUBLIC}\n{line}\n")
    assert (error.line, error.column, error.text) == (3, column, text)
    assert says in str(error)


def test_a_line_before_any_section() -> None:
    error = one_error("\n ListenPort = 1\n[Interface]")
    assert (error.line, error.column, error.text) == (2, 2, "ListenPort")


def test_a_peer_without_a_key_and_one_given_twice() -> None:
    error = one_error(f"[Peer]\nAllowedIPs = 10.0.0.0/8\n[Peer]\nPublicKey = {PUBLIC}")
    assert (error.line, error.column) == (1, 1)
    assert "no PublicKey" in str(error)


def test_two_sections_of_a_peer_are_merged() -> None:
    """As wg does."""
    config = Config.loads(
        f"[Peer]\nPublicKey = {PUBLIC}\nPresharedKey = {PRIVATE}\nEndpoint = 192.0.2.1:5\n"
        f"AllowedIPs = 10.0.0.1/32, 10.0.0.2/32\nPersistentKeepalive = 7\n"
        f"[Peer]\nPublicKey = {OTHER}\nAllowedIPs = 10.0.0.3/32\n"
        f"[Peer]\nEndpoint = 192.0.2.9:6\nPublicKey = {PUBLIC}\nAllowedIPs = 10.0.0.2/32, 10.0.0.3/32\n",
        "f.conf",
    )
    other, peer = config.peers
    assert (peer.preshared_key, peer.persistent_keepalive) == (SECRET, 7)
    assert peer.endpoint == Endpoint("192.0.2.9", 6)
    assert [str(each) for each in peer.allowed_ips] == ["10.0.0.2/32", "10.0.0.3/32"]
    assert other.public_key != peer.public_key
    assert config.warnings == (
        "f.conf:12:1: a second section for the peer of line 2. Its AllowedIPs replace the earlier ones",
        "f.conf:13:27: AllowedIPs 10.0.0.3/32 moves here from the peer of line 9",
    )


@pytest.mark.parametrize("key", ["PreUp", "PostUp", "PreDown", "PostDown", "DNS", "Address", "MTU", "Table"])
@pytest.mark.parametrize("end", ["", " ", "  # none", " \r"])
def test_empty_values_that_wg_quick_takes(key: str, end: str) -> None:
    assert Config.loads(f"[Interface]\n{key} ={end}\n") == Config()


def test_an_empty_value_takes_the_earlier_one_back() -> None:
    assert Config.loads("[Interface]\nMTU = 1400\nTable = 5\nMTU =\nTable =\n") == Config()


def test_ports_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = {("ntp", "udp"): 123, ("domain", "udp"): 53}
    monkeypatch.setattr(socket, "getservbyname", lambda *asked: ports[asked])
    config = Config.loads(f"[Interface]\nListenPort = ntp\n[Peer]\nPublicKey={PUBLIC}\nEndpoint=h:domain")
    assert config.interface.listen_port == 123
    assert config.peers[0].endpoint == Endpoint("h", 53)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "wg0.conf"
    file.write_bytes("[Interface]\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"UTF-16 or UTF-32.*iconv"):
        Config.load(file)


def test_routing_domains_and_scoped_servers() -> None:
    settings = Config.loads("[Interface]\nDNS = fe80::1%eth0, ~corp.example, ~., 10.0.0.1").interface
    assert [str(each) for each in settings.dns] == ["fe80::1%eth0", "10.0.0.1"]
    assert settings.dns_search == ("~corp.example", "~.")


def test_checker_lists_errors_in_order_up_to_bound() -> None:
    text = "x = 1\n[Interface]\nMTU = 1\nTable = /\n[Peer]\n[Other]\nnot = read\n"
    config, errors = config_parser.parse(text, "f")
    assert config is None
    assert [error.line for error in errors] == [1, 3, 4, 5, 6]
    _, errors = config_parser.parse("[Interface]\n" + "x = 1\n" * 100_000, "f")
    assert len(errors) == config_parser.MAX_ERRORS


def test_long_text_is_cut_in_the_error() -> None:
    assert len(str(one_error(f"[Interface]\nFwMark = {'9' * 10_000}"))) < 250


def test_a_node_needs_a_private_key() -> None:
    assert Config.loads(f"[Interface]\nPrivateKey = {PRIVATE}").require_private_key() == SECRET
    with pytest.raises(ConfigError, match=r"f\.conf: \[Interface\] has no PrivateKey.*udpring genkey"):
        Config.loads("[Interface]", "f.conf").require_private_key()


# --- secrets ---


@pytest.mark.parametrize("key", ["PrivateKey", "PresharedKey"])
@pytest.mark.parametrize(
    ("spoil", "says", "column"),
    [
        (lambda text: text[:-1], "this has 43", 57),
        (lambda text: text + "A", "this has 45", 59),
        (lambda text: text[:9] + "!" + text[10:], "character 10 of 44 is not base64", 23),
        (lambda text: "'" + text + "'", "character 1 of 46", 14),
        (lambda text: text[:20] + " !" + text[20:], "character 21 of 45", 14),
    ],
)
def test_a_bad_secret_is_placed_but_not_shown(key: str, spoil: object, says: str, column: int) -> None:
    assert callable(spoil)
    secret = "qPvZAbqx9HVzzDHBfY3DSbIvCNdeSuUMuWt8sQkHq1o="
    peer = f"PublicKey = {PUBLIC}\n" if key == "PresharedKey" else ""
    section = "Peer" if peer else "Interface"
    error = one_error(f"[{section}]\n{peer}{key} = {spoil(secret)}")
    assert says in str(error)
    assert error.text == ""
    assert error.column == column + len(key) - 10
    for start in range(len(secret) - 6):
        assert secret[start : start + 6] not in str(error) + repr(error)


@pytest.mark.parametrize(
    "line",
    [
        PRIVATE,
        f"{PRIVATE} = 1",
        f"[{PRIVATE}]",
        f"PrivateKey {PRIVATE}",
        f"PrivateKey: {PRIVATE}",
        f"PrivatKey = {PRIVATE}",
        f"PrivateKey = {PRIVATE} {PRIVATE}",
        f"ListenPort PrivateKey = {PRIVATE}",
    ],
)
@pytest.mark.parametrize("section", ["", "[Interface]\n", f"[Peer]\nPublicKey={PUBLIC}\n"])
def test_a_key_in_the_wrong_place_is_not_shown(section: str, line: str) -> None:
    _, errors = config_parser.parse(section + line, "f")
    assert errors
    for error in errors:
        assert PRIVATE[:8] not in str(error) + repr(error) + str(error.args)


def test_secrets_are_in_no_repr() -> None:
    config = Config.loads(FULL)
    text = repr(config) + str(config) + repr(config.interface) + repr(config.peers)
    assert repr(SECRET)[2:-1] not in text
    assert PRIVATE not in text


# --- built by a program ---


@pytest.mark.parametrize(
    "build",
    [
        lambda: InterfaceConfig(private_key=b"short"),
        lambda: InterfaceConfig(private_key=PRIVATE),  # type: ignore[arg-type]
        lambda: InterfaceConfig(listen_port=65536),
        lambda: InterfaceConfig(fwmark=-1),
        lambda: InterfaceConfig(mtu=67),
        lambda: InterfaceConfig(table=""),
        lambda: InterfaceConfig(dns_search=("a b",)),
        lambda: InterfaceConfig(post_up=("a\nPrivateKey = x",)),
        lambda: InterfaceConfig(post_up=("echo # x",)),
        lambda: InterfaceConfig(pre_up=(" a",)),
        lambda: PeerConfig(b""),
        lambda: PeerConfig(bytes(32), preshared_key=bytes(31)),
        lambda: PeerConfig(bytes(32), persistent_keepalive=65536),
        lambda: PeerConfig(bytes(32), cipher="aes-256-gcm"),  # type: ignore[arg-type]
        lambda: PeerConfig(bytes(32), name="a\nb"),
        lambda: PeerConfig(bytes(32), name="n" * 129),
        lambda: PeerConfig(bytes(32), allowed_ips=(ipaddress.ip_network("::/0"),) * 2),
        lambda: Config(peers=(PeerConfig(bytes(32)), PeerConfig(bytes(32), name="x"))),
        lambda: Endpoint("", 1),
        lambda: Endpoint("a b", 1),
        lambda: Endpoint("host", 0),
        lambda: Endpoint("1.2.3", 1),
        lambda: Endpoint("[fd00::1]", 1),
    ],
)
def test_values_built_by_a_program_meet_the_same_rules(build: object) -> None:
    assert callable(build)
    with pytest.raises(ConfigError) as caught:
        build()
    assert PRIVATE not in str(caught.value)


def test_configurations_are_frozen_and_can_be_replaced_in_part() -> None:
    config = Config.loads(FULL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.peers = ()  # type: ignore[misc]
    fewer = dataclasses.replace(config, peers=config.peers[:1])
    assert fewer.interface is config.interface
    assert fewer != config


# --- files ---


def test_load_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(FULL)
    path.chmod(0o600)
    config = Config.load(path)
    assert (config.file, config.warnings) == (str(path), ())
    assert config == Config.loads(FULL)
    path.write_text("[Interface]\nMTU = x\n")
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}:2:7: "):
        Config.load(str(path))


def test_load_warns_of_world_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(FULL)
    tmp_path.chmod(0o755)
    path.chmod(0o644)
    (warning,) = Config.load(path).warnings
    assert warning.startswith(f"{path}: is world accessible")


def test_load_of_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises(ConfigError):
            Config.load(path)
    with pytest.raises(ConfigError, match="more than"):
        Config.load("/dev/zero")


def test_load_takes_any_encoding_in_comments_and_commands(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_bytes(
        b"\xef\xbb\xbf# caf\xe9\n[Interface]\nPostUp = echo \xe9\n[Peer]\n# B\xe9\nPublicKey="
        + PUBLIC.encode()
    )
    config = Config.load(path)
    assert os.fsencode(config.interface.post_up[0]) == b"echo \xe9"
    assert config.peers[0].name == "B"
    path.write_bytes(b"[Interface]\nTable = \xe9\n")
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    str(caught.value).encode()  # printable in any locale


@pytest.mark.parametrize(
    ("name", "interface", "path"),
    [
        ("wg0", "wg0", "/etc/wireguard/wg0.conf"),
        ("./wg0.conf", "wg0", "wg0.conf"),
        ("/a/b/my-net_1.conf", "my-net_1", "/a/b/my-net_1.conf"),
    ],
)
def test_locate(name: str, interface: str, path: str) -> None:
    assert locate(name) == (interface, Path(path))


@pytest.mark.parametrize("name", ["", "/a/wg0", "a/sixteen-chars-xx.conf", "a/b c.conf", "a/.conf"])
def test_locate_refuses_what_names_no_interface(name: str) -> None:
    with pytest.raises(ConfigError):
        locate(name)


# --- round trips ---

key_bytes = st.binary(min_size=32, max_size=32)
words = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
v4_networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda at: ipaddress.IPv4Network(at, strict=False)
)
v6_networks = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
    lambda at: ipaddress.IPv6Network(at, strict=False)
)
v4_interfaces = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(ipaddress.IPv4Interface)
v6_interfaces = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(ipaddress.IPv6Interface)
addresses = st.ip_addresses()
printable = st.text(st.characters(codec="utf-8").filter(str.isprintable), max_size=40).map(str.strip)
hooks = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0#"), min_size=1, max_size=40)
    .map(lambda text: text.strip(" \t\v\f"))
    .filter(bool),
    max_size=2,
).map(tuple)
host_names = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9](\.[a-z]{2,8}){0,3}", fullmatch=True)
endpoints = st.builds(
    Endpoint, st.one_of(addresses.map(str), host_names, st.just("fe80::1%eth0")), st.integers(1, 65535)
)
interfaces = st.builds(
    InterfaceConfig,
    private_key=st.none() | key_bytes,
    listen_port=st.integers(0, 65535),
    fwmark=st.integers(0, 2**32 - 1),
    addresses=st.lists(st.one_of(v4_interfaces, v6_interfaces), max_size=3).map(tuple),
    dns=st.lists(addresses, max_size=2).map(tuple),
    dns_search=st.lists(host_names, max_size=2).map(tuple),
    mtu=st.none() | st.integers(68, 65535),
    table=st.sampled_from(["auto", "off", "main", "51820", "my-table"]),
    pre_up=hooks,
    post_up=hooks,
    pre_down=hooks,
    post_down=hooks,
    save_config=st.booleans(),
    offload=st.sampled_from([True, False, None]),
)
peer_lists = st.lists(
    st.builds(
        PeerConfig,
        key_bytes,
        preshared_key=st.none() | key_bytes,
        allowed_ips=st.lists(st.one_of(v4_networks, v6_networks), max_size=4, unique=True).map(tuple),
        endpoint=st.none() | endpoints,
        persistent_keepalive=st.integers(0, 65535),
        name=printable,
        cipher=st.sampled_from(Cipher),
        offload=st.sampled_from([True, False, None]),
    ),
    max_size=3,
    unique_by=lambda peer: peer.public_key,
).map(tuple)


@settings(deadline=None)
@given(st.builds(Config, interfaces, peer_lists))
def test_what_is_dumped_loads_as_it_was(config: Config) -> None:
    assert Config.loads(config.dumps()) == config


# --- garbage ---

LINES = FULL.split("\n")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_config_errors(data: bytes) -> None:
    for prefix in (
        "",
        "[Interface]\n",
        "[Peer]\nPublicKey = ",
        "[Interface]\nAddress = ",
        "[Peer]\nEndpoint = ",
    ):
        config, errors = config_parser.parse(prefix + data.decode("utf-8", "surrogateescape"), "f")
        assert (config is None) == bool(errors)
        for error in errors:
            assert error.line >= 1
            assert error.column >= 1
            assert "\n" not in str(error)
            str(error).encode()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(LINES),
            st.builds(
                lambda line, at, text: line[: at % (len(line) + 1)] + text + line[at % (len(line) + 1) :],
                st.sampled_from(LINES),
                st.integers(0, 99),
                st.text(max_size=4),
            ),
            st.builds(
                lambda key, value: f"{key} = {value}",
                st.sampled_from(
                    ["Address", "AllowedIPs", "Endpoint", "DNS", "Table", "MTU", "FwMark", "PostUp"]
                ),
                st.text(max_size=30),
            ),
        ),
        max_size=25,
    )
)
def test_damaged_files_round_trip_or_fail(lines: list[str]) -> None:
    """Each input gives an error, or a configuration that survives writing and reading."""
    config, errors = config_parser.parse("\n".join(lines), "f")
    assert (config is None) == bool(errors)
    if config is not None:
        assert Config.loads(config.dumps()) == config


def test_130560_prefixes() -> None:
    values = ", ".join(f"{1 + (i >> 16)}.{i >> 8 & 255}.{i & 255}.0/24" for i in range(130_560))
    (peer,) = Config.loads(f"[Peer]\nPublicKey = {PUBLIC}\nAllowedIPs = {values}").peers
    assert len(peer.allowed_ips) == 130_560


@pytest.mark.parametrize("name", ["PresharedKey", "PrivateKey", "preshared key"])
@pytest.mark.parametrize("before", ["PublicKey = AAEC", "AllowedIPs = 10.0.0.0/8", "Endpoint = 10.0.0.1:1"])
def test_joined_lines_show_no_key(before: str, name: str) -> None:
    secret = "cICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCU="
    with pytest.raises(ConfigError) as caught:
        Config.loads(f"[Peer]\n{before} {name} = {secret}\n")
    assert secret not in str(caught.value)
