"""Timestamps across restarts: contents of the file, a damaged file, and replays."""

from __future__ import annotations

import asyncio
import logging
import random
import stat
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from fake_plane import FakePlane, VirtualLoop, virtual_loop

from udpring.errors import HostError
from udpring.tunnel import timestamp_file
from udpring.tunnel.keys import generate_private_key, public_key
from udpring.tunnel.plane_values import SocketAddress
from udpring.tunnel.timestamp_file import SAVE_SECONDS, TimestampFile, timestamp_path
from udpring.tunnel.tunnel import Tunnel

KEYS = [bytes([number]) * 32 for number in range(1, 5)]
EARLY, LATE = bytes(11) + b"\1", bytes(11) + b"\2"


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with virtual_loop() as made:
        yield made


def opened(path: Path, live: dict[bytes, bytes] | None = None) -> TimestampFile:
    with virtual_loop() as loop:
        return TimestampFile(path, lambda: live or {}, loop=loop)


def saved(path: Path, live: dict[bytes, bytes]) -> None:
    with virtual_loop() as loop:
        file = TimestampFile(path, lambda: live, loop=loop)
        file.changed()
        file.close()


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "wg0.timestamps"
    saved(path, {KEYS[0]: LATE, KEYS[1]: b""})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == [path.name], "no half-written file stays"
    again = opened(path)
    assert (again.of(KEYS[0]), again.of(KEYS[1]), again.of(KEYS[2])) == (LATE, b"", b"")


def test_peers_that_were_not_added_yet_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "wg0.timestamps"
    saved(path, {KEYS[0]: EARLY, KEYS[1]: EARLY})
    saved(path, {KEYS[1]: LATE})
    again = opened(path)
    assert (again.of(KEYS[0]), again.of(KEYS[1])) == (EARLY, LATE)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"timestamps 1", b"timestamps 2"),
        lambda data: data.replace(b"01" * 32, b"zz" * 32),
        lambda data: data.replace(b"end 1", b"end 2"),
        lambda data: b"\xff" * 100,
        lambda data: b"x" * (10 << 20),
    ],
)
def test_damaged_file_is_reported_and_ignored(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "wg0.timestamps"
    saved(path, {KEYS[0]: LATE})
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "udpring"):
        assert opened(path).of(KEYS[0]) == b""
    assert str(path) in caplog.text
    assert opened(path).of(KEYS[0]) == b"", "and replaced by a whole one"


def test_file_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "wg0.timestamps"
    saved(path, {KEYS[0]: LATE})
    path.chmod(0o620)
    assert opened(path).of(KEYS[0]) == b""


def test_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="UDPRING_TIMESTAMPS"):
        opened(tmp_path / "file" / "wg0.timestamps")


def test_path_comes_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UDPRING_TIMESTAMPS", raising=False)
    assert timestamp_path(None, "wg0") is None
    monkeypatch.setenv("UDPRING_TIMESTAMPS", "/var/lib/udpring")
    assert timestamp_path(None, "wg0") == Path("/var/lib/udpring/wg0.timestamps")
    assert timestamp_path("/x", "wg0") == Path("/x/wg0.timestamps")


def test_many_changes_are_few_writes(
    tmp_path: Path, loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[float] = []
    write = timestamp_file._write

    def counted(path: Path, what: dict[bytes, bytes]) -> None:
        writes.append(loop.time())
        write(path, what)

    async def here(work: Callable[[], None], *, name: str) -> None:
        work()

    live: dict[bytes, bytes] = {}
    file = TimestampFile(tmp_path / "wg0.timestamps", lambda: live, loop=loop)
    monkeypatch.setattr(timestamp_file, "_write", counted)
    monkeypatch.setattr(timestamp_file, "run_blocking", here)

    async def change() -> None:
        for number in range(1000):
            live[KEYS[0]] = number.to_bytes(12, "big")
            file.changed()
            await asyncio.sleep(SAVE_SECONDS / 100)

    loop.run_until_complete(change())
    file.close()
    assert 9 <= len(writes) <= 11
    assert all(after - before >= SAVE_SECONDS for before, after in pairwise(writes[:-1]))
    assert opened(tmp_path / "wg0.timestamps").of(KEYS[0]) == (999).to_bytes(12, "big")


@pytest.mark.parametrize("kept", [True, False])
def test_captured_initiation_after_a_restart(tmp_path: Path, loop: VirtualLoop, kept: bool) -> None:
    here, there, stranger = (SocketAddress(bytes([10, 0, 0, number]), 1000) for number in (1, 2, 66))
    our_key, peer_key = generate_private_key(), generate_private_key()

    def node(own: bytes, other: bytes, address: SocketAddress) -> Tunnel:
        plane = FakePlane(loop.clock, address=address)
        tunnel = Tunnel(plane, loop=loop, clock=loop.clock, random=random.Random(7).randbytes)  # type: ignore[arg-type]
        if own == our_key:
            tunnel.keep_timestamps(tmp_path / "wg0.timestamps" if kept else None)
        tunnel.set_private_key(own)
        tunnel.set_endpoint(tunnel.add_peer(public_key(other)), there if own == our_key else here)
        tunnel.start()
        return tunnel

    ours, theirs = node(our_key, peer_key, here), node(peer_key, our_key, there)
    ours.plane.other, theirs.plane.other = theirs.plane, ours.plane  # type: ignore[attr-defined]
    theirs.set_keepalive(next(iter(theirs.device.by_id)), 25)
    loop.call_later(1, loop.stop)
    loop.run_forever()
    captured = theirs.plane.sent[0]["message"]  # type: ignore[attr-defined]
    assert captured[0] == 1
    for tunnel in (ours, theirs):
        tunnel.close()
    ours = node(our_key, peer_key, here)
    ours.plane.arrive(captured, stranger)  # type: ignore[attr-defined]
    loop.call_later(1, loop.stop)
    loop.run_forever()
    (state,) = ours.states().values()
    assert state.endpoint == (there if kept else stranger)
    assert ours.control.stats.dropped.get("replayed_initiation", 0) == kept
    # After removal and addition the peer may start over, because its clock may have been set back.
    ours.remove_peer(state.peer)
    ours.set_endpoint(ours.add_peer(public_key(peer_key)), there)
    ours.plane.arrive(captured, stranger)  # type: ignore[attr-defined]
    loop.call_later(1, loop.stop)
    loop.run_forever()
    (state,) = ours.states().values()
    assert state.endpoint == stranger
    ours.close()
