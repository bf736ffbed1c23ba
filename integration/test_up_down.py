"""`udpring up` and `down` with hooks, DNS and files as on real hosts: effects and leftovers."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Rig, until
from lab.host import UDPRING, Host
from lab.processes import thread_statuses
from lab.weight import nice_of_session, sessions

from udpring.tunnel import keys
from udpring.tunnel.config import Config
from udpring.tunnel.worker_weight import DEFAULT

PRIVATE = keys.to_base64(keys.generate_private_key())
PUBLIC = keys.to_base64(keys.public_key(keys.generate_private_key()))
PEER = f"[Peer]\nPublicKey = {PUBLIC}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 192.0.2.9:5\n"


@pytest.fixture
def host(rig: Rig, tmp_path: Path) -> Iterator[Host]:
    made = Host(f"{rig.prefix}h", tmp_path)
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.fixture
def name(rig: Rig, host: Host) -> Iterator[str]:
    """An interface name. The interface is removed when the test ends."""
    interface = rig.prefix + secrets.token_hex(2)
    yield interface
    if host.has(interface):
        host.udpring("down", interface)
        host.wait_gone(interface)


def text(interface: str = "", peer: str = PEER, key: str = f"PrivateKey = {PRIVATE}\n") -> str:
    return f"[Interface]\n{key}Address = 10.9.0.1/24\n{interface}\n{peer}"


# ---- hooks ----


def test_a_half_failed_post_up_undoes_everything(host: Host, name: str) -> None:
    before = host.surroundings()
    said = host.folder / "said"
    hooks = f"PostUp = echo no such rule >&2; false; echo opened >> {said}\nPostDown = echo down >> {said}\n"
    done = host.udpring("up", str(host.file(name, text(hooks))))
    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == "no such rule"
    assert "PostUp ended with 1" in done.stderr.splitlines()[1]
    assert not said.exists()
    assert not host.has(name)
    assert host.surroundings() == before


def test_hooks_run_where_the_caller_stands(host: Host, name: str) -> None:
    hooks = "".join(
        f'{key} = echo "{key} $INTERFACE $CONFIG_FILE" >> hooks\n'
        for key in ("PreUp", "PostUp", "PreDown", "PostDown")
    )
    hooks += "PreUp = ip link show %i && touch too-early; true\n"
    file = host.file(name, text(hooks))
    assert host.udpring("up", f"./{file.name}").returncode == 0
    down = host.udpring("down", f"./{file.name}")
    assert (down.returncode, down.stderr) == (0, "")
    assert (host.folder / "hooks").read_text().splitlines() == [
        f"{key} {name} {file}" for key in ("PreUp", "PostUp", "PreDown", "PostDown")
    ]
    assert not (host.folder / "too-early").exists(), "PreUp comes before the interface"


def test_a_failing_pre_down_leaves_it_up(host: Host, name: str) -> None:
    file = host.file(name, text("PreDown = echo not now >&2; exit 5\nPostDown = touch gone\n"))
    assert host.udpring("up", str(file)).returncode == 0
    down = host.udpring("down", name)
    assert down.returncode == 3
    assert down.stderr.splitlines()[0] == "not now"
    assert host.has(name)
    assert not (host.folder / "gone").exists()
    host.file(name, text("PostDown = touch gone; exit 5\n"))
    down = host.udpring("down", name)
    assert down.returncode == 3, "PostDown fails when all is gone"
    assert not host.has(name)
    assert (host.folder / "gone").exists()


def test_up_of_what_is_up_runs_no_hook(host: Host, name: str) -> None:
    file = host.file(name, text("PreUp = echo up >> hooks\n"))
    assert host.udpring("up", str(file)).returncode == 0
    again = host.udpring("up", str(file))
    assert (again.returncode, f"{name} exists already" in again.stderr) == (3, True)
    assert f"udpring down {name}" in again.stderr
    assert (host.folder / "hooks").read_text() == "up\n"


@pytest.mark.parametrize(
    ("hook", "code", "reason"),
    [
        ("touch begun; sleep 600", 3, "PostUp ended with -2"),
        ("trap '' INT; touch begun; until [ -e go ]; do sleep 0.1; done", 1, "interrupted"),
    ],
    ids=["ends", "outlives"],
)
def test_an_interrupt_during_post_up_undoes_everything(
    host: Host, name: str, hook: str, code: int, reason: str
) -> None:
    before = host.surroundings()
    file = host.file(name, text(f"PostUp = {hook}\nPostDown = touch down\n"))
    running = subprocess.Popen(
        host.space.argv(*UDPRING, "up", str(file)),
        cwd=host.folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until((host.folder / "begun").exists, "PostUp has begun")
        os.killpg(running.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
        (host.folder / "go").touch()
        _, said = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == code, said
    assert reason in said
    assert not host.has(name)
    assert not (host.folder / "down").exists()
    assert host.surroundings() == before


# ---- files that others can change ----


def test_hooks_of_foreign_file_are_refused(host: Host, name: str) -> None:
    file = host.file(name, text("PostUp = echo up >> hooks\nPostDown = echo down >> hooks\n"), mode=0o666)
    refused = host.udpring("up", str(file))
    assert refused.returncode == 2
    assert "can be written by everybody" in refused.stderr
    assert "--allow-hooks" in refused.stderr
    assert not host.has(name)
    assert not (host.folder / "hooks").exists()
    assert host.udpring("up", "--allow-hooks", str(file)).returncode == 0
    assert host.udpring("down", name).returncode == 0, "what was allowed stays allowed"
    assert (host.folder / "hooks").read_text() == "up\ndown\n"


def test_foreign_file_without_hooks_comes_up(host: Host, name: str) -> None:
    assert host.udpring("up", str(host.file(name, text(), mode=0o666))).returncode == 0


def test_hooks_written_since_by_others_are_not_run(host: Host, name: str) -> None:
    file = host.file(name, text(f"PostDown = echo ours >> {host.folder}/hooks\n"))
    assert host.udpring("up", str(file)).returncode == 0
    host.file(name, text(f"PostDown = echo theirs >> {host.folder}/hooks\n"), mode=0o666)
    down = host.udpring("down", name)
    assert down.returncode == 0
    assert "can be written by everybody" in down.stderr
    assert (host.folder / "hooks").read_text() == "ours\n"


# ---- DNS ----


def test_dns_without_a_resolver_undoes_everything(host: Host, name: str) -> None:
    before = host.surroundings()
    file = host.file(name, text("DNS = 10.9.0.53\nPreUp = echo pre >> hooks\nPostUp = echo post >> hooks\n"))
    done = host.udpring("up", str(file), path=host.path_without("resolvconf", "resolvectl"))
    assert done.returncode == 3
    assert "neither resolvconf nor resolvectl" in done.stderr
    assert (host.folder / "hooks").read_text() == "pre\n"
    assert not host.has(name)
    assert host.surroundings() == before


@pytest.mark.parametrize("program", ["resolvconf", "resolvectl"])
def test_dns_that_the_resolver_refuses_undoes_everything(host: Host, name: str, program: str) -> None:
    host.resolvconf(program, status=1)
    before = host.surroundings()
    file = host.file(name, text("DNS = 10.9.0.53\n"))
    done = host.udpring("up", str(file), path=host.path_without("resolvconf"))
    assert done.returncode == 3
    assert program in done.stderr
    assert not host.has(name)
    assert host.surroundings() == before


def test_resolvectl_gets_servers_and_domains_and_is_reverted(host: Host, name: str) -> None:
    host.resolvconf("resolvectl")
    file = host.file(name, text("DNS = 10.9.0.53, ~corp.example\nDNS = fe80::1%eth0\n"))
    assert host.udpring("up", str(file), path=host.path_without("resolvconf")).returncode == 0
    assert host.udpring("down", name).returncode == 0
    assert host.dns_calls() == [
        f"resolvectl dns {name} 10.9.0.53 fe80::1%eth0",
        f"resolvectl domain {name} ~corp.example ~.",
        f"resolvectl revert {name}",
    ]


# ---- SaveConfig ----


@pytest.mark.parametrize("how", ["down", "SIGTERM"])
def test_save_config_keeps_what_runs(host: Host, name: str, how: str) -> None:
    host.resolvconf()
    file = host.file(name, text("SaveConfig = true\nMTU = 1380\nDNS = 10.9.0.53, corp.example\nPostUp = :\n"))
    assert host.udpring("up", str(file)).returncode == 0
    host.run("ip", "address", "add", "10.9.7.1/32", "dev", name)
    host.run("ip", "link", "set", "mtu", "1300", "dev", name)
    host.run("wg", "set", name, "listen-port", "40404", "peer", PUBLIC, "persistent-keepalive", "7")
    added = keys.to_base64(keys.public_key(keys.generate_private_key()))
    host.run("wg", "set", name, "peer", added, "allowed-ips", "10.8.0.0/16")
    if how == "down":
        assert host.udpring("down", name).returncode == 0
    else:
        (process,) = host.space.leaders()
        os.kill(process, signal.SIGTERM)
        until(lambda: not host.space.pids(), "the node has ended")
    saved = Config.load(file)
    assert not saved.warnings
    assert file.stat().st_mode & 0o777 == 0o600
    settings = saved.interface
    assert settings.private_key == keys.from_base64(PRIVATE)
    assert (settings.listen_port, settings.mtu, settings.post_up) == (40404, 1300, (":",))
    assert [str(each) for each in settings.addresses] == ["10.9.0.1/24", "10.9.7.1/32"]
    assert ([str(each) for each in settings.dns], settings.dns_search) == (["10.9.0.53"], ("corp.example",))
    first, second = saved.peers
    assert (first.persistent_keepalive, str(first.endpoint)) == (7, "192.0.2.9:5")
    assert second.public_key == keys.from_base64(added)
    assert host.udpring("up", str(file)).returncode == 0, "it comes up from that again"


def test_a_file_that_cannot_be_saved_leaves_it_up(host: Host, name: str) -> None:
    file = host.file(name, text("SaveConfig = true\n"))
    assert host.udpring("up", str(file)).returncode == 0
    before = file.read_text()
    read_only = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    down = host.run("unshare", "--mount", "sh", "-c", read_only, str(host.folder), *UDPRING, "down", name)
    assert (down.returncode, "cannot be saved" in down.stderr) == (3, True)
    assert host.has(name)
    assert file.read_text() == before


# ---- values ----


def test_a_hook_sets_the_private_key(host: Host, name: str) -> None:
    (host.folder / "key").write_text(PRIVATE)
    file = host.file(name, text("PostUp = wg set %i private-key key\n", key=""))
    done = host.udpring("up", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    shown = host.run("wg", "show", name, "private-key").stdout.strip()
    assert shown == PRIVATE
    (process,) = host.space.leaders()
    host.file(name, file.read_text() + "PersistentKeepalive = 9\n")
    os.kill(process, signal.SIGHUP)
    show = ("wg", "show", name, "persistent-keepalive")
    until(lambda: host.run(*show).stdout.split()[-1] == "9", "the file is read again")
    assert host.run("wg", "show", name, "private-key").stdout.strip() == PRIVATE, "the live key stays"


# ---- dry run ----


def test_dry_run_prints_what_up_does(host: Host, name: str) -> None:
    """Its lines, run by bash, leave the host as ``up`` does. By itself it changes nothing."""
    host.resolvconf()
    file = host.file(
        name, text("DNS = 10.9.0.53\nMTU = 1380\nPreUp = echo pre >> said\nPostUp = echo %i >> said\n")
    )
    before = host.surroundings()
    dry = host.udpring("up", "--dry-run", str(file))
    assert (dry.returncode, dry.stderr) == (0, "")
    assert host.surroundings() == before
    assert not host.has(name)
    assert not (host.folder / "said").exists()
    assert PRIVATE not in dry.stdout
    assert host.udpring("up", str(file)).returncode == 0
    look = (("ip", "-json", "address", "show", "dev", name), ("wg", "showconf", name))
    wanted = host.surroundings(), [_without_index(host.run(*each).stdout) for each in look], host.dns_calls()
    assert host.udpring("down", name).returncode == 0
    assert host.surroundings() == before
    host.dns_log.unlink()
    script = dry.stdout.replace("[#] ", "")
    assert f"\nudpring-wg {name}\n" in script
    host.program("udpring-wg", f'#!/bin/sh\nexec {sys.executable} -P -m udpring.cli.wg "$@"\n')
    done = host.run("bash", "-e", "-c", script)
    assert done.returncode == 0, done.stderr
    by_hand = host.surroundings(), [_without_index(host.run(*each).stdout) for each in look], host.dns_calls()
    assert by_hand == wanted
    assert (host.folder / "said").read_text() == f"pre\n{name}\n" * 2
    again = host.udpring("up", "--dry-run", str(file))
    assert (again.returncode, f"udpring down {name}" in again.stderr) == (0, True)


def _without_index(said: str) -> str:
    """Numbers that differ with each interface and each start."""
    return re.sub(r'"ifindex":\d+|ListenPort = \d+', "", said)


# ---- the confined node ----

RIGHTS = 1 << 10 | 1 << 12
"""CAP_NET_BIND_SERVICE and CAP_NET_ADMIN, linux/capability.h."""


def test_node_has_two_capabilities_and_a_filter(host: Host, name: str) -> None:
    assert host.udpring("up", str(host.file(name, text()))).returncode == 0
    (process,) = host.space.leaders()
    until(
        lambda: {each["Seccomp"] for each in thread_statuses(process)} == {"2"}, "every thread has the filter"
    )
    for status in thread_statuses(process):
        assert status["NoNewPrivs"] == "1"
        assert {int(status[each], 16) for each in ("CapPrm", "CapEff", "CapBnd")} == {RIGHTS}


@sessions
def test_node_raises_its_own_session_alone(host: Host, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the session of the caller, which it leaves at the end of its start."""
    monkeypatch.delenv("UDPRING_NICE", raising=False)
    before = nice_of_session(os.getpid())
    assert host.udpring("up", str(host.file(name, text()))).returncode == 0
    (process,) = host.space.leaders()
    until(lambda: nice_of_session(process) == DEFAULT, "the session is raised")
    assert nice_of_session(os.getpid()) == before
    assert host.udpring("down", name).returncode == 0


def test_down_needs_no_right_to_trace(host: Host, name: str) -> None:
    """Containers lack CAP_SYS_PTRACE, and a confined node hides its descriptors."""
    assert host.udpring("up", str(host.file(name, text()))).returncode == 0
    without = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    host.run(*without, *UDPRING, "down", name)
    until(lambda: not host.space.pids(), "the node and its broker have ended")
    assert not host.has(name)


def test_option_keeps_a_node_unconfined(host: Host, name: str) -> None:
    assert host.udpring("up", "--unconfined", str(host.file(name, text()))).returncode == 0
    (process,) = host.space.pids()
    assert {each["Seccomp"] for each in thread_statuses(process)} == {"0"}


def test_broker_undoes_the_set_up_of_a_killed_node(host: Host, name: str) -> None:
    """Rules, routes and firewall would outlive the interface."""
    before = host.surroundings()
    assert host.udpring("up", str(host.file(name, text()))).returncode == 0
    assert host.surroundings() != before
    (process,) = host.space.leaders()
    os.kill(process, signal.SIGKILL)
    until(lambda: not host.space.pids(), "the broker has ended")
    assert host.surroundings() == before
    assert not list(Path("/var/run/wireguard").glob(f"{name}.*"))


def test_broker_survives_the_quit_key_of_a_terminal(host: Host, name: str) -> None:
    """Ctrl-\\ sends SIGQUIT to the node and to its broker, which undoes what the node set up."""
    before = host.surroundings()
    words = host.space.argv(*UDPRING, "up", "--foreground", str(host.file(name, text())))
    # A shell starts a program in the background with the signal ignored.
    words = ["env", "--default-signal=QUIT", *words]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            assert running.stderr is not None
            while "is up" not in (line := running.stderr.readline()):
                assert line, "it ended"
            assert host.surroundings() != before
            os.killpg(running.pid, signal.SIGQUIT)
            until(lambda: not host.space.pids(), "the broker has ended")
        finally:
            running.kill()
    assert host.surroundings() == before


# ---- reload and save ----


def test_reload_applies_the_file_and_says_what_stays(host: Host, name: str) -> None:
    file = host.file(name, text("ListenPort = 40500\nMTU = 1380\nPostUp = echo up >> hooks\n"))
    assert host.udpring("up", str(file)).returncode == 0
    (process,) = host.space.leaders()
    added = keys.to_base64(keys.public_key(keys.generate_private_key()))
    peers = PEER.replace("::/0", "fd09::/64") + f"[Peer]\nPublicKey = {added}\nAllowedIPs = 10.8.0.0/16\n"
    host.file(name, text("Address = 10.9.7.1/32\nMTU = 1300\nPostUp = echo more >> hooks\n", peers))
    done = host.udpring("reload", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{name}: ListenPort, Address, MTU, PostUp; peers: 1 added, 1 changed\n"
    assert [line.split(": ", 2)[2].split()[0] for line in done.stderr.splitlines()] == [
        "PostUp",
        "ListenPort",
    ]
    assert (host.folder / "hooks").read_text() == "up\n"
    link = host.run("ip", "address", "show", "dev", name).stdout
    assert "mtu 1300" in link
    assert "10.9.7.1/32" in link
    assert "10.8.0.0/16" in host.run("ip", "route", "show", "dev", name).stdout
    assert "fd09::/64" in host.run("ip", "-6", "route", "show", "dev", name).stdout
    assert host.run("wg", "show", name, "listen-port").stdout == "40500\n"
    assert host.space.leaders() == [process]
    again = host.udpring("reload", str(file))
    assert (again.returncode, again.stdout, again.stderr) == (0, f"{name}: nothing has changed\n", "")


def test_reload_of_a_wrong_file_changes_nothing(host: Host, name: str) -> None:
    file = host.file(name, text())
    assert host.udpring("up", str(file)).returncode == 0
    before = host.surroundings(), host.run("wg", "showconf", name).stdout
    host.file(name, text("MTU = big\n"))
    done = host.udpring("reload", name)
    assert done.returncode == 2
    assert f"{file}:4:" in done.stderr
    assert (host.surroundings(), host.run("wg", "showconf", name).stdout) == before
    other = host.folder / "other"
    other.mkdir()
    (other / file.name).write_text(text())
    done = host.udpring("reload", str(other / file.name))
    assert (done.returncode, f"has another file: {file}" in done.stderr) == (2, True)


def test_save_writes_what_runs_and_nothing_else(host: Host, name: str) -> None:
    """As wg-quick save: without SaveConfig too, and the interface stays up."""
    file = host.file(name, text("# a comment\nDNS = 10.9.0.53\nTable = off\nPostUp = :\n"), mode=0o644)
    host.resolvconf()
    assert host.udpring("up", str(file)).returncode == 0
    host.run("wg", "set", name, "fwmark", "7", "peer", PUBLIC, "persistent-keepalive", "9")
    host.run("ip", "address", "add", "10.9.7.1/32", "dev", name)
    assert host.udpring("save", name).returncode == 0
    assert host.has(name)
    saved = Config.load(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in host.folder.glob(f"*{file.name}*")] == [file.name]
    settings = saved.interface
    assert (settings.fwmark, settings.table, settings.post_up, settings.save_config) == (
        7,
        "off",
        (":",),
        False,
    )
    assert [str(each) for each in settings.addresses] == ["10.9.0.1/24", "10.9.7.1/32"]
    assert [str(each) for each in settings.dns] == ["10.9.0.53"]
    assert settings.mtu is None
    assert saved.peers[0].persistent_keepalive == 9
    again = host.udpring("reload", name)
    assert (again.returncode, again.stderr) == (0, ""), "it is a good file"


def test_reload_takes_over_what_was_made_by_hand(host: Host, name: str) -> None:
    """Addresses and routes of the new file that are there already. They go at down."""
    before = host.surroundings()
    file = host.file(name, text(peer=PEER.replace("0.0.0.0/0, ::/0", "10.7.0.0/16")))
    assert host.udpring("up", str(file)).returncode == 0
    for words in (
        "-4 address add 10.9.7.1/32",
        "-6 address add fd09::7/64",
        "-4 route add 10.6.0.1",
        "-6 route add fd06::/48",
    ):
        host.run("ip", *words.split(), "dev", name)
    peer = PEER.replace("0.0.0.0/0, ::/0", "10.7.0.0/16, 10.6.0.1/32, fd06::/48, 10.5.0.0/16")
    host.file(name, text("Address = 10.9.7.1/32, fd09::7/64\n", peer))
    done = host.udpring("reload", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10.5.0.0/16" in host.run("ip", "route", "show", "dev", name).stdout
    host.file(name, text(peer=PEER.replace("0.0.0.0/0, ::/0", "10.7.0.0/16")))
    assert host.udpring("reload", name).returncode == 0
    assert "10.6.0.1" not in host.run("ip", "route", "show", "dev", name).stdout
    assert "10.9.7.1" not in host.run("ip", "address", "show", "dev", name).stdout
    assert host.udpring("down", name).returncode == 0
    assert host.surroundings() == before


# ---- metrics ----


def test_up_serves_metrics_until_down(host: Host, name: str) -> None:
    file = host.file(name, text("PreUp = echo pre >> hooks\n"))
    file.write_text(file.read_text().replace("[Peer]", "[Peer]\n# friendly_name = garden shed"))
    assert host.udpring("up", "--metrics", "./metrics", str(file)).returncode == 0
    scrape = host.run("curl", "-sS", "--unix-socket", str(host.folder / "metrics"), "http://node/metrics")
    assert scrape.returncode == 0, scrape.stderr
    assert f'udpring_peers{{interface="{name}"}} 1.0\n' in scrape.stdout
    assert 'friendly_name="garden shed"' in scrape.stdout
    assert host.udpring("down", name).returncode == 0
    assert not (host.folder / "metrics").exists()
    (host.folder / "metrics").touch()
    refused = host.udpring("up", "--metrics", "./metrics", str(file))
    assert (refused.returncode, "metrics at" in refused.stderr) == (3, True)
    assert not host.has(name)
    assert (host.folder / "hooks").read_text() == "pre\n", "PreUp did not run again"
