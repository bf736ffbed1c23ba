"""The UAPI socket with a plane in memory: requests of wg, answers, and isolation between clients."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import os
import socket
import stat
import time
from pathlib import Path

import pytest
from served import Served, served, serving, until

from udpring.errors import HostError
from udpring.tunnel import socket_file, tunnel
from udpring.tunnel.control_values import ControlStats
from udpring.tunnel.keys import generate_private_key, public_key
from udpring.tunnel.plane_values import Histogram, PlaneStats
from udpring.tunnel.socket_file import SocketFile
from udpring.tunnel.socket_path import socket_name
from udpring.tunnel.uapi_report import ReportParser
from udpring.tunnel.uapi_values import PEER_KEYS
from udpring.wireguard.cipher import Cipher

KEY_A, KEY_B, KEY_C = (public_key(generate_private_key()).hex() for _ in range(3))
PSK = "11" * 32


@serving
async def test_a_new_device_answers_with_its_port_alone(here: Served) -> None:
    assert await here.ask("get=1\n\n") == "listen_port=1000\nerrno=0\n\n"


@serving
async def test_private_key_is_answered_clamped(here: Served) -> None:
    """As the kernel and wireguard-go do: ``wg showconf`` is the same for all servers."""
    key = bytes([0xFF] * 32)
    for _ in range(2):
        assert await here.set(f"private_key={key.hex()}") == "errno=0\n\n"
        assert f"private_key=f8{'ff' * 30}7f\n" in await here.ask("get=1\n\n")
    assert here.tunnel.is_own(public_key(key))


@serving
async def test_pause_is_one_line_that_wg_never_sends(here: Served) -> None:
    """It is not mentioned while it is off, so ``wg`` gets the same as before."""
    before = await here.ask("get=1\n\n")
    assert await here.set("paused=true") == "errno=0\n\n"
    assert here.tunnel.paused
    assert await here.ask("get=1\n\n") == "listen_port=1000\npaused=true\nerrno=0\n\n"
    assert await here.set("paused=yes") == f"errno=-{errno.EINVAL}\n\n"
    assert await here.set("paused=false") == "errno=0\n\n"
    assert await here.ask("get=1\n\n") == before


@serving
async def test_reports_are_requests_that_wg_never_sends(here: Served) -> None:
    before = await here.ask("get=1\n\n")
    assert await here.ask("reload=1\n\n") == f"errno={errno.EOPNOTSUPP}\n\n"
    assert await here.ask("reload=1\nfwmark=1\n\n") == f"errno={errno.EINVAL}\n\n"

    async def reload() -> dict[str, int | str]:
        return {"count": 1, "text": "a b=c"}

    here.reporters["reload"] = reload
    assert await here.ask("reload=1\n\n") == 'count=1\ntext="a b=c"\nerrno=0\n\n'

    async def fail() -> dict[str, int | str]:
        raise HostError("no such thing", errno=errno.EBUSY)

    here.reporters["reload"] = fail
    said = (await here.ask("reload=1\n\n")).splitlines()
    assert said == ['message="no such thing"', "misused=false", "refused=true", f"errno={errno.EBUSY}", ""]
    assert await here.ask("get=1\n\n") == before


@serving
async def test_stats_are_everything_that_is_counted(here: Served) -> None:
    """Each counter of the plane and of the control loop is in the report, by some name."""
    reported = ReportParser()
    plane = {f.name for f in dataclasses.fields(PlaneStats)}
    control = {f.name for f in dataclasses.fields(ControlStats)} - {"dropped", "events"}
    marked = {name: 1000 + number for number, name in enumerate(sorted(plane | control))}
    texts: dict[str, object] = {
        "tier": "t",
        "aead": "a",
        "drops": {"no_peer": 1},
        "rx": {"starved": 2},
        "tx": {"split": 3},
    }
    texts |= {"histograms": {"send_trains": Histogram((0, 5, *[0] * 13, 6), 500)}}
    here.plane.counted = PlaneStats(
        **{name: marked[name] for name in plane} | texts | {"tun_offloads": ("tso4",)}
    )  # type: ignore[arg-type]
    here.tunnel.control.stats = ControlStats(
        **{name: marked[name] for name in control}, dropped={"paused": 4}
    )
    reported.feed((await here.ask("stats=1\n\n")).encode())
    tables = [table for table in reported.report.values() if isinstance(table, dict)]
    values = {value for table in tables for value in table.values() if not isinstance(value, dict)}
    missing = {name for name in plane | control if name not in {*texts, "tun_offloads", "aead"}}
    assert {name for name in missing if marked[name] not in values} == set()
    histograms = reported.report["histograms"]
    assert isinstance(histograms, dict)
    sizes = histograms["send_trains"]
    assert (sizes["count"], sizes["sum"]) == (11, 500)
    assert sizes["buckets"] == {
        **{str(1 << number): 0 for number in range(15)},
        "2": 5,
        "more": 6,
    }
    assert reported.report["drops"] == {"no_peer": 1}
    assert reported.report["receive"] == {"starved": 2}
    assert reported.report["send"] == {"split": 3}
    refused = reported.report["handshake_drops"]
    assert isinstance(refused, dict)
    assert (refused["paused"], refused["bad_length"]) == (4, 0)


@serving
async def test_what_was_set_is_what_get_says(here: Served) -> None:
    key = generate_private_key().hex()
    before = time.time()
    assert (
        await here.set(
            f"private_key={key}",
            "listen_port=2000",
            "fwmark=81",
            "replace_peers=true",
            f"public_key={KEY_A}",
            f"preshared_key={PSK}",
            "endpoint=[fd00::1]:51820",
            "persistent_keepalive_interval=25",
            "replace_allowed_ips=true",
            "allowed_ip=10.1.0.7/16",
            "allowed_ip=fd01::/64",
            "protocol_version=1",
            f"public_key={KEY_B}",
        )
        == "errno=0\n\n"
    )
    peer = here.tunnel.device.by_id[here.peer(KEY_A)]
    peer.last_handshake_wall = int(before) * 10**9 + 5
    here.plane.stamp(peer.id, rx_bytes=7, tx_bytes=8)
    assert (await here.ask("get=1\n\n")).splitlines() == [
        f"private_key={key}",
        "listen_port=2000",
        "fwmark=81",
        f"public_key={KEY_A}",
        f"preshared_key={PSK}",
        "protocol_version=1",
        "endpoint=[fd00::1]:51820",
        f"last_handshake_time_sec={int(before)}",
        "last_handshake_time_nsec=5",
        "tx_bytes=8",
        "rx_bytes=7",
        "persistent_keepalive_interval=25",
        "allowed_ip=10.1.0.0/16",
        "allowed_ip=fd01::/64",
        f"public_key={KEY_B}",
        f"preshared_key={'0' * 64}",
        "protocol_version=1",
        "last_handshake_time_sec=0",
        "last_handshake_time_nsec=0",
        "tx_bytes=0",
        "rx_bytes=0",
        "persistent_keepalive_interval=0",
        "errno=0",
        "",
    ]


@serving
async def test_a_link_local_endpoint_keeps_its_scope(here: Served) -> None:
    assert await here.set(f"public_key={KEY_A}", "endpoint=[fe80::1%lo]:5") == "errno=0\n\n"
    assert f"endpoint=[fe80::1%{socket.if_nametoindex('lo')}]:5\n" in await here.ask("get=1\n\n")
    assert await here.set(f"public_key={KEY_A}", "endpoint=[fe80::1%nonesuch]:5") == "errno=-22\n\n"


@serving
async def test_a_key_that_only_the_codec_knows_is_refused(here: Served) -> None:
    class Novelty:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PEER_KEYS, "novelty", lambda value: Novelty())
        answer = await here.set(f"public_key={KEY_A}", "novelty=1")
    assert answer != "errno=0\n\n"
    assert answer.startswith("errno=-")


@serving
async def test_bad_line_keeps_earlier_drops_later(here: Served) -> None:
    answer = await here.set(
        "fwmark=1",
        f"public_key={KEY_A}",
        "allowed_ip=10.0.0.0/8",
        "no_such_key=1",
        "allowed_ip=11.0.0.0/8",
        f"public_key={KEY_B}",
    )
    assert answer == "errno=-22\n\n"
    assert here.tunnel.fwmark == 1
    assert here.tunnel.find(bytes.fromhex(KEY_B)) is None
    assert here.tunnel.allowed_ips(here.peer(KEY_A)) == [(bytes([10, 0, 0, 0]), 8)]


@serving
async def test_the_errno_is_the_planes(here: Served) -> None:
    assert await here.set("listen_port=53", "fwmark=9") == f"errno=-{errno.EADDRINUSE}\n\n"
    assert here.tunnel.fwmark == 0
    assert here.tunnel.listen_port == 1000
    assert await here.set("fwmark=9") == "errno=0\n\n"


@serving
async def test_our_own_key_as_a_peer_is_silently_ignored(here: Served) -> None:
    private = generate_private_key()
    own = public_key(private).hex()
    answer = await here.set(
        f"private_key={private.hex()}", f"public_key={own}", "allowed_ip=10.0.0.0/8", f"public_key={KEY_A}"
    )
    assert answer == "errno=0\n\n"
    assert set(here.tunnel.device.peers) == {bytes.fromhex(KEY_A)}
    assert not here.plane.named("prefixes")


@serving
async def test_private_key_of_a_peer_removes_it(here: Served) -> None:
    private = generate_private_key()
    await here.set(f"public_key={public_key(private).hex()}", f"public_key={KEY_A}")
    assert await here.set(f"private_key={private.hex()}") == "errno=0\n\n"
    assert set(here.tunnel.device.peers) == {bytes.fromhex(KEY_A)}
    assert await here.set(f"private_key={'0' * 64}") == "errno=0\n\n"
    assert "private_key" not in await here.ask("get=1\n\n")


@serving
async def test_a_cipher_is_set_shown_and_taken_off_again(here: Served) -> None:
    await here.set(f"public_key={KEY_A}")
    peer = here.peer(KEY_A)
    assert "cipher" not in await here.ask("get=1\n\n")
    here.plane.calls.clear()
    assert await here.set(f"public_key={KEY_A}", "cipher=chacha20-poly1305") == "errno=0\n\n"
    assert not here.plane.named("keys_erase")
    for cipher in ("aes-256-gcm", "chacha20-poly1305"):
        here.plane.calls.clear()
        assert await here.set(f"public_key={KEY_A}", f"cipher={cipher}") == "errno=0\n\n"
        assert here.tunnel.device.by_id[peer].cipher == cipher
        assert here.plane.named("keys_erase") == [("keys_erase", peer)]
        assert ("\ncipher=aes-256-gcm\n" in await here.ask("get=1\n\n")) is (cipher == "aes-256-gcm")
    assert await here.set(f"public_key={KEY_A}", "cipher=rot13") == f"errno=-{errno.EINVAL}\n\n"
    assert await here.set("cipher=aes-256-gcm") == f"errno=-{errno.EINVAL}\n\n"


@serving
async def test_offload_of_a_peer_overrides_the_device(here: Served) -> None:
    def notified() -> list[tuple[int, bool]]:
        calls, here.plane.calls = here.plane.named("trains"), []
        return [(peer, on) for _, peer, on in calls]

    await here.set(f"public_key={KEY_A}", f"public_key={KEY_B}")
    a, b = here.peer(KEY_A), here.peer(KEY_B)
    assert "offload" not in await here.ask("get=1\n\n")
    assert notified() == []
    assert await here.set("offload=off", f"public_key={KEY_A}", "offload=on") == "errno=0\n\n"
    assert notified() == [(a, False), (b, False), (a, True)]
    text = await here.ask("get=1\n\n")
    assert text.startswith("offload=off\n") or "\noffload=off\npublic_key=" in text
    assert text.count("offload=") == 2
    assert await here.set("offload=on") == "errno=0\n\n"
    assert notified() == [(b, True)]
    assert await here.set(f"public_key={KEY_A}", "offload=auto") == "errno=0\n\n"
    assert notified() == [(a, True)]
    here.plane.trains_reason = "this kernel damages them"
    assert await here.set("offload=auto") == "errno=0\n\n"
    assert notified() == [(a, False), (b, False)]
    assert "offload" not in await here.ask("get=1\n\n")
    assert await here.set("offload=yes") == f"errno=-{errno.EINVAL}\n\n"


@serving
async def test_a_new_peer_obeys_the_offload_of_the_device(here: Served) -> None:
    await here.set("offload=off", f"public_key={KEY_A}", "offload=on")
    here.plane.calls.clear()
    await here.set(f"public_key={KEY_A}", "remove=true", f"public_key={KEY_A}")
    assert here.plane.named("trains") == [("trains", here.peer(KEY_A), False)]


@serving
async def test_a_cipher_that_no_library_has_is_refused(here: Served) -> None:
    def none_has_it(cipher: Cipher) -> int:
        raise HostError(f"no library here does {cipher}", errno=errno.ENOTSUP)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tunnel, "require_cipher", none_has_it)
        answer = await here.set(f"public_key={KEY_A}", "cipher=aes-256-gcm")
    assert answer == f"errno=-{errno.ENOTSUP}\n\n"
    assert here.tunnel.device.by_id[here.peer(KEY_A)].cipher == "chacha20-poly1305"


@serving
async def test_update_only_and_remove(here: Served) -> None:
    assert await here.set(f"public_key={KEY_A}", "update_only=true", "allowed_ip=10.0.0.0/8") == "errno=0\n\n"
    assert not here.tunnel.device.peers
    await here.set(
        f"public_key={KEY_A}", "allowed_ip=10.0.0.0/8", "update_only=true", "allowed_ip=11.0.0.0/8"
    )
    assert not here.tunnel.device.peers, "made in this block, so not known before it"
    await here.set(f"public_key={KEY_A}", "allowed_ip=10.0.0.0/8")
    await here.set(f"public_key={KEY_A}", "update_only=true", "persistent_keepalive_interval=5")
    assert here.tunnel.device.by_id[here.peer(KEY_A)].persistent_keepalive == 5
    assert await here.set(f"public_key={KEY_B}", "remove=true") == "errno=0\n\n"
    assert not here.plane.named("peer_remove")[1:]
    await here.set(f"public_key={KEY_A}", "remove=true", "allowed_ip=12.0.0.0/8", f"public_key={KEY_C}")
    assert set(here.tunnel.device.peers) == {bytes.fromhex(KEY_C)}


@serving
async def test_replace_peers_starts_anew(here: Served) -> None:
    await here.set(f"public_key={KEY_A}", f"public_key={KEY_B}")
    await here.set("replace_peers=true", f"public_key={KEY_C}")
    assert set(here.tunnel.device.peers) == {bytes.fromhex(KEY_C)}
    assert len(here.plane.peers) == 1


@serving
async def test_allowed_ips_move_are_removed_and_replaced_in_order(here: Served) -> None:
    await here.set(
        f"public_key={KEY_A}", "allowed_ip=10.0.0.0/8", "allowed_ip=11.0.0.0/8", "allowed_ip=-10.0.0.0/8"
    )
    assert here.tunnel.allowed_ips(here.peer(KEY_A)) == [(bytes([11, 0, 0, 0]), 8)]
    await here.set(f"public_key={KEY_B}", "allowed_ip=11.0.0.0/8", "allowed_ip=12.0.0.0/8")
    assert here.tunnel.allowed_ips(here.peer(KEY_A)) == []
    await here.set(
        f"public_key={KEY_B}", "allowed_ip=13.0.0.0/8", "replace_allowed_ips=true", "allowed_ip=14.0.0.0/8"
    )
    assert here.tunnel.allowed_ips(here.peer(KEY_B)) == [(bytes([14, 0, 0, 0]), 8)]


@serving
async def test_several_requests_follow_each_other_on_one_connection(here: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(here.path)
    writer.write(f"set=1\nfwmark=3\n\nget=1\n\nset=1\nbad\n\nset=1\npublic_key={KEY_A}\n\n".encode())
    answers = [await reader.readuntil(b"\n\n") for _ in range(4)]
    assert answers[0] == b"errno=0\n\n"
    assert answers[1] == b"listen_port=1000\nfwmark=3\nerrno=0\n\n"
    assert answers[2].startswith(b"errno=-")
    assert answers[3] == b"errno=0\n\n"
    writer.close()
    await writer.wait_closed()


@serving
async def test_empty_and_cut_connections_are_harmless(here: Served) -> None:
    for sent in (b"", b"get=1", b"set=1\nfwmark=5\npublic_key=", b"nonsense\n\n"):
        _, writer = await asyncio.open_unix_connection(here.path)
        writer.write(sent)
        writer.close()
        await writer.wait_closed()
    await until(lambda: here.tunnel.fwmark == 5)
    assert await here.ask("get=1\n\n") == "listen_port=1000\nfwmark=5\nerrno=0\n\n"


@serving
async def test_client_that_does_not_read_delays_no_other(here: Served) -> None:
    lines = [f"allowed_ip=10.{high}.{low}.0/24" for high in range(80) for low in range(256)]
    await here.set(f"public_key={KEY_A}", *lines)
    slow = socket.socket(socket.AF_UNIX)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(os.fspath(here.path))
    slow.sendall(b"get=1\n\n" * 20)
    half = socket.socket(socket.AF_UNIX)
    half.connect(os.fspath(here.path))
    half.sendall(f"set=1\npublic_key={KEY_B}\nallowed_ip=10.0".encode())
    started = time.monotonic()
    assert (await here.ask("get=1\n\n")).count("allowed_ip") == len(lines)
    assert await here.set("fwmark=7") == "errno=0\n\n"
    assert time.monotonic() - started < 10
    slow.close()
    half.close()


@pytest.mark.slow
@serving
async def test_130560_allowed_ips_in_one_set(here: Served) -> None:
    """The number in wg's own test (tests/netns.sh). The loop must stay responsive meanwhile."""
    slowest = 0.0

    async def pulse() -> None:
        nonlocal slowest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0)
            slowest = max(slowest, time.monotonic() - before)

    pulsing = asyncio.create_task(pulse())
    lines = [f"allowed_ip={a}.{b}.{c}.0/24" for a in (1, 2) for b in range(255) for c in range(256)]
    assert len(lines) == 130_560
    assert await here.set(f"public_key={KEY_A}", *lines) == "errno=0\n\n"
    assert (await here.ask("get=1\n\n")).count("allowed_ip=") == len(lines)
    pulsing.cancel()
    assert len(here.plane.named("prefixes")) == -(-len(lines) // 4096)
    assert slowest < 5


@serving
async def test_peer_removed_by_another_client_mid_block(here: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(here.path)
    writer.write(f"set=1\npublic_key={KEY_A}\nallowed_ip=10.0.0.0/8\n".encode())
    await until(lambda: here.tunnel.find(bytes.fromhex(KEY_A)) is not None)
    await here.set(f"public_key={KEY_A}", "remove=true")
    writer.write(b"allowed_ip=11.0.0.0/8\npersistent_keepalive_interval=5\n\n")
    assert await reader.readuntil(b"\n\n") == b"errno=0\n\n"
    assert not here.tunnel.device.peers
    writer.close()
    await writer.wait_closed()


@serving
async def test_keepalive_switched_on_sends_at_once(here: Served) -> None:
    await here.set(
        f"private_key={generate_private_key().hex()}", f"public_key={KEY_A}", "endpoint=10.0.0.9:9"
    )
    assert not here.plane.named("keepalive")
    await here.set(f"public_key={KEY_A}", "persistent_keepalive_interval=25")
    assert here.plane.named("keepalive") == [("keepalive", here.peer(KEY_A))]
    await until(lambda: here.plane.sent)


@serving
async def test_complete_peer_handshakes_for_staged_packets(here: Served) -> None:
    await here.set(f"private_key={generate_private_key().hex()}", f"public_key={KEY_A}")
    here.plane.stamp(here.peer(KEY_A), staged=1)
    await here.set(f"public_key={KEY_A}", "endpoint=10.0.0.9:9")
    await until(lambda: here.plane.sent)
    assert len(here.plane.sent[0]["message"]) == 148


@serving
async def test_the_socket_is_its_owners_alone(here: Served) -> None:
    mode = here.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o700


@serving
async def test_removing_the_socket_file_is_noticed(here: Served) -> None:
    here.path.unlink()
    end = await asyncio.wait_for(here.server.gone, 10)
    assert "removed" in end.reason
    assert not end.failed


@serving
async def test_without_inotify_removal_is_noticed_by_looking(here: Served) -> None:
    here.server._file._unwatch()
    original, socket_file._inotify = socket_file._inotify, lambda path: None
    try:
        here.server._file.watch(asyncio.get_running_loop(), here.server._removed)
    finally:
        socket_file._inotify = original
    here.path.unlink()
    await asyncio.wait_for(here.server.gone, 10)


@serving
async def test_a_file_of_somebody_else_is_left_alone(here: Served) -> None:
    here.path.unlink()
    here.path.write_text("not yours")
    await asyncio.wait_for(here.server.gone, 10)
    await here.server.close()
    assert here.path.read_text() == "not yours"


@serving
async def test_used_socket_is_refused_stale_one_replaced(here: Served) -> None:
    with pytest.raises(HostError, match="in use") as refused:
        SocketFile(here.path)
    assert refused.value.errno == errno.EADDRINUSE
    stale = here.path.with_name("stale.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(stale))
    taken = SocketFile(stale)
    taken.close()
    taken.close()
    assert not stale.exists()


@serving
async def test_socket_of_ending_owner_is_awaited(here: Served) -> None:
    """`wg-quick down wg0; wg-quick up wg0`: the old program ends shortly after its link was deleted."""
    opening = asyncio.ensure_future(SocketFile.open(here.path))
    await asyncio.sleep(0)
    assert not opening.done(), "the old one still answers"
    await here.server.close()
    taken = await asyncio.wait_for(opening, 10)
    assert taken.is_ours
    taken.close()


def test_wg_show_cannot_remove_a_starting_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wg show` unlinks what refuses a connection. Here it looks just before listen(2)."""

    class Watched(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            for each in tmp_path.glob("*.sock"):
                with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
                    probe.connect(os.fspath(each))
                    continue
                each.unlink()
            super().listen(backlog)

    monkeypatch.setattr(socket_file.socket, "socket", Watched)
    taken = SocketFile(tmp_path / "wg0.sock")
    monkeypatch.undo()
    assert taken.is_ours
    assert [each.name for each in tmp_path.iterdir()] == ["wg0.sock"]
    assert Path(taken.path).stat().st_mode & 0o777 == 0o700
    taken.close()


def test_what_cannot_be_a_socket_file(tmp_path: Path) -> None:
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(HostError):
            socket_name(tmp_path, name)
    with pytest.raises(HostError, match="longer"):
        SocketFile(tmp_path / ("x" * 120))
    (tmp_path / "file").touch()
    with pytest.raises(HostError):
        SocketFile(tmp_path / "file" / "wg0.sock")


def test_closing_leaves_no_descriptor_and_no_task(tmp_path: Path) -> None:
    async def body() -> None:
        for _ in range(3):
            async with served(tmp_path) as made:
                await made.set(f"public_key={KEY_A}")
        assert len(asyncio.all_tasks()) == 1

    gc.collect()  # garbage of an earlier test may hold descriptors
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    asyncio.run(body())
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert not list(tmp_path.glob("*.sock"))
