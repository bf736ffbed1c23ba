"""AES-256-GCM between two udpring nodes, and with an end that has another cipher or runs another program."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Rig, Tunnel, until
from lab.counters import counters, watched
from lab.traffic import datagrams
from lab.wire import DATA, INITIATION, RESPONSE, Capture, singly

AES, CHACHA = "aes-256-gcm", "chacha20-poly1305"
MARK = b"uAG"


def set_cipher(node: Node, other: Node, cipher: str) -> None:
    key = base64.b64decode(other.public_key).hex()
    answer = node.uapi_say(f"set=1\npublic_key={key}\nupdate_only=true\ncipher={cipher}\n\n")
    assert answer == "errno=0\n\n"


def set_both(tunnel: Tunnel, cipher: str) -> None:
    set_cipher(tunnel.a, tunnel.b, cipher)
    set_cipher(tunnel.b, tunnel.a, cipher)


def test_stats_name_the_library_of_each_cipher_in_use(rig: Rig, tmp_path: Path) -> None:
    tunnel = rig.tunnel((watched(tmp_path), SUBJECT))
    assert " by " not in counters(tunnel.a)["plane"]["aead"]
    set_both(tunnel, AES)
    assert re.fullmatch(rf"{CHACHA} by \S+, {AES} by \S+", counters(tunnel.a)["plane"]["aead"])


def no_answer(tunnel: Tunnel, *, back: bool = False) -> None:
    here, there = (tunnel.b, tunnel.a) if back else (tunnel.a, tunnel.b)
    done = here.space.run("ping", "-n", "-c", "3", "-i", "0.2", "-w", "2", there.inner4, check=False)
    assert done.returncode == 1, done.stdout


def refused(node: Node) -> int:
    """Handshake messages that the node dropped because of their cipher."""
    dropped: dict[str, int] = counters(node)["control"]["dropped"]
    return dropped.get("cipher_mismatch", 0)


@pytest.mark.parametrize("psk", [False, True], ids=["no-psk", "psk"])
@pytest.mark.parametrize("family", [4, 6], ids=["outer4", "outer6"])
def test_traffic(rig: Rig, tmp_path: Path, family: int, psk: bool) -> None:
    tunnel = rig.tunnel(family=family, psk=psk)
    a, b = tunnel.a, tunnel.b
    set_both(tunnel, AES)
    singly(a.space, b.space)
    with Capture(b.space, tmp_path / "wire.pcap") as capture:
        done = a.space.run("ping", "-n", "-c", "1", "-W", "20", b.inner4, check=False)
        assert done.returncode == 0, f"the first packet was lost: {done.stdout}"
        tunnel.ping(back=True)
        datagrams(a.space, b.space, a.inner4, b.inner4, range(0, 1393, 29))
        datagrams(b.space, a.space, b.inner6, a.inner6, range(0, 1373, 29))
        capture.wait(80, DATA)
    messages = capture.messages()
    assert {message.payload[0] for message in messages} == {INITIATION, RESPONSE, DATA}
    assert {message.payload[1:4] for message in messages} == {MARK}
    for inner in (4, 6):
        tunnel.tcp_both_ways(1 << 20, family=inner)
    for here, there in ((a, b), (b, a)):
        status = here.status(there)  # by wg, which omits unknown keys
        assert status.handshake > 0
        assert status.received > 2 << 20
        assert "cipher=aes-256-gcm\n" in here.uapi_say("get=1\n\n")
    shown = a.space.run(sys.executable, "-P", "-m", "udpring.cli.main", "show", a.interface, "--json").stdout
    assert json.loads(shown)[a.interface]["peers"][b.public_key]["cipher"] == AES


def test_cipher_change_needs_both_ends(rig: Rig, tmp_path: Path) -> None:
    """Traffic stops until the other end has the cipher too, and continues after a new handshake."""
    tunnel = rig.tunnel((SUBJECT, watched(tmp_path)), both_know=True)
    a, b = tunnel.a, tunnel.b
    tunnel.ping()
    assert "cipher" not in a.uapi_say("get=1\n\n")
    for cipher in (AES, CHACHA):
        before = refused(b)
        set_cipher(a, b, cipher)
        # Only this end dropped the old session, so messages on it have no receiver.
        no_answer(tunnel, back=True)
        no_answer(tunnel)
        until(lambda: refused(b) > before, "b counts what it refused")  # noqa: B023 - asked in this round
        set_cipher(b, a, cipher)
        tunnel.ping()
        tunnel.ping(back=True)


@pytest.mark.parametrize("initiator_has", [AES, CHACHA])
def test_a_mismatch_is_counted_and_not_answered(rig: Rig, tmp_path: Path, initiator_has: str) -> None:
    tunnel = rig.tunnel((SUBJECT, watched(tmp_path)))
    a, b = tunnel.a, tunnel.b
    set_cipher(a, b, initiator_has)
    set_cipher(b, a, CHACHA if initiator_has == AES else AES)
    with Capture(b.space, tmp_path / "wire.pcap") as capture:
        no_answer(tunnel)
        capture.wait(1, INITIATION)
    assert {message.payload[0] for message in capture.messages()} == {INITIATION}
    until(lambda: refused(b) > 0, "b counts it")
    assert a.status(b).handshake == 0
    assert b.status(a).handshake == 0
    assert b.status(a).received == 0


@pytest.mark.parametrize("back", [False, True], ids=["initiates", "responds"])
def test_wireguard_go_takes_no_such_message_for_its_own(rig: Rig, tmp_path: Path, back: bool) -> None:
    tunnel = rig.tunnel((watched(tmp_path), GO), both_know=True)
    a, b = tunnel.a, tunnel.b
    set_cipher(a, b, AES)
    no_answer(tunnel, back=back)
    assert a.status(b).handshake == 0
    assert b.status(a).handshake == 0
    if back:
        until(lambda: refused(a) > 0, "the initiation without the marking is refused")
    else:
        assert b.status(a).received == 0
        until(lambda: "Received message with unknown type" in b.log_text(), "they are logged")
    set_cipher(a, b, CHACHA)
    tunnel.ping()
