"""``udpring ping`` and ``udpring path``: finding the peer, causes in words, verdicts, numbers of options."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from udpring.cli import path, ping
from udpring.cli._find_peer import FoundPeer, find_peer, look_again
from udpring.cli.main import main
from udpring.cli.path import Trains, Way, advised_mtu
from udpring.cli.ping import Side, causes
from udpring.errors import ConfigError, HostError
from udpring.tunnel import keys, uapi, up_record
from udpring.tunnel.icmp_echo import EchoSocket, EchoTarget
from udpring.tunnel.link_facts import LinkFacts, link_facts
from udpring.tunnel.path_probe import Loss

from . import conftest
from .conftest import OTHER, PEER, Server

SECOND = 10**9


def prefix(text: str) -> tuple[bytes, int]:
    network = ipaddress.ip_network(text)
    return network.network_address.packed, network.prefixlen


@pytest.fixture
def peers(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """wg0 with two peers. The first is called "garden shed"."""
    first = uapi.PeerInfo(
        PEER,
        endpoint=(bytes([127, 0, 0, 1]), 9, ""),
        allowed_ips=[prefix("10.9.0.0/24"), prefix("10.9.0.2/32")],
    )
    second = uapi.PeerInfo(OTHER, allowed_ips=[prefix("10.9.0.0/25"), prefix("fd09::/64")])
    monkeypatch.setattr(conftest, "STATE", replace(conftest.STATE, peers=[first, second]))
    file = tmp_path / "elsewhere" / "wg0.conf"
    file.parent.mkdir()
    file.write_text(
        f"[Interface]\n[Peer]\n# friendly_name = garden shed\nPublicKey = {keys.to_base64(PEER)}\n"
    )
    record = up_record.write("wg0", file, allow_hooks=False)
    yield
    record.remove()


@pytest.mark.parametrize("word", ["garden shed", keys.to_base64(PEER), keys.to_base64(PEER)[:6]])
def test_peer_is_found_by_name_and_key(peers: None, word: str) -> None:
    found = find_peer(word)
    assert (found.peer.public_key, found.name, found.interface) == (PEER, "garden shed", "wg0")
    assert str(found.address) == "10.9.0.2"
    assert look_again(found).peer == found.peer


@pytest.mark.parametrize(
    ("word", "key"),
    [("10.9.0.2", PEER), ("10.9.0.3", OTHER), ("10.9.0.200", PEER), ("fd09::7", OTHER)],
)
def test_peer_is_found_by_the_longest_prefix(peers: None, word: str, key: bytes) -> None:
    found = find_peer(word, "wg0")
    assert found.peer.public_key == key
    assert str(found.address) == word


@pytest.mark.parametrize("word", ["10.8.0.1", "garden", "AAE", "::"])
def test_no_such_peer_is_bad_usage(peers: None, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ping", word]) == 2
    assert f"no such peer: '{word}'" in capsys.readouterr().err


def test_peer_without_a_single_address_needs_one(peers: None, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ping", "path"):
        assert main([command, keys.to_base64(OTHER)]) == 2
        assert "address in the tunnel instead of its name" in capsys.readouterr().err


def test_several_matches_are_listed(peers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    twins = [replace(peer, allowed_ips=[prefix("10.9.0.0/24")]) for peer in conftest.STATE.peers]
    monkeypatch.setattr(conftest, "STATE", replace(conftest.STATE, peers=twins))
    with pytest.raises(ConfigError, match="2 peers match"):
        find_peer("10.9.0.9")


def test_interface_of_this_namespace_comes_first(peers: None, tmp_path: Path) -> None:
    """The sockets of all network namespaces are in one directory."""
    other = Server(tmp_path / "lo.sock")
    other.start()
    try:
        assert find_peer(keys.to_base64(PEER)).interface == "lo"
        assert find_peer(keys.to_base64(PEER), "wg0").interface == "wg0"
    finally:
        other.stop()


def test_no_interface_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uapi, "SOCKET_DIRECTORY", str(tmp_path))
    with pytest.raises(HostError, match="no interface runs"):
        find_peer("any")
    assert main(["ping", "any", "--interface", "wg7"]) == 3


def test_interface_of_another_namespace_is_named(peers: None, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["ping", "garden shed", "--count", "1", "--timeout", "0.1", "--json"])
    out = capsys.readouterr()
    if code == 3:
        pytest.skip(f"no raw sockets here: {out.err}")
    assert code == 1
    said = json.loads(out.out)
    assert said["causes"] == ["wg0 is not in this network namespace: run this where it is (ip netns exec)"]
    assert (said["name"], said["address"], said["endpoint"]) == ("garden shed", "10.9.0.2", "127.0.0.1:9")


# ---- causes ----


@pytest.fixture
def tunnel() -> Iterator[Side]:
    try:
        echo = EchoSocket(EchoTarget(ipaddress.ip_address("127.0.0.1")))
    except HostError as refused:
        pytest.skip(f"no raw sockets here: {refused}")
    with echo:
        yield Side("tunnel", echo, sent=1)


def found(**state: object) -> FoundPeer:
    peer = uapi.PeerInfo(PEER, endpoint=(bytes([192, 0, 2, 1]), 51820, ""))
    return FoundPeer("lo", uapi.DeviceInfo(), replace(peer, **state), "x", ipaddress.ip_address("10.9.0.2"))  # type: ignore[arg-type]


def causes_of(before: FoundPeer, after: FoundPeer, tunnel: Side, answers: bool) -> str:
    outside = Side("endpoint", sent=1, seconds=[0.1] if answers else [])
    return "\n".join(causes(before, after, tunnel, outside))


def test_causes_follow_the_state(tunnel: Side) -> None:
    now = time.time_ns()
    silent = found()
    assert "did not answer the node's initiations" in causes_of(silent, silent, tunnel, True)
    assert "look at its port" in causes_of(silent, silent, tunnel, True)
    assert "does not answer echo either" in causes_of(silent, silent, tunnel, False)
    old = found(last_handshake=now - 181 * SECOND)
    assert "no handshake: 192.0.2.1:51820" in causes_of(old, old, tunnel, True)
    fresh = found(last_handshake=now - 20 * SECOND)
    assert "nothing came from 192.0.2.1:51820, although" in causes_of(fresh, fresh, tunnel, True)
    heard = found(last_handshake=now - 20 * SECOND, rx_bytes=5)
    said = causes_of(fresh, heard, tunnel, True)
    assert "nothing came" not in said
    assert "have 127.0.0.1" in said
    nowhere = found(endpoint=None)
    assert "does not know the peer's endpoint" in causes_of(nowhere, nowhere, tunnel, False)


def test_interface_that_is_down_is_the_cause(tunnel: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ping, "link_facts", lambda name: LinkFacts(False, 1420))
    assert causes_of(found(), found(), tunnel, True) == "lo is down: ip link set dev lo up"


def test_link_facts_are_those_of_the_kernel() -> None:
    loopback = link_facts("lo")
    assert loopback is not None
    assert (loopback.up, loopback.mtu) == (True, 65536)
    assert link_facts("nosuch0") is None
    assert link_facts("") is link_facts("x" * 16) is None


def test_loss_and_times_of_a_side() -> None:
    side = Side("tunnel", sent=4, seconds=[0.001, 0.003])
    assert side.as_text() == "tunnel: 4 sent, 2 answered, 50% lost, min/average/max 1.000/2.000/3.000 ms"
    assert side.as_json() == {
        "sent": 4,
        "received": 2,
        "lostPercent": 50.0,
        "roundTripMs": {"min": 1.0, "average": 2.0, "max": 3.0},
    }


# ---- path ----


@pytest.mark.parametrize(
    ("trains", "verdict"),
    [
        (Trains(256, 256, 1000, 9, 8, 0), "survive"),
        (Trains(256, 250, 1000, 9, 8, 0), "6 of 256 packets in bursts were lost: they may not survive"),
        (
            Trains(256, 256, 1000, 0, 0, 0),
            "the node sent none: its packets were single, or it has found that trains are lost",
        ),
        (Trains(256, 256, 1000, 3, 0, 2), "the route refuses trains, so the node sends single datagrams"),
        (Trains(256, 256, 1000, 0, 0, 0, "switched off"), "the node sends none: switched off"),
        (Trains(256, 256, 1000), "this program does not count its trains"),
    ],
)
def test_verdict_of_trains(trains: Trains, verdict: str) -> None:
    assert trains.verdict == verdict


@pytest.mark.parametrize(
    ("host", "outer", "inner"),
    [("192.0.2.1", 1500, 1440), ("2001:db8::1", 1500, 1420), ("192.0.2.1", 1304, 1244)],
)
def test_mtu_leaves_room_for_the_tunnel(host: str, outer: int, inner: int) -> None:
    peer = found(endpoint=(ipaddress.ip_address(host).packed, 1, ""))
    assert advised_mtu(peer, Way(1420, 1420, ()), Way(1500, outer, ())) == inner
    assert advised_mtu(peer, Way(1420, 1420, ()), Way(1500, 0, ())) is None


def test_text_names_what_to_change() -> None:
    loss = (Loss(64, 10, 10, 0.001), Loss(1232, 10, 9, 0.002))
    trains = Trains(256, 256, 1000, 9, 8, 0)
    said = "\n".join(path.as_text(found(), Way(1420, 1232, loss), Way(1500, 1304, loss[:1]), trains, 1244))
    assert "tunnel: 1232 bytes of the 1420 of lo were answered" in said
    assert "larger packets of lo are lost: MTU = 1244 avoids that" in said
    assert "1232   1 of 10 lost, 2.00 ms" in said
    whole = "\n".join(path.as_text(found(), Way(1420, 1420, loss), Way(1500, 1304, loss), trains, 1244))
    assert "leave in fragments: MTU = 1244" in whole


@pytest.mark.parametrize("words", [["--count", "0"], ["--interval", "-1"], ["--timeout", "nan"]])
def test_wrong_numbers_are_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ping", "x", *words])
    assert ended.value.code == 2
    assert "is not a" in capsys.readouterr().err
