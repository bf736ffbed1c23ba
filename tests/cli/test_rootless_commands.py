"""``udpring run`` and ``udpring proxy``: refusals before anything is started."""

from __future__ import annotations

import pytest

from udpring.cli import proxy
from udpring.cli.main import main
from udpring.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1080", ("127.0.0.1", 1080)),
        ("0.0.0.0:1080", ("0.0.0.0", 1080)),
        ("[::1]:0", ("::1", 0)),
    ],
)
def test_listening_addresses(text: str, wanted: tuple[str, int]) -> None:
    """Loopback unless an address is given."""
    assert proxy.local(text, "--socks") == wanted


@pytest.mark.parametrize("text", ["", "x", "65536", "::1:80", "host:80", ":80", "[127.0.0.1]:80", "-1"])
def test_wrong_listening_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--socks"):
        proxy.local(text, "--socks")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80=intra:8080", ("127.0.0.1", 80, "intra", 8080)),
        ("[::1]:80=[fd00::1]:81", ("::1", 80, "fd00::1", 81)),
    ],
)
def test_forwardings(text: str, wanted: tuple[str, int, str, int]) -> None:
    assert proxy.forward(text) == wanted


@pytest.mark.parametrize("text", ["80", "80=intra", "80=:80", "80=intra:0", "x=intra:80", "80=fd00::1:81"])
def test_wrong_forwardings_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--forward"):
        proxy.forward(text)


@pytest.mark.parametrize("words", [["run", "absent.conf", "--", "true"], ["proxy", "absent.conf"]])
def test_missing_file_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "absent.conf" in capsys.readouterr().err


def test_wrong_option_of_proxy_comes_before_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["proxy", "absent.conf", "--socks", "nowhere"]) == 2
    assert "--socks" in capsys.readouterr().err
