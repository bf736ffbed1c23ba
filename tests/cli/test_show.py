"""``udpring show`` and the UAPI client below it, against a UAPI server."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from udpring.cli import show
from udpring.cli._peer_names import PeerNames
from udpring.cli.main import main
from udpring.errors import HostError
from udpring.tunnel import keys, uapi, uapi_client, up_record
from udpring.wireguard.cipher import Cipher

from .conftest import KEY, OTHER, PEER, Server


def test_text(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "wg0"]) == 0
    out = capsys.readouterr().out
    head, middle = out.split("  latest handshake: ")
    assert head == (
        f"interface: wg0\n  public key: {keys.to_base64(keys.public_key(KEY))}\n  private key: (hidden)\n"
        f"  listening port: 51820\n  fwmark: 0xca6c\n\npeer: {keys.to_base64(PEER)}\n"
        "  preshared key: (hidden)\n"
        "  endpoint: 1.2.3.4:5\n  allowed ips: 0.0.0.0/0\n"
    )
    assert middle.endswith(
        " ago\n  transfer: 3 B received, 2.00 KiB sent\n  persistent keepalive: every 25 seconds\n\n"
        f"peer: {keys.to_base64(OTHER)}\n  allowed ips: (none)\n"
    )


@pytest.mark.parametrize("command", [["show"], ["show", "--json"], ["stats"]], ids=" ".join)
def test_interface_that_ends_meanwhile_is_left_out(
    command: list[str], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as ending:
        ending.bind(str(Path(uapi.SOCKET_DIRECTORY) / "wg1.sock"))
        ending.listen()

        def end() -> None:
            for _ in range(2):  # the look for interfaces, and the request
                ending.accept()[0].close()

        thread = threading.Thread(target=end)
        thread.start()
        assert main(command) == 0
        thread.join()
    said = capsys.readouterr()
    assert "wg1" in said.err
    assert "wg1" not in said.out


def test_json_has_wg_json_names_and_no_secrets(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """It contains secrets only on request."""
    assert main(["show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "wg0": {
            "publicKey": keys.to_base64(keys.public_key(KEY)),
            "listenPort": 51820,
            "fwmark": 0xCA6C,
            "peers": {
                keys.to_base64(PEER): {
                    "endpoint": "1.2.3.4:5",
                    "latestHandshake": 1_700_000_000,
                    "transferRx": 3,
                    "transferTx": 2048,
                    "persistentKeepalive": 25,
                    "allowedIps": ["0.0.0.0/0"],
                },
                keys.to_base64(OTHER): {"transferRx": 0, "transferTx": 0, "allowedIps": []},
            },
        }
    }
    assert main(["show", "--json", "--show-keys"]) == 0
    shown = json.loads(capsys.readouterr().out)["wg0"]
    assert shown["privateKey"] == keys.to_base64(KEY)
    assert shown["peers"][keys.to_base64(PEER)]["presharedKey"] == keys.to_base64(KEY)


def test_a_cipher_that_is_not_the_default_is_shown() -> None:
    for cipher in Cipher:
        device = uapi.DeviceInfo(peers=[uapi.PeerInfo(OTHER, cipher=cipher)])
        reported = cipher is not Cipher.CHACHA20_POLY1305
        assert ("  cipher: aes-256-gcm" in show.as_text("wg0", device, {}, False, 0)) is reported
        peers = show.as_json(device, {}, False)["peers"]
        assert isinstance(peers, dict)
        assert peers[keys.to_base64(OTHER)].get("cipher") == ("aes-256-gcm" if reported else None)


def test_names_come_from_the_interface_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from udpring.tunnel import config  # noqa: PLC0415

    monkeypatch.setattr(config, "CONFIG_DIRECTORY", tmp_path)
    (tmp_path / "wg0.conf").write_text(f"[Peer]\n# laptop\nPublicKey = {keys.to_base64(PEER)}\n")
    assert main(["show", "wg0"]) == 0
    assert f"peer: {keys.to_base64(PEER)}\n  name: laptop\n" in capsys.readouterr().out


def test_interfaces_leaves_out_unserved_ones(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.sock").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    assert uapi_client.interfaces(tmp_path) == ["wg0"]
    assert (tmp_path / "dead.sock").exists()
    assert uapi_client.interfaces(tmp_path / "none") == []


@pytest.mark.parametrize("name", ["none", "../wg0", "a/b"])
def test_unserved_interface_exits_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(uapi, "SOCKET_DIRECTORY", str(tmp_path))
    assert main(["show", name]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_no_interfaces_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uapi, "SOCKET_DIRECTORY", str(tmp_path))
    assert main(["show"]) == 0
    assert main(["show", "--json"]) == 0
    assert capsys.readouterr().out == "{}\n"


def test_set_passes_in_order_and_returns_refusal(server: Server, tmp_path: Path) -> None:
    client = uapi_client.UapiClient("wg0", tmp_path)
    client.set([uapi.SetListenPort(81), uapi.ReplacePeers()])
    with pytest.raises(uapi_client.UapiError) as caught:
        client.set([uapi.SetListenPort(80), uapi.ReplacePeers()])
    assert caught.value.errno == 98
    assert [type(op).__name__ for op in server.operations] == [
        "SetListenPort",
        "ReplacePeers",
        "EndRequest",
        "SetListenPort",
        "EndRequest",
    ]


def test_an_answer_cut_short_or_senseless_is_1(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for answer in (b"", b"listen_port=1\n", b"what\n"):
        server.answer = answer
        assert main(["show", "wg0"]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "wg0.sock"))
        silent.listen()
        with pytest.raises(uapi_client.UapiError, match=r"no answer within 0\.2 s"):
            uapi_client.UapiClient("wg0", tmp_path, timeout=0.2).get()


@pytest.mark.parametrize(
    ("limit", "value", "piece", "pause"),
    [
        ("ANSWER_MAX", 1 << 20, f"public_key={KEY.hex()}\n".encode() * 500, 0.0),
        ("ANSWER_SECONDS", 0.3, b"x", 0.01),
    ],
    ids=["bytes", "seconds"],
)
def test_answer_without_end_is_given_up(
    limit: str, value: float, piece: bytes, pause: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was taken over may send one to ``udpring save`` of root."""
    monkeypatch.setattr(uapi_client, limit, value)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "wg0.sock"))
        listening.listen()

        def talk() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                for _ in range(20000):
                    connection.sendall(piece)
                    time.sleep(pause)

        talking = threading.Thread(target=talk)
        talking.start()
        with pytest.raises(uapi_client.UapiError, match="has no end"):
            uapi_client.UapiClient("wg0", tmp_path, timeout=0.2).get()
        talking.join()


def test_no_right_to_the_socket_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket, __: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(HostError, match="root"):
        uapi_client.UapiClient("wg0", tmp_path).get()


def test_words() -> None:
    assert show.duration(0) == "0 seconds"
    assert show.duration(86400 + 3600 + 61) == "1 day, 1 hour, 1 minute, 1 second"
    assert show.ago(999_999_999) == "Now"
    assert show.ago(-1) == "(the system clock was set back)"
    assert show.size(1023) == "1023 B"
    assert show.size(3 << 20) == "3.00 MiB"


def test_names_of_files_elsewhere_are_known(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the file of ``udpring up``. A change of the file is seen."""
    file = tmp_path / "elsewhere" / "wg0.conf"
    file.parent.mkdir()
    record = up_record.write("wg0", file, allow_hooks=False)
    names = PeerNames()
    assert names.of("wg0") == {}
    for name in ("garden shed", "cellar"):
        file.write_text(
            f"[Interface]\n[Peer]\n# friendly_name = {name}\nPublicKey = {keys.to_base64(PEER)}\n"
        )
        assert names.of("wg0") == {PEER: name}
        assert main(["show", "wg0"]) == 0
        assert f"  name: {name}\n" in capsys.readouterr().out
        assert main(["monitor", "wg0", "--count", "1", "--interval", "0.1"]) == 0
        assert name in capsys.readouterr().out
    record.remove()
