"""``udpring check``: each error with its place, no part of a key, exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from udpring.cli.main import main
from udpring.tunnel import keys

PRIVATE = keys.to_base64(bytes([0x58] * 32))
PUBLIC = keys.to_base64(bytes(range(32)))
GOOD = f"[Interface]\nPrivateKey = {PRIVATE}\n[Peer]\nPublicKey = {PUBLIC}\nAllowedIPs = 10.0.0.0/8\n"


def file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "wg0.conf"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, GOOD)
    assert main(["check", path]) == 0
    assert capsys.readouterr() == (f"{path}: good, 1 peer\n", "")


def test_every_error_gets_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(
        tmp_path, GOOD.replace("AllowedIPs", "AlowedIPs").replace(PRIVATE, PRIVATE[:-4] + "*" + PRIVATE[-3:])
    )
    assert main(["check", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"udpring: {path}:2:54: PrivateKey: not a key: character 41 of 44 is not base64 "
        "(44 base64 characters, as genkey prints)",
        f"udpring: {path}:5:1: unknown key: 'AlowedIPs' (did you mean AllowedIPs?)",
    ]


def test_node_needs_a_private_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fragment of a configuration needs none."""
    path = file(tmp_path, GOOD.replace(f"PrivateKey = {PRIVATE}", ""))
    assert main(["check", path]) == 2
    assert capsys.readouterr().err.endswith("[Interface] has no PrivateKey (make one: udpring genkey)\n")
    assert main(["check", "--fragment", path]) == 0


def test_a_post_up_may_set_the_private_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hook = "PostUp = wg set %i private-key key"
    assert main(["check", file(tmp_path, GOOD.replace(f"PrivateKey = {PRIVATE}", hook))]) == 0
    assert "no PrivateKey: PostUp has to set it" in capsys.readouterr().err


def test_one_bad_file_of_two_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both files are read."""
    path = file(tmp_path, GOOD)
    assert main(["check", str(tmp_path / "none.conf"), path]) == 2
    out, err = capsys.readouterr()
    assert out == f"{path}: good, 1 peer\n"
    assert "none.conf: there is no such file" in err


def test_a_directory_and_a_name_without_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 2
    assert "cannot be read: Is a directory" in capsys.readouterr().err
    assert main(["check", "udpring-none"]) == 2
    assert "/etc/wireguard/udpring-none.conf: there is no such file" in capsys.readouterr().err


def test_a_world_accessible_file_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, GOOD)
    tmp_path.chmod(0o755)
    Path(path).chmod(0o644)
    assert main(["check", path]) == 0
    assert f"warning: {path}: is world accessible" in capsys.readouterr().err
    tmp_path.chmod(0o700)
    assert main(["check", path]) == 0
    assert capsys.readouterr().err == "", "a closed directory is enough, as for wg-quick"


def test_endpoint_inside_its_allowed_ips_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    looping = GOOD.replace("10.0.0.0/8", "0.0.0.0/1, 128.0.0.0/1") + "Endpoint = 10.3.0.2:51820\n"
    path = file(tmp_path, looping)
    assert main(["check", path]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith(f"udpring: warning: {path}: peer(")
    assert "the route to the endpoint 10.3.0.2:51820 leads into the tunnel itself" in warning
    file(tmp_path, looping.replace("0.0.0.0/1, 128.0.0.0/1", "0.0.0.0/0"))
    assert main(["check", path]) == 0
    assert capsys.readouterr().err == ""


def test_commands_that_up_would_refuse_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, GOOD.replace("[Peer]", "PostUp = true\n[Peer]"))
    assert main(["check", path]) == 0
    assert capsys.readouterr().err == ""
    Path(path).chmod(0o620)
    assert main(["check", path]) == 0
    assert "its commands are not run" in capsys.readouterr().err
