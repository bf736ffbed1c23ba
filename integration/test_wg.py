"""`wg` drives the program like any WireGuard interface. The rules of the UAPI at the socket itself."""

from __future__ import annotations

import errno
import secrets
import socket
from base64 import b64encode

import pytest
from lab import GO, SUBJECT, Node, Program, Rig

udpring_only = pytest.mark.skipif(SUBJECT.name == GO.name, reason="wireguard-go does it otherwise")


def _key() -> str:
    return b64encode(secrets.token_bytes(32)).decode()


def _hex(key: bytes) -> str:
    return key.hex()


@pytest.fixture
def node(rig: Rig) -> Node:
    made = rig.node(rig.topology()["a"], SUBJECT, inner=["10.100.0.1/24"])
    made.spawn()
    return made


def _lines(configuration: str) -> set[tuple[str, ...]]:
    """A configuration, independent of the order of its peers and their allowed IPs."""
    sections: list[list[str]] = []
    for line in configuration.splitlines():
        if line.startswith("["):
            sections.append([line])
        elif line.startswith("AllowedIPs = "):
            sections[-1].append("AllowedIPs = " + ", ".join(sorted(line[13:].split(", "))))
        elif line:
            sections[-1].append(line)
    return {tuple(sorted(section)) for section in sections}


def _full_configuration() -> str:
    return (
        f"[Interface]\nListenPort = 41000\nFwMark = 0xca6c\nPrivateKey = {_private()}\n\n"
        f"[Peer]\nPublicKey = {_key()}\nPresharedKey = {_key()}\nAllowedIPs = 10.0.0.0/8, fd00:1::/64\n"
        "Endpoint = 192.0.2.1:4321\nPersistentKeepalive = 25\n\n"
        f"[Peer]\nPublicKey = {_key()}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = [2001:db8::1]:65535\n\n"
        f"[Peer]\nPublicKey = {_key()}\nAllowedIPs = 172.16.0.1/32\n"
    )


def _private() -> str:
    """A clamped private key, as `wg genkey` makes it."""
    key = bytearray(secrets.token_bytes(32))
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return b64encode(bytes(key)).decode()


def test_setconf_showconf(rig: Rig, node: Node) -> None:
    """Settings are shown, in the same form as by wireguard-go."""
    wanted = _full_configuration()
    other = rig.node(node.space, GO, inner=["10.100.0.2/24"])
    other.spawn()
    shown = []
    for each in (node, other):
        # The second one listens on another port, because both run in one namespace.
        text = wanted if each is node else wanted.replace("41000", "41001")
        each.wg("setconf", each.interface, "/dev/stdin", stdin=text)
        shown.append(each.wg("showconf", each.interface))
        assert _lines(shown[-1]) == _lines(text)
        # And back again: showconf's output is a configuration.
        each.wg("setconf", each.interface, "/dev/stdin", stdin=shown[-1])
        assert _lines(each.wg("showconf", each.interface)) == _lines(text)
    assert _lines(shown[0]) == _lines(shown[1].replace("41001", "41000"))


def test_addconf_and_syncconf(rig: Rig) -> None:
    """addconf adds. syncconf keeps the session of a listed peer and removes peers that are not listed."""
    tunnel = rig.tunnel((SUBJECT, GO))
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    shook, received = a.status(b).handshake, a.status(b).received
    more = f"[Peer]\nPublicKey = {_key()}\nAllowedIPs = 10.77.0.0/16\n"
    a.wg("addconf", a.interface, "/dev/stdin", stdin=more)
    assert len(a.statuses()) == 2
    more = f"[Peer]\nPublicKey = {b.public_key}\nPersistentKeepalive = 99\nAllowedIPs = {b.inner4}/32\n"
    a.wg("addconf", a.interface, "/dev/stdin", stdin=more)
    assert a.status(b).keepalive == "99"
    assert a.status(b).handshake == shook, "addconf must keep the session"
    a.wg("syncconf", a.interface, "/dev/stdin", stdin=a.configuration())
    assert list(a.statuses()) == [b.public_key]
    assert a.status(b).handshake == shook, "syncconf must keep the session"
    assert a.status(b).received >= received
    tunnel.ping()
    assert a.status(b).handshake == shook


def test_set_and_show(node: Node) -> None:
    peer, other = _key(), _key()
    interface = node.interface
    private = _private()
    node.wg(
        "set", interface, "private-key", "/dev/stdin", "listen-port", "42000", "fwmark", "7", stdin=private
    )
    node.wg("set", interface, "peer", peer, "allowed-ips", "10.1.2.3/8,fd00::1/48", "endpoint", "127.0.0.1:9",
            "persistent-keepalive", "10")  # fmt: skip
    assert node.wg("show", interface, "private-key").strip() == private
    assert node.wg("show", interface, "listen-port").strip() == "42000"
    assert node.wg("show", interface, "fwmark").strip() == "0x7"
    assert node.wg("show", interface, "allowed-ips").split() == [
        peer,
        "10.0.0.0/8",
        "fd00::/48",
    ]  # host bits masked
    assert node.wg("show", interface, "endpoints").split() == [peer, "127.0.0.1:9"]
    assert node.wg("show", interface, "persistent-keepalive").split() == [peer, "10"]
    assert node.wg("show", interface, "preshared-keys").split() == [peer, "(none)"]
    assert interface in node.wg("show", "interfaces").split()
    assert "persistent keepalive: every 10 seconds" in node.wg("show", interface)
    # A prefix moves to the peer that is given it last.
    node.wg("set", interface, "peer", other, "allowed-ips", "10.0.0.0/8")
    shown = dict(line.split("\t") for line in node.wg("show", interface, "allowed-ips").splitlines())
    assert shown == {peer: "fd00::/48", other: "10.0.0.0/8"}
    # Off, replaced, removed.
    node.wg("set", interface, "peer", peer, "persistent-keepalive", "off", "allowed-ips", "192.168.0.0/16")
    shown = dict(line.split("\t") for line in node.wg("show", interface, "allowed-ips").splitlines())
    assert shown[peer] == "192.168.0.0/16"
    psk = _key()
    node.wg("set", interface, "peer", peer, "preshared-key", "/dev/stdin", stdin=psk)
    assert psk in node.wg("show", interface, "preshared-keys")
    node.wg("set", interface, "peer", peer, "preshared-key", "/dev/null")
    assert psk not in node.wg("show", interface, "preshared-keys")
    node.wg("set", interface, "peer", peer, "remove")
    assert peer not in node.wg("show", interface)
    node.wg("set", interface, "fwmark", "off", "private-key", "/dev/null")
    assert node.wg("show", interface, "private-key").strip() == "(none)"
    assert node.wg("show", interface, "fwmark").strip() == "off"


def test_130_560_allowed_ips_in_one_command(node: Node) -> None:
    """Two peers of 65 280 prefixes each, within seconds."""
    keys = [_key(), _key()]
    sections = []
    for number, key in enumerate(keys):
        prefixes = [f"10.{number}.{i >> 8}.{i & 255}/32" for i in range(65280)]
        sections.append(
            f"[Peer]\nPublicKey = {key}\n" + "".join(f"AllowedIPs = {each}\n" for each in prefixes)
        )
    text = f"[Interface]\nPrivateKey = {_private()}\n" + "\n".join(sections)
    node.wg("setconf", node.interface, "/dev/stdin", stdin=text, timeout=60)
    shown = node.wg("show", node.interface, "allowed-ips", timeout=60)
    counts = {line.split("\t")[0]: len(line.split()) - 1 for line in shown.splitlines()}
    assert counts == dict.fromkeys(keys, 65280)
    node.wg("set", node.interface, "peer", keys[0], "allowed-ips", "")
    assert len(node.wg("show", node.interface, "allowed-ips", timeout=60).split()) == 65280 + 1 + 2


# ---- the socket itself ----


def _get(node: Node) -> list[str]:
    answer = node.uapi_say("get=1\n\n")
    assert answer.endswith("errno=0\n\n")
    return answer.splitlines()[:-2]


def _errno(answer: str) -> int:
    assert answer.startswith("errno="), answer
    return int(answer.strip().removeprefix("errno="))


KEY = "ab" * 32
BAD_LINES = [
    "bogus=1",
    "listen_port=65536",
    "listen_port=-1",
    "listen_port=port",
    "listen_port=",
    "private_key=1234",
    f"private_key={'zz' * 32}",
    "fwmark=4294967296",
    "replace_peers=false",
    "public_key=abcd",
    f"public_key={KEY}\nendpoint=nowhere",
    f"public_key={KEY}\nendpoint=1.2.3.4:99999",
    f"public_key={KEY}\nendpoint=[fe80::1%4294967296]:1",
    f"public_key={KEY}\nallowed_ip=10.0.0.0/33",
    f"public_key={KEY}\nallowed_ip=10.0.0.0/08",
    f"public_key={KEY}\nallowed_ip=10.0.0/8",
    f"public_key={KEY}\nallowed_ip=::/129",
    f"public_key={KEY}\npersistent_keepalive_interval=65536",
    f"public_key={KEY}\nremove=yes",
    f"public_key={KEY}\nprotocol_version=2",
    f"public_key={KEY}\nbogus=1",
    "no equals sign",
]


@udpring_only
@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line(node: Node, bad: str) -> None:
    """-EINVAL. Earlier lines stay applied, later lines are ignored, and the next request is served."""
    answer = node.uapi_say(f"set=1\nlisten_port=43000\n{bad}\nfwmark=99\n\n")
    assert _errno(answer) in (-errno.EINVAL, -errno.EPROTO)
    if bad == "bogus=1":
        assert _errno(answer) == -errno.EINVAL
    shown = _get(node)
    assert "listen_port=43000" in shown
    assert not any(line.startswith("fwmark=") and line != "fwmark=0" for line in shown)
    assert _errno(node.uapi_say("set=1\nfwmark=5\n\n")) == 0
    assert "fwmark=5" in _get(node)


def test_one_connection_many_requests_in_any_pieces(node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(node.uapi))
        for port in (44000, 44001, 44002):
            for byte in f"set=1\nlisten_port={port}\n\n":
                sock.sendall(byte.encode())
            assert sock.recv(100) == b"errno=0\n\n"
        sock.sendall(b"get=1\n\n")
        answer = b""
        while not answer.endswith(b"\n\n"):
            answer += sock.recv(65536)
        assert b"listen_port=44002\n" in answer


@udpring_only
def test_clients_that_misbehave_do_not_hinder_others(node: Node) -> None:
    """Connections that send nothing, half a request, or never read."""
    sockets = []
    try:
        for opening in (b"", b"set=1\nlisten_port=4", b"get=1\n\n" * 1000):
            for _ in range(10):
                sock = socket.socket(socket.AF_UNIX)
                sockets.append(sock)
                sock.settimeout(30)
                sock.connect(str(node.uapi))
                sock.sendall(opening)
        assert "listen_port" in "".join(_get(node))
        # A line without an end does not grow for ever.
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(node.uapi))
            try:
                for _ in range(200):
                    sock.sendall(b"x" * 65536)
            except OSError:
                pass  # closed by the server, as it should be
    finally:
        for sock in sockets:
            sock.close()
    _get(node)


@udpring_only
def test_idle_clients_do_not_lock_wg_out(node: Node) -> None:
    """More idle clients than there is room for: each newcomer replaces the longest idle one."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(130):
            sock = socket.socket(socket.AF_UNIX)
            sockets.append(sock)
            sock.connect(str(node.uapi))  # blocking, as wg does: it waits while the backlog is full
            sock.settimeout(30)
        assert "listening port" in node.wg("show", node.interface)
        sockets[-1].sendall(b"get=1\n\n")
        assert b"listen_port" in sockets[-1].recv(65536), "the youngest is still served"
    finally:
        for sock in sockets:
            sock.close()


@udpring_only
def test_peer_rules(node: Node) -> None:
    """update_only of an unknown peer is ignored. So is the own key. One allowed IP is removed."""
    one, two = secrets.token_bytes(32).hex(), secrets.token_bytes(32).hex()
    assert _errno(node.uapi_say(f"set=1\npublic_key={one}\nupdate_only=true\nallowed_ip=10.0.0.0/8\n\n")) == 0
    assert f"public_key={one}" not in _get(node)
    request = f"set=1\npublic_key={one}\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\npublic_key={two}\n\n"
    assert _errno(node.uapi_say(request)) == 0
    shown = _get(node)
    assert shown.index(f"public_key={one}") != shown.index(f"public_key={two}")
    assert _errno(node.uapi_say(f"set=1\npublic_key={one}\nallowed_ip=-10.0.0.0/8\n\n")) == 0
    assert "allowed_ip=10.0.0.0/8" not in _get(node)
    assert "allowed_ip=fd00::/8" in _get(node)
    # Removing another peer's prefix changes nothing.
    assert _errno(node.uapi_say(f"set=1\npublic_key={two}\nallowed_ip=-fd00::/8\n\n")) == 0
    assert "allowed_ip=fd00::/8" in _get(node)
    assert _errno(node.uapi_say("set=1\nreplace_peers=true\n\n")) == 0
    assert not any(line.startswith("public_key=") for line in _get(node))


@pytest.mark.parametrize("program", [SUBJECT, GO], ids=str)
def test_own_key_as_peer(rig: Rig, program: Program) -> None:
    """A peer with the interface's own key is ignored. A new private key removes the peer of that key."""
    tunnel = rig.tunnel((program, GO))
    a, b = tunnel.a, tunnel.b
    a.wg("set", a.interface, "peer", a.public_key, "allowed-ips", "10.9.9.0/24")
    assert a.public_key not in a.statuses()
    tunnel.ping()
    a.wg("set", a.interface, "private-key", "/dev/stdin", stdin=b.private_key)
    assert not a.statuses()


def test_new_private_key_ends_the_sessions(rig: Rig) -> None:
    """Keypairs of the old identity send no more. Once the far end has the new key, traffic continues."""
    tunnel = rig.tunnel((SUBJECT, GO))
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    old = a.public_key
    a.__post_init__()  # another key
    a.wg("set", a.interface, "private-key", "/dev/stdin", stdin=a.private_key)
    b.wg("set", b.interface, "peer", old, "remove")
    b.configure()
    tunnel.ping()
    assert a.status(b).handshake > 0
