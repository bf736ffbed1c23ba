"""SaveConfig writes the live state, keeps what only the file has, and makes the file private."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest

from udpring.errors import HostError
from udpring.tunnel import keys, saved_config
from udpring.tunnel.config import Cipher, Config, Endpoint
from udpring.tunnel.saved_config import live_config, write_private
from udpring.tunnel.uapi import DeviceInfo, PeerInfo

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
TEXT = f"""[Interface]
PrivateKey = {keys.to_base64(NEW)}
Address = 10.0.0.1/24
DNS = 1.1.1.1, corp.example
MTU = 1400
Table = 77
PostUp = echo %i
SaveConfig = true
[Peer]
# friendly_name = ann
PublicKey = {keys.to_base64(OLD)}
"""
STATE = DeviceInfo(
    OLD,
    4000,
    0x77,
    (
        PeerInfo(
            OLD, NEW, (bytes([192, 0, 2, 1]), 5, ""), persistent_keepalive=7, allowed_ips=[(bytes(4), 0)]
        ),
        PeerInfo(
            NEW,
            endpoint=(b"\xfe\x80" + bytes(13) + b"\x01", 6, "eth0"),
            cipher=Cipher.AES_256_GCM,
            offload=True,
        ),
    ),
    offload=False,
)
ADDRESS = ipaddress.ip_interface("10.0.0.9/16")


def test_live_values_replace_those_of_the_file() -> None:
    saved = Config.loads(live_config(Config.loads(TEXT), STATE, (ADDRESS,), 1300).dumps())
    settings = saved.interface
    assert (settings.private_key, settings.listen_port, settings.fwmark) == (OLD, 4000, 0x77)
    assert (settings.addresses, settings.mtu) == ((ADDRESS,), 1300)
    first, second = saved.peers
    assert (first.preshared_key, first.endpoint) == (NEW, Endpoint("192.0.2.1", 5))
    assert (first.persistent_keepalive, first.allowed_ips) == (7, (ipaddress.ip_network("0.0.0.0/0"),))
    assert (settings.offload, first.offload, second.offload) == (False, None, True)
    assert (second.endpoint, second.cipher) == (Endpoint("fe80::1%eth0", 6), Cipher.AES_256_GCM)


def test_settings_of_the_file_alone_are_kept() -> None:
    loaded = Config.loads(TEXT)
    settings = Config.loads(live_config(loaded, STATE, (ADDRESS,), 1300).dumps()).interface
    for name in ("dns", "dns_search", "table", "post_up", "save_config"):
        assert getattr(settings, name) == getattr(loaded.interface, name), name
    assert live_config(loaded, STATE, (), 1300).peers[0].name == "ann"


def test_several_endpoints_of_a_peer_are_kept() -> None:
    """``wg`` knows the present one alone."""
    text = TEXT + "Endpoint = vpn.example:5\nEndpoint = 192.0.2.1:5\n"
    saved = Config.loads(live_config(Config.loads(text), STATE, (ADDRESS,), 1300).dumps())
    assert saved.peers[0].endpoints == (Endpoint("vpn.example", 5), Endpoint("192.0.2.1", 5))


def test_mtu_absent_from_file_is_not_saved() -> None:
    assert live_config(Config.loads("[Interface]\n"), STATE, (), 1300).interface.mtu is None


def test_the_file_is_replaced_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "wg0.conf"
    file.write_text("old")
    file.chmod(0o644)
    other = tmp_path / "link"
    other.hardlink_to(file)
    before = os.umask(0)
    try:
        write_private(file, "new")
    finally:
        os.umask(before)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o600)
    assert other.read_text() == "old", "it was written in place"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "wg0.conf"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    file = tmp_path / "wg0.conf"
    file.mkdir()
    with pytest.raises(HostError, match="cannot be saved"):
        write_private(file, "new")
    assert [each.name for each in tmp_path.iterdir()] == ["wg0.conf"]


def test_killed_ip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints no reason."""
    fake = tmp_path / "ip"
    fake.write_text("#!/bin/sh\nkill -TERM $$\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(HostError, match="ip ended with -15"):
        saved_config._interface("wg0", ())
