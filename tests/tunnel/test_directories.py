"""The included directories: look-ups by the longest prefix, and announcements."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_rig import until

from udpring.errors import ClosedError, ConfigError, HostError
from udpring.tunnel.config import Cipher, Config, Endpoint, IPAddress, Network, PeerConfig
from udpring.tunnel.directory import ChangingDirectory, Directory
from udpring.tunnel.directory_folder import FolderDirectory
from udpring.tunnel.directory_mapping import MappingDirectory
from udpring.tunnel.directory_sqlite import _FALLBACKS, _LENGTHS, _MATCH, _PEER, SqliteDirectory
from udpring.tunnel.disjoint_prefixes import DisjointPrefixes
from udpring.tunnel.prefix_index import PrefixIndex

KEYS = [bytes([number]) * 32 for number in range(1, 20)]


def network(text: str) -> Network:
    return ipaddress.ip_network(text)


def peer(number: int, *allowed: str, **rest: Any) -> PeerConfig:
    return PeerConfig(KEYS[number], allowed_ips=tuple(network(each) for each in allowed), **rest)


FULL = peer(
    0,
    "10.0.0.0/24",
    "fd00::/64",
    preshared_key=bytes(range(32)),
    endpoint=Endpoint("vpn.example", 51820),
    fallbacks=(Endpoint("192.0.2.1", 443), Endpoint("fd00::7", 51820)),
    persistent_keepalive=25,
    name="alice",
    offload=False,
    cipher=Cipher.AES_256_GCM,
)


class Stores:
    """One kind of directory: made of peers, and changed afterwards."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.open: list[SqliteDirectory] = []

    async def make(self, *peers: PeerConfig) -> Any:
        if self.kind == "mapping":
            return MappingDirectory({each.public_key: each for each in peers})
        if self.kind == "folder":
            for each in peers:
                self.write(each)
            return FolderDirectory(self.folder, poll=0.01)
        made = SqliteDirectory(self.folder / "peers.sqlite", poll=0.01)
        self.open.append(made)
        await made.put(*peers)
        return made

    def file(self, key: bytes) -> Path:
        return self.folder / f"{key.hex()[:8]}.conf"

    def write(self, each: PeerConfig) -> None:
        new = self.folder / "new"
        new.write_text(Config(peers=(each,)).dumps())
        new.chmod(0o600)
        new.rename(self.file(each.public_key))

    async def put(self, directory: Any, each: PeerConfig) -> None:
        if self.kind == "mapping":
            directory.put(each)
        elif self.kind == "folder":
            self.write(each)
        else:
            await directory.put(each)

    async def remove(self, directory: Any, key: bytes) -> None:
        if self.kind == "mapping":
            directory.remove(key)
        elif self.kind == "folder":
            self.file(key).unlink()
        else:
            await directory.remove(key)


@pytest.fixture(params=["mapping", "folder", "sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    made = Stores(request.param, tmp_path)
    yield made
    for each in made.open:
        each.close()


def run(body: Callable[[], Any]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(body(), 60)

    asyncio.run(bounded())


def test_questions_are_answered(stores: Stores) -> None:
    async def body() -> None:
        directory: Directory = await stores.make(FULL, peer(1, "10.0.1.0/24"))
        assert isinstance(directory, ChangingDirectory)
        assert await directory.by_key(KEYS[0]) == FULL
        assert await directory.by_key(KEYS[5]) is None
        assert await directory.by_address(ipaddress.ip_address("10.0.0.7")) == FULL
        assert await directory.by_address(ipaddress.ip_address("fd00::7")) == FULL
        assert await directory.by_address(ipaddress.ip_address("10.0.2.7")) is None
        assert await directory.by_address(ipaddress.ip_address("fd01::7")) is None

    run(body)


def test_empty_directory_knows_nobody(stores: Stores) -> None:
    async def body() -> None:
        directory: Directory = await stores.make()
        assert await directory.by_key(KEYS[0]) is None
        assert await directory.by_address(ipaddress.ip_address("10.0.0.7")) is None

    run(body)


def test_changes_are_announced(stores: Stores) -> None:
    async def body() -> None:
        directory = await stores.make(FULL, peer(1, "10.0.1.0/24"))
        feed: AsyncIterator[bytes] = directory.changes()
        heard: list[bytes] = []

        async def listen() -> None:
            async for key in feed:
                heard.append(key)

        listener = asyncio.create_task(listen())
        for number in range(1, 1000):  # changes before it follows are not reported
            await stores.put(directory, peer(0, "10.0.5.0/24", persistent_keepalive=number))
            await asyncio.sleep(0.02)
            if heard:
                break
        assert heard == [KEYS[0]]
        assert await directory.by_address(ipaddress.ip_address("10.0.0.7")) is None
        found = await directory.by_address(ipaddress.ip_address("10.0.5.7"))
        assert found == peer(0, "10.0.5.0/24", persistent_keepalive=number)
        await stores.remove(directory, KEYS[1])
        await until(lambda: KEYS[1] in heard)
        assert await directory.by_key(KEYS[1]) is None
        assert await directory.by_address(ipaddress.ip_address("10.0.1.7")) is None
        listener.cancel()

    run(body)


# ---- the longest prefix ----


def networks(version: int) -> st.SearchStrategy[Network]:
    """Few bits vary, so that many prefixes lie in one another."""
    bits = 32 if version == 4 else 128

    def made(value: int, length: int) -> Network:
        address = ipaddress.ip_address(
            (value << (bits - 8) if version == 6 else value << 24).to_bytes(bits // 8, "big")
        )
        return ipaddress.ip_network((address, length), strict=False)

    lengths = st.one_of(st.integers(0, 9), st.sampled_from([bits - 1, bits]))
    return st.builds(made, st.integers(0, 255), lengths)


addresses: st.SearchStrategy[IPAddress] = st.one_of(
    st.builds(
        lambda top, low: ipaddress.ip_address((top << 24 | low).to_bytes(4, "big")),
        st.integers(0, 255),
        st.integers(0, 1),
    ),
    st.builds(
        lambda top, low: ipaddress.ip_address((top << 120 | low).to_bytes(16, "big")),
        st.integers(0, 255),
        st.integers(0, 1),
    ),
)
owned = st.dictionaries(st.one_of(networks(4), networks(6)), st.sampled_from(KEYS), max_size=40)


def expected(prefixes: dict[Network, bytes], ip: IPAddress) -> bytes | None:
    """By ipaddress alone."""
    having = [each for each in prefixes if each.version == ip.version and ip in each]
    return prefixes[max(having, key=lambda each: each.prefixlen)] if having else None


@given(prefixes=owned, asked=st.lists(addresses, min_size=1, max_size=30), dropped=st.integers(0, 10))
def test_index_finds_the_longest_prefix(
    prefixes: dict[Network, bytes], asked: list[IPAddress], dropped: int
) -> None:
    index = PrefixIndex()
    for each, owner in prefixes.items():
        assert index.add(each, owner) == owner
    for each in list(prefixes)[:dropped]:
        index.remove(each, prefixes.pop(each))
    for ip in asked:
        assert index.find(ip) == expected(prefixes, ip)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefixes=owned, asked=st.lists(addresses, min_size=1, max_size=30))
def test_sqlite_finds_the_longest_prefix(
    tmp_path: Path, prefixes: dict[Network, bytes], asked: list[IPAddress]
) -> None:
    async def body() -> None:
        path = tmp_path / "peers.sqlite"
        path.unlink(missing_ok=True)
        with closing(SqliteDirectory(path)) as directory:
            await directory.put(
                *(
                    PeerConfig(key, allowed_ips=tuple(each for each in prefixes if prefixes[each] == key))
                    for key in set(prefixes.values())
                )
            )
            for ip in asked:
                found = await directory.by_address(ip)
                assert (found.public_key if found else None) == expected(prefixes, ip)

    run(body)


@given(prefixes=owned)
def test_overlaps_of_owners_are_found(prefixes: dict[Network, bytes]) -> None:
    """Each owner comes as a whole, and stays if none of its prefixes overlaps one that is there."""
    disjoint = DisjointPrefixes()
    here: dict[bytes, list[Network]] = {}
    for owner in dict.fromkeys(prefixes.values()):
        mine = [each for each in prefixes if prefixes[each] == owner]
        overlaps = {
            (each, other)
            for each in mine
            for other, theirs in here.items()
            for them in theirs
            if each.version == them.version and each.overlaps(them)
        }
        found = disjoint.conflict(mine, owner)
        assert (found in overlaps) if overlaps else found is None
        if found is None:
            here[owner] = mine
            disjoint.put(mine, owner)
    for owner in list(here):
        disjoint.remove(owner)
    assert disjoint.conflict(prefixes, KEYS[0]) is None


# ---- a mapping ----


def test_mapping_refuses_a_prefix_of_two_peers() -> None:
    async def body() -> None:
        directory = MappingDirectory([FULL])
        with pytest.raises(ConfigError, match=r"10\.0\.0\.0/24 is in AllowedIPs"):
            directory.put(peer(1, "10.9.0.0/24", "10.0.0.0/24"))
        assert KEYS[1] not in directory
        assert await directory.by_address(ipaddress.ip_address("10.9.0.1")) is None
        directory.put(peer(1, "10.9.0.0/24"))
        with pytest.raises(ConfigError):
            directory.put(peer(1, "10.0.0.0/24"))
        assert await directory.by_address(ipaddress.ip_address("10.9.0.1")) == peer(1, "10.9.0.0/24")
        assert len(directory) == 2

    run(body)


# ---- a folder ----


def test_wrong_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stores = Stores("folder", tmp_path)
    stores.write(FULL)
    (tmp_path / "garbage.conf").write_text("hello")
    (tmp_path / "none.conf").write_text("[Interface]\n")
    (tmp_path / "two.conf").write_text(Config(peers=(peer(3), peer(4))).dumps())
    (tmp_path / "zz-same.conf").write_text(Config(peers=(peer(0, "10.3.0.0/24"),)).dumps())
    (tmp_path / "zz-steals.conf").write_text(Config(peers=(peer(5, "10.0.0.0/24"),)).dumps())
    (tmp_path / "notes.txt").write_text("not a peer")
    with caplog.at_level(logging.WARNING, logger="udpring.node"):
        directory = FolderDirectory(tmp_path)
    assert len(directory) == 1
    text = caplog.text
    for words in (
        "garbage.conf",
        "has 0 [Peer]",
        "has 2 [Peer]",
        "another file has its PublicKey",
        "already",
    ):
        assert words in text
    run(lambda: check_only_full(directory))


async def check_only_full(directory: FolderDirectory) -> None:
    assert await directory.by_key(KEYS[0]) == FULL


def test_file_that_was_left_out_is_tried_again(tmp_path: Path) -> None:
    """Its prefix becomes free."""

    async def body() -> None:
        stores = Stores("folder", tmp_path)
        stores.write(peer(0, "10.0.0.0/24"))
        stores.write(peer(1, "10.0.0.0/24"))
        directory = FolderDirectory(tmp_path, poll=0.01)
        assert await directory.by_key(KEYS[1]) is None
        stores.file(KEYS[0]).unlink()
        keys = []
        async for key in directory.changes():
            keys.append(key)
            if len(keys) == 2:
                break
        assert keys == [KEYS[0], KEYS[1]]
        assert await directory.by_address(ipaddress.ip_address("10.0.0.7")) == peer(1, "10.0.0.0/24")

    run(body)


def test_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the folder cannot be read"):
        FolderDirectory(tmp_path / "missing")


# ---- SQLite ----


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDirectory]:
    with closing(SqliteDirectory(tmp_path / "peers.sqlite")) as made:
        yield made


def test_each_question_uses_an_index(database: SqliteDirectory) -> None:
    with closing(sqlite3.connect(database.path)) as connection:

        def plan(query: str, *values: object) -> list[str]:
            return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + query, values)]

        asked = _MATCH.format(values="(?, ?), (?, ?)")
        plans = plan(_PEER, KEYS[0]) + plan(_FALLBACKS, KEYS[0]) + plan(asked, 32, b"abcd", 24, b"abc\0", 4)
        plans += [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + _LENGTHS, {"family": 4})]
        assert any("(family=? AND length=? AND network=?)" in step for step in plans)
        assert any("(family=? AND length<?)" in step for step in plans)
        scans = [step for step in plans if step.startswith("SCAN")]
        assert all(step.split()[1] in ("asked", "used", "CONSTANT", "2", "3") for step in scans), plans


def test_secrets_are_the_owners_alone(database: SqliteDirectory) -> None:
    assert stat.S_IMODE(database.path.stat().st_mode) == 0o600


def test_fallbacks_go_with_their_peer(database: SqliteDirectory) -> None:
    async def body() -> None:
        await database.put(FULL)
        await database.put(replace(FULL, fallbacks=FULL.fallbacks[:1]))
        assert await database.by_key(KEYS[0]) == replace(FULL, fallbacks=FULL.fallbacks[:1])
        await database.remove(KEYS[0])
        await database.put(replace(FULL, fallbacks=()))
        assert await database.by_key(KEYS[0]) == replace(FULL, fallbacks=())

    run(body)


def test_database_of_an_earlier_version_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite"
    with closing(SqliteDirectory(path)) as directory:
        run(lambda: directory.put(replace(FULL, fallbacks=(), offload=None)))
    with closing(sqlite3.connect(path)) as other:
        other.executescript("DROP TRIGGER fallbacks_deleted; DROP TABLE fallbacks")
        other.executescript("ALTER TABLE peers DROP COLUMN offload")

    async def body() -> None:
        assert await directory.by_key(KEYS[0]) == replace(FULL, fallbacks=(), offload=None)
        await directory.put(FULL)
        assert await directory.by_key(KEYS[0]) == FULL

    with closing(SqliteDirectory(path)) as directory:
        run(body)


def test_prefix_of_another_peer_changes_nothing(database: SqliteDirectory) -> None:
    async def body() -> None:
        await database.put(FULL)
        with pytest.raises(sqlite3.IntegrityError):
            await database.put(peer(1, "10.1.0.0/24"), peer(2, "10.0.0.0/24"))
        assert await database.by_key(KEYS[1]) is None
        assert await database.by_key(KEYS[0]) == FULL

    run(body)


def test_other_programs_may_write(database: SqliteDirectory) -> None:
    async def body() -> None:
        await database.put(FULL)
        with closing(sqlite3.connect(database.path)) as other:
            other.execute("INSERT INTO peers (public_key) VALUES (?)", (KEYS[1],))
            other.execute("INSERT INTO prefixes VALUES (4, 24, ?, ?)", (bytes([10, 9, 0, 0]), KEYS[1]))
            other.execute("UPDATE peers SET name = 'bob' WHERE public_key = ?", (KEYS[0],))
            other.commit()
        assert await database.by_address(ipaddress.ip_address("10.9.0.9")) == peer(1, "10.9.0.0/24")
        found = await database._run(database._changes_after, 0)
        assert found[1] == [KEYS[0], KEYS[1], KEYS[0]]

    run(body)


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [
        ("cipher", "rot13", ValueError),
        ("endpoint_port", 0, ConfigError),
        ("persistent_keepalive", -1, ConfigError),
    ],
)
def test_row_that_is_no_peer_is_an_error(
    database: SqliteDirectory, column: str, value: object, error: type[Exception]
) -> None:
    async def body() -> None:
        await database.put(FULL)
        with closing(sqlite3.connect(database.path)) as other:
            other.execute(f"UPDATE peers SET {column} = ?", (value,))
            other.commit()
        with pytest.raises(error):
            await database.by_key(KEYS[0])
        with pytest.raises(error):
            await database.by_address(ipaddress.ip_address("10.0.0.1"))

    run(body)


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("hello\n" * 1000)
    threads = threading.enumerate()  # those of other tests may end meanwhile
    with pytest.raises(HostError, match="cannot be used as a directory"):
        SqliteDirectory(path)
    with pytest.raises(HostError, match="cannot be used as a directory"):
        SqliteDirectory(tmp_path / "missing" / "peers.sqlite")
    assert not set(threading.enumerate()).difference(threads)


def test_closed_directory_says_so(tmp_path: Path) -> None:
    directory = SqliteDirectory(tmp_path / "peers.sqlite")
    before = len(list(Path("/proc/self/fd").iterdir()))
    directory.close()
    directory.close()
    assert len(list(Path("/proc/self/fd").iterdir())) < before

    async def body() -> None:
        with pytest.raises(ClosedError):
            await directory.by_key(KEYS[0])

    run(body)
