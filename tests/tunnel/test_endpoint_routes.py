"""Endpoints whose route leads into their own tunnel."""

from __future__ import annotations

import ipaddress

import pytest

from udpring import Config
from udpring.tunnel import keys
from udpring.tunnel.config import IPAddress
from udpring.tunnel.endpoint_routes import loops_of_config, loops_of_device
from udpring.tunnel.uapi_values import DeviceInfo, PeerInfo

PRIVATE = keys.to_base64(bytes([0x58] * 32))
KEYS = [bytes([number] * 32) for number in range(1, 4)]


def config(*peers: tuple[str, str], head: str = "") -> Config:
    text = f"[Interface]\nPrivateKey = {PRIVATE}\n{head}\n"
    for key, (endpoint, allowed) in zip(KEYS, peers, strict=False):
        text += f"[Peer]\nPublicKey = {keys.to_base64(key)}\nEndpoint = {endpoint}\nAllowedIPs = {allowed}\n"
    return Config.loads(text)


def looping(config: Config) -> list[bytes]:
    return [loop.public_key for loop in loops_of_config(config)]


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("10.3.0.2:51820", "0.0.0.0/1, 128.0.0.0/1"),
        ("200.3.0.2:51820", "0.0.0.0/1, 128.0.0.0/1"),
        ("10.3.0.2:51820", "10.3.0.0/24"),
        ("[fd00::2]:51820", "::/1, 8000::/1"),
        ("10.3.0.2:51820", "0.0.0.0/0, 10.3.0.0/24"),
    ],
)
def test_endpoint_inside_its_own_allowed_ips_loops(endpoint: str, allowed: str) -> None:
    assert looping(config((endpoint, allowed))) == KEYS[:1]


@pytest.mark.parametrize(
    ("endpoint", "allowed", "head"),
    [
        ("10.3.0.2:51820", "0.0.0.0/0, ::/0", ""),
        ("10.3.0.2:51820", "10.9.0.0/24", ""),
        ("[fd00::2]:51820", "0.0.0.0/1, 128.0.0.0/1", ""),
        ("vpn.example:51820", "0.0.0.0/1, 128.0.0.0/1", ""),
        ("10.3.0.2:51820", "0.0.0.0/1, 128.0.0.0/1", "Table = off"),
        ("10.3.0.2:51820", "0.0.0.0/1, 128.0.0.0/1", "Table = 70"),
        ("10.3.0.2:51820", "0.0.0.0/1, 128.0.0.0/1", "PostUp = ip route add 10.3.0.2 via 10.1.0.1"),
        ("10.3.0.2:51820", "0.0.0.0/1", "FwMark = 7\nPreUp = ip rule add fwmark 7 table 70"),
    ],
)
def test_what_leaves_the_way_open_is_no_loop(endpoint: str, allowed: str, head: str) -> None:
    assert looping(config((endpoint, allowed), head=head)) == []


def test_onion_routing_is_no_loop_and_a_circle_is() -> None:
    first, second = ("10.3.0.2:1", "10.9.0.0/24"), ("10.9.0.2:2", "10.8.0.0/24")
    assert looping(config(first, second)) == []
    assert looping(config(("10.8.0.2:1", "10.9.0.0/24"), second)) == KEYS[:2]
    # The second leads into the loop that the first makes with itself, but is not part of it.
    assert looping(config(("10.9.0.1:1", "10.9.0.0/24"), second)) == KEYS[:1]


def test_each_endpoint_of_a_peer_is_checked() -> None:
    """A peer may be used at any of them."""
    free, inside, deeper = "192.0.2.1:1", "10.3.0.2:2", "10.9.0.2:3"
    several = config((f"{free}\nEndpoint = {inside}\nEndpoint = {inside[:-1]}9", "10.3.0.0/24"))
    assert [loop.endpoint for loop in loops_of_config(several)] == [inside, f"{inside[:-1]}9"]
    # The second peer leads into the first, and one of its endpoints back into the second.
    circle = config((f"{free}\nEndpoint = {deeper}", "10.3.0.0/24"), (inside, "10.9.0.0/24"))
    assert [(loop.public_key, loop.endpoint) for loop in loops_of_config(circle)] == [
        (KEYS[0], deeper),
        (KEYS[1], inside),
    ]
    assert looping(config((free, "10.3.0.0/24"), (inside, "10.9.0.0/24"))) == []


def test_warning_names_endpoint_and_prefix() -> None:
    (loop,) = loops_of_config(config(("10.3.0.2:51820", "0.0.0.0/1, 128.0.0.0/1")))
    assert "10.3.0.2:51820" in str(loop)
    assert "0.0.0.0/1" in str(loop)


def test_running_interface_is_checked_by_its_routes() -> None:
    def device(mark: int) -> DeviceInfo:
        inside = ipaddress.ip_address("10.3.0.2").packed
        allowed = ((bytes(4), 0), (bytes(16), 0))
        return DeviceInfo(
            fwmark=mark, peers=[PeerInfo(KEYS[0], endpoint=(inside, 51820, ""), allowed_ips=allowed)]
        )

    def route(address: IPAddress, mark: int) -> str:
        return "eth0" if mark else "wg0"

    assert [loop.public_key for loop in loops_of_device(device(0), "wg0", route)] == KEYS[:1]
    assert loops_of_device(device(51820), "wg0", route) == ()
    assert loops_of_device(device(0), "wg1", route) == ()
