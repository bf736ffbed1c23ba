"""``udpring bugreport``: complete, private, and without a key in any encoding."""

from __future__ import annotations

import base64
import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.cli import bugreport
from udpring.cli._redaction import Redactor, encodings
from udpring.cli.main import main
from udpring.tunnel import keys, up_record

from .conftest import KEY, OTHER, PEER, Server

CLAMPED = keys.clamp(KEY)
FILE_PSK = bytes(range(100, 132))
HOOK_KEY = bytes(range(60, 92))
CONFIG = f"""\
# my laptop, old key {keys.to_base64(HOOK_KEY)}
[Interface]
PrivateKey = {keys.to_base64(KEY)}
PrivatKey = {keys.to_base64(KEY)[:-3]}
Address = 10.9.0.1/24, fd09::1/64
DNS = 10.9.0.53, corp.example
PostUp = curl -H 'Authorization: hunter2' https://x; wg set %i private-key {HOOK_KEY.hex()}
hunter2 without a setting
[Peer]
# friendly_name = garden shed
PublicKey = {keys.to_base64(PEER)}
PresharedKey = {keys.to_base64(FILE_PSK)}
AllowedIPs = 10.9.0.2/32
Endpoint = vpn.corp.example:51820
"""


def _unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        members = {}
        for member in archive:
            assert (member.uname, member.gname, member.uid) == ("", "", 0)
            read = archive.extractfile(member)
            assert read is not None
            members[member.name.removeprefix("udpring-bugreport/")] = read.read().decode()
    return members


@pytest.fixture
def report(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path for one, of an interface that runs from CONFIG."""
    monkeypatch.setenv("WG_PASSWORD", "hunter2")  # another program's
    monkeypatch.setenv("WG_TUN_FD", "44")
    monkeypatch.setenv("UDPRING_TEST_SETTING", f"key {keys.to_base64(KEY)}")
    file = tmp_path / "wg0.conf"
    file.write_text(CONFIG)
    record = up_record.write("wg0", file, allow_hooks=False)
    output = tmp_path / "report.tar.gz"
    old = os.umask(0)
    try:
        yield output  # type: ignore[misc]
    finally:
        os.umask(old)
        record.remove()


def test_no_secret_is_in_it_in_any_encoding(report: Path) -> None:
    assert main(["bugreport", "-o", str(report)]) == 0
    raw = io.BytesIO(report.read_bytes())
    with tarfile.open(fileobj=raw) as archive:
        everything = b"".join(archive.extractfile(member).read() for member in archive)  # type: ignore[union-attr]
    lowered = everything.lower()
    for secret in (KEY, CLAMPED, FILE_PSK, HOOK_KEY):
        assert secret not in everything
        for text in encodings(secret):
            assert text.lower().encode() not in lowered
        assert repr(secret)[2:-1].encode() not in everything
        assert str(list(secret))[1:-1].encode() not in everything
    assert b"hunter2" not in everything
    assert b"WG_TUN_FD=44" in everything


def test_file_is_private_and_new(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bugreport", "-o", str(report)]) == 0
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    before = report.read_bytes()
    assert main(["bugreport", "-o", str(report)]) == 3
    assert "choose another name" in capsys.readouterr().err
    assert report.read_bytes() == before
    link = report.with_name("link")
    link.symlink_to(report.with_name("target"))
    assert main(["bugreport", "-o", str(link)]) == 3
    assert not report.with_name("target").exists()


def test_it_has_what_a_report_needs(report: Path) -> None:
    assert main(["bugreport", "wg0", "-o", str(report)]) == 0
    found = _unpacked(report)
    assert set(found) >= {
        "README", "versions.txt", "doctor.txt", "wg0/stats.json", "wg0/show.json",
        "wg0/configuration", "network/link.txt", "network/route.txt", "network/rule.txt",
    }  # fmt: skip
    assert os.uname().release in found["versions.txt"]
    assert os.uname().nodename not in found["versions.txt"].split()
    assert "io_uring" in found["doctor.txt"]
    assert "not available" in found["wg0/stats.json"], "another program serves the interface"
    settings = found["wg0/configuration"]
    assert "PrivateKey = (redacted)" in settings
    assert "PostUp = (redacted)" in settings
    assert f"PublicKey = {keys.to_base64(PEER)}" in settings
    assert "Endpoint = vpn.corp.example:51820" in settings
    assert keys.to_base64(OTHER) in found["wg0/show.json"]


def test_addresses_go_where_asked(report: Path) -> None:
    assert main(["bugreport", "wg0", "--redact-addresses", "-o", str(report)]) == 0
    found = _unpacked(report)
    for each in ("10.9.0", "fd09::1", "1.2.3.4", "corp.example"):
        assert not any(each in text for text in found.values()), each
    settings = found["wg0/configuration"]
    assert "AllowedIPs = ip4-" in settings
    assert "/32" in settings
    assert ":51820" in settings
    assert "link/loopback 00" not in found["network/link.txt"]


def test_part_that_fails_has_its_reason(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("ip", 1)

    monkeypatch.setattr(bugreport.subprocess, "run", refuse)
    assert main(["bugreport", "wg7", "-o", str(report)]) == 0
    found = _unpacked(report)
    assert "TimeoutExpired" in found["network/link.txt"]
    assert "nothing serves the interface wg7" in found["wg7/show.json"]


@given(st.binary(min_size=32, max_size=32), st.text(max_size=30), st.text(max_size=30))
def test_known_secret_never_stays(secret: bytes, before: str, after: str) -> None:
    redactor = Redactor()
    redactor.add_secrets([secret])
    for text in encodings(secret):
        assert text.lower() not in redactor.text(f"{before} {text} {after}").lower()
        assert text.upper() not in redactor.text(f"{before}{text.upper()}{after}")


@given(st.binary(min_size=32, max_size=32))
def test_unknown_key_goes_and_public_key_stays(key: bytes) -> None:
    redactor = Redactor()
    for text in (keys.to_base64(key), key.hex(), base64.urlsafe_b64encode(key).decode(), key.hex(":")):
        assert text not in redactor.text(f"x = {text}")
    redactor.add_public([key])
    assert redactor.text(keys.to_base64(key)) == keys.to_base64(key)


def test_address_has_the_same_number_everywhere() -> None:
    redactor = Redactor(addresses=True)
    said = redactor.text("10.0.0.1/24 [2001:db8::1]:51820 10.0.0.2 10.0.0.1:80 02:00:5e:10:00:ff 0.0.0.0/0")
    assert said == "ip4-1/24 [ip6-1]:51820 ip4-2 ip4-1:80 mac-1 0.0.0.0/0"
    assert redactor.text("at 11:08:50 2001:DB8:0::1 10.0.0.1") == "at 11:08:50 ip6-1 ip4-1"
    assert redactor.text("Linux 6.1.0-23, version 1.2.3") == "Linux 6.1.0-23, version 1.2.3"
