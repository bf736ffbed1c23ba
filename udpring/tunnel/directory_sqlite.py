"""A directory in an SQLite database, for very many peers. ``SCHEMA`` is its format, which other programs may
write too.

A thread of its own asks the database, so no query holds the event loop. ``by_key`` is one look-up in the
primary key. ``by_address`` finds the prefix lengths in use, by one index step for each, and then looks all of
them up in one query.

Every row that is added, updated or deleted in ``peers`` leaves its key in ``changes``, by a trigger. Nodes
look there. Whoever changes prefixes or fallbacks alone updates the row in ``peers`` too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from udpring.errors import ClosedError, HostError
from udpring.tunnel.config import Cipher, Endpoint, IPAddress, PeerConfig

__all__ = ["SCHEMA", "SqliteDirectory"]

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS peers (
    public_key BLOB NOT NULL PRIMARY KEY CHECK (length(public_key) = 32),
    preshared_key BLOB CHECK (length(preshared_key) = 32),
    endpoint_host TEXT,                               -- an address or a name
    endpoint_port INTEGER,
    persistent_keepalive INTEGER NOT NULL DEFAULT 0,  -- seconds; 0: off
    cipher TEXT NOT NULL DEFAULT 'chacha20-poly1305',
    name TEXT NOT NULL DEFAULT '',
    offload INTEGER CHECK (offload IN (0, 1))         -- NULL: as the interface's setting says
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prefixes (
    family INTEGER NOT NULL CHECK (family IN (4, 6)),
    length INTEGER NOT NULL CHECK (length BETWEEN 0 AND CASE family WHEN 4 THEN 32 ELSE 128 END),
    network BLOB NOT NULL CHECK (length(network) = CASE family WHEN 4 THEN 4 ELSE 16 END),  -- host bits zero
    public_key BLOB NOT NULL,
    PRIMARY KEY (family, length, network)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fallbacks (
    public_key BLOB NOT NULL,
    place INTEGER NOT NULL,                           -- tried in ascending order, after the peer's endpoint
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    PRIMARY KEY (public_key, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS prefixes_of_peer ON prefixes (public_key);
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    public_key BLOB NOT NULL
);
CREATE TRIGGER IF NOT EXISTS peer_added AFTER INSERT ON peers BEGIN
    INSERT INTO changes (public_key) VALUES (new.public_key);
    DELETE FROM changes WHERE number <= last_insert_rowid() - 100000;
END;
CREATE TRIGGER IF NOT EXISTS peer_updated AFTER UPDATE ON peers BEGIN
    INSERT INTO changes (public_key) VALUES (old.public_key);
    DELETE FROM changes WHERE number <= last_insert_rowid() - 100000;
END;
CREATE TRIGGER IF NOT EXISTS peer_deleted AFTER DELETE ON peers BEGIN
    DELETE FROM prefixes WHERE public_key = old.public_key;
    INSERT INTO changes (public_key) VALUES (old.public_key);
    DELETE FROM changes WHERE number <= last_insert_rowid() - 100000;
END;
CREATE TRIGGER IF NOT EXISTS fallbacks_deleted AFTER DELETE ON peers BEGIN
    DELETE FROM fallbacks WHERE public_key = old.public_key;
END;
"""

_PEER = """
SELECT public_key, preshared_key, endpoint_host, endpoint_port, persistent_keepalive, cipher, name, offload
FROM peers WHERE public_key = ?
"""
_PREFIXES = "SELECT network, length FROM prefixes WHERE public_key = ? ORDER BY family, length, network"
_FALLBACKS = "SELECT host, port FROM fallbacks WHERE public_key = ? ORDER BY place"
_LENGTHS = """
WITH RECURSIVE used(length) AS (
    SELECT (SELECT length FROM prefixes WHERE family = :family ORDER BY length DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT length FROM prefixes WHERE family = :family AND length < used.length
            ORDER BY length DESC LIMIT 1)
    FROM used WHERE used.length IS NOT NULL)
SELECT length FROM used WHERE length IS NOT NULL
"""
_MATCH = """
WITH asked(length, network) AS (VALUES {values})
SELECT prefixes.public_key FROM asked CROSS JOIN prefixes
WHERE prefixes.family = ? AND prefixes.length = asked.length AND prefixes.network = asked.network
ORDER BY prefixes.length DESC LIMIT 1
"""
_PUT_PEER = """
INSERT INTO peers (
    public_key, preshared_key, endpoint_host, endpoint_port, persistent_keepalive, cipher, name, offload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (public_key) DO UPDATE SET
    preshared_key = excluded.preshared_key, endpoint_host = excluded.endpoint_host,
    endpoint_port = excluded.endpoint_port, persistent_keepalive = excluded.persistent_keepalive,
    cipher = excluded.cipher, name = excluded.name, offload = excluded.offload
"""
_ADD_OFFLOAD = "ALTER TABLE peers ADD COLUMN offload INTEGER CHECK (offload IN (0, 1))"
"""For a database that an earlier version has made."""
_BUSY_SECONDS = 5.0
_CHANGES_AT_ONCE = 1000


class SqliteDirectory:
    """Peers in the database at ``path``, which is made (mode 0600) if it is not there. ``close`` it after the
    nodes that use it.

    poll: seconds between two looks for changes by other connections and programs.

    Questions raise sqlite3.Error where the database fails, and ConfigError for a row that is no peer. The
    constructor raises HostError where there is no usable database.
    """

    def __init__(self, path: str | os.PathLike[str], *, poll: float = 1.0) -> None:
        self.path = Path(path)
        self._poll = poll
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="udpring-sqlite")
        try:
            self._connection = self._thread.submit(self._open).result()
        except (OSError, sqlite3.Error) as failed:
            self._thread.shutdown()
            self._thread = None
            raise HostError(
                f"{self.path} cannot be used as a directory of peers: {failed}",
                cure="name an SQLite database, or a new file in a folder that this process can write",
            ) from failed

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")  # writers then do not hold up questions
            connection.executescript(SCHEMA)
            if "offload" not in _columns(connection):
                try:
                    connection.execute(_ADD_OFFLOAD)
                except sqlite3.OperationalError:
                    if "offload" not in _columns(connection):  # no other process has added it
                        raise
        except BaseException:
            connection.close()
            raise
        return connection

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._thread is None:
            raise ClosedError("the directory is closed. Open a new one")
        return await asyncio.wrap_future(self._thread.submit(work, *arguments))

    def close(self) -> None:
        """Ends the thread. A question that runs is interrupted. May be called again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._connection.interrupt()
            thread.submit(self._connection.close)
            thread.shutdown(cancel_futures=False)

    # ---- questions ----

    async def by_key(self, public_key: bytes) -> PeerConfig | None:
        """See ``Directory``."""
        return await self._run(self._by_key, public_key)

    async def by_address(self, ip: IPAddress) -> PeerConfig | None:
        """See ``Directory``."""
        return await self._run(self._by_address, ip)

    def _by_key(self, public_key: bytes) -> PeerConfig | None:
        row = self._connection.execute(_PEER, (public_key,)).fetchone()
        if row is None:
            return None
        key, preshared, host, port, keepalive, cipher, name, offload = row
        prefixes = self._connection.execute(_PREFIXES, (public_key,)).fetchall()
        fallbacks = self._connection.execute(_FALLBACKS, (public_key,)).fetchall()
        return PeerConfig(
            key,
            preshared_key=preshared,
            allowed_ips=tuple(ipaddress.ip_network(prefix) for prefix in prefixes),
            endpoint=None if host is None else Endpoint(host, port),
            persistent_keepalive=keepalive,
            cipher=Cipher(cipher),
            name=name,
            fallbacks=tuple(Endpoint(*each) for each in fallbacks),
            offload=None if offload is None else bool(offload),
        )

    def _by_address(self, ip: IPAddress) -> PeerConfig | None:
        lengths = [length for (length,) in self._connection.execute(_LENGTHS, {"family": ip.version})]
        if not lengths:
            return None
        asked: list[Any] = []
        for length in lengths:
            asked += (length, ipaddress.ip_network((ip, length), strict=False).network_address.packed)
        query = _MATCH.format(values=", ".join(["(?, ?)"] * len(lengths)))
        found = self._connection.execute(query, (*asked, ip.version)).fetchone()
        return None if found is None else self._by_key(found[0])

    # ---- changes ----

    async def put(self, *peers: PeerConfig) -> None:
        """Adds these peers, or replaces those with their keys, in one transaction. A prefix of another peer
        is an sqlite3.IntegrityError, and nothing changes."""
        await self._run(self._put, peers)

    async def remove(self, *public_keys: bytes) -> None:
        """Removes the peers with these keys, in one transaction."""
        await self._run(self._remove, public_keys)

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _put(self, peers: Iterable[PeerConfig]) -> None:
        with self._transaction():
            for peer in peers:
                key, endpoint = peer.public_key, peer.endpoint
                where = (endpoint.host, endpoint.port) if endpoint else (None, None)
                row = (
                    peer.preshared_key,
                    *where,
                    peer.persistent_keepalive,
                    str(peer.cipher),
                    peer.name,
                    peer.offload,
                )
                self._connection.execute(_PUT_PEER, (key, *row))
                self._connection.execute("DELETE FROM fallbacks WHERE public_key = ?", (key,))
                self._connection.executemany(
                    "INSERT INTO fallbacks VALUES (?, ?, ?, ?)",
                    [(key, place, each.host, each.port) for place, each in enumerate(peer.fallbacks)],
                )
                self._connection.execute("DELETE FROM prefixes WHERE public_key = ?", (key,))
                self._connection.executemany(
                    "INSERT INTO prefixes VALUES (?, ?, ?, ?)",
                    [
                        (net.version, net.prefixlen, net.network_address.packed, key)
                        for net in peer.allowed_ips
                    ],
                )

    def _remove(self, public_keys: Iterable[bytes]) -> None:
        with self._transaction():
            self._connection.executemany(
                "DELETE FROM peers WHERE public_key = ?", [(key,) for key in public_keys]
            )

    async def changes(self) -> AsyncIterator[bytes]:
        """See ``ChangingDirectory``. Changes by other programs, too. A program that adds more than 100,000
        peers between two looks leaves only the last ones to be seen."""
        number = await self._run(self._last_change)
        while True:
            await asyncio.sleep(self._poll)
            more = True
            while more:
                number, keys = await self._run(self._changes_after, number)
                more = len(keys) == _CHANGES_AT_ONCE
                for key in dict.fromkeys(keys):
                    yield key

    def _last_change(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(number), 0) FROM changes").fetchone()[0])

    def _changes_after(self, number: int) -> tuple[int, list[bytes]]:
        rows = self._connection.execute(
            "SELECT number, public_key FROM changes WHERE number > ? ORDER BY number LIMIT ?",
            (number, _CHANGES_AT_ONCE),
        ).fetchall()
        return (rows[-1][0] if rows else number), [key for _, key in rows]


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [row[1] for row in connection.execute("PRAGMA table_info(peers)")]
