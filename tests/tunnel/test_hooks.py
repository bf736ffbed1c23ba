"""PreUp and the like under bash: which failures count, and what a hook finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from udpring.errors import HostError
from udpring.tunnel.config import Config
from udpring.tunnel.hooks import HookScope, run_hooks

TEXT = """[Interface]
Address = 10.0.0.1/24, fd00::1/64
DNS = 1.1.1.1, example.org
MTU = 1380
Table = 51
"""


def scope(text: str = TEXT) -> HookScope:
    return HookScope("wg0", Path("/etc/wireguard/a b/wg0.conf"), Config.loads(text).interface)


def run(*hooks: str, text: str = TEXT, attached: bool = False) -> None:
    run_hooks(scope(text), "PostUp", hooks, attached=attached)


@pytest.mark.parametrize(
    "hook",
    [
        "false; echo opened",
        "false | true",
        "[ -e /no-such-file ] && echo found",
        "if true; then false; fi; echo opened",
        "(exit 3)",
        "no-such-command-at-all",
        "exit 4",
        "echo 'unclosed",
    ],
)
def test_a_hook_fails_when_a_part_fails(hook: str) -> None:
    with pytest.raises(HostError, match="PostUp ended with "):
        run(hook)


@pytest.mark.parametrize(
    "hook",
    ["false || true", "if false; then exit 1; fi", "! false", "true & wait", "[[ ab == a@(b|c) ]]", ":"],
)
def test_a_hook_passes_where_wg_quick_lets_it(hook: str) -> None:
    run(hook)


def test_hooks_stop_at_the_first_failure(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(HostError, match="ended with 3: exit 3"):
        run(f"echo %i >> {log}", "exit 3", f"echo never >> {log}")
    assert log.read_text() == "wg0\n"


def test_hooks_see_the_variables_of_wg_quick(tmp_path: Path) -> None:
    log = tmp_path / "log"
    names = ("INTERFACE", "CONFIG_FILE", "MTU", "TABLE", "SAVE_CONFIG", "LC_ALL")
    run(
        *(f'echo "{name}=${name}" >> {log}' for name in names),
        f'echo "${{ADDRESSES[*]}} ${{DNS[*]}} ${{DNS_SEARCH[*]}}" >> {log}',
        f"bash -c 'echo \"not exported: $INTERFACE$CONFIG_FILE\"' >> {log}",
    )
    assert log.read_text().splitlines() == [
        "INTERFACE=wg0",
        "CONFIG_FILE=/etc/wireguard/a b/wg0.conf",
        "MTU=1380",
        "TABLE=51",
        "SAVE_CONFIG=0",
        "LC_ALL=C",
        "10.0.0.1/24 fd00::1/64 1.1.1.1 example.org",
        "not exported: ",
    ]


def test_error_output_of_detached_hook_is_logged() -> None:
    with pytest.raises(HostError) as failed:
        run("echo it >&2; echo broke >&2; exit 1")
    assert failed.value.message.endswith("exit 1: it broke")


def test_an_attached_hooks_error_output_is_the_callers(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostError) as failed:
        run("echo it broke >&2; exit 1", attached=True)
    assert capfd.readouterr().err == "it broke\n"
    assert failed.value.message.endswith("exit 1")
