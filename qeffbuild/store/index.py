"""A disposable SQLite index: digests of files that have not changed, and entries by name.

Nothing here is needed to be right: delete the file, fill the disk, damage it, and the store only becomes slower.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from qeffbuild.store.disk import stamp

if TYPE_CHECKING:
    import sqlite3

RACY_NS = 2_000_000_000  # a file changed this shortly before it was hashed may change again under the same stamp
SETTLED = 1 << 62  # as `hashed_at`: nobody can have the file open for writing, so its stamp counts at once
FORGET_AFTER_S = 90 * 86400

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stamp(dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER,
    hashed INTEGER, digest TEXT, PRIMARY KEY(dev, ino)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entry(key TEXT PRIMARY KEY, name TEXT, size INTEGER, at INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_name ON entry(name, at);
"""

Result = TypeVar("Result")


class Row(NamedTuple):  # made seven times as fast as a dataclass: a build with nothing to do imports this
    """An entry as the index knows it."""

    key: str
    name: str
    size: int
    at: int


class Index:
    """One connection for all threads of a process; opened when first asked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = allocate_lock()
        self._connection: sqlite3.Connection | None = None
        self._is_broken = False

    def digest_of(self, status: os.stat_result) -> str | None:
        """The recorded digest of a file that still bears the same stamp."""
        question = "SELECT digest, hashed FROM stamp WHERE dev=? AND ino=? AND size=? AND mtime=? AND ctime=?"
        rows: list[tuple[str, int]] = self._ask(lambda db: db.execute(question, stamp(status)).fetchall(), [])
        if not rows:
            return None
        digest, hashed = rows[0]
        if max(status.st_mtime_ns, status.st_ctime_ns) > hashed - RACY_NS:
            return None
        return digest

    def remember_digest(self, status: os.stat_result, digest: str, hashed_at: int) -> None:
        """`status` and the clock `hashed_at` are from before the file was read."""
        values = (*stamp(status), hashed_at, digest)
        self._ask(lambda db: db.execute("INSERT OR REPLACE INTO stamp VALUES(?,?,?,?,?,?,?)", values), None)

    def add_entry(self, row: Row) -> None:
        values = (row.key, row.name, row.size, row.at)
        self._ask(lambda db: db.execute("INSERT OR REPLACE INTO entry VALUES(?,?,?,?)", values), None)

    def drop_entry(self, key: str) -> None:
        self._ask(lambda db: db.execute("DELETE FROM entry WHERE key=?", (key,)), None)

    def keys_named(self, name: str, limit: int) -> list[str]:
        """The latest entries of a step name, newest first."""
        question = "SELECT key FROM entry WHERE name=? ORDER BY at DESC LIMIT ?"
        rows: list[tuple[str]] = self._ask(lambda db: db.execute(question, (name, limit)).fetchall(), [])
        return [key for (key,) in rows]

    def is_filled(self) -> bool:
        """Whether the entries on disk were all entered once; every publish enters its own."""
        return bool(self._ask(lambda db: db.execute("PRAGMA user_version").fetchone()[0], 1))

    def fill(self, rows: Iterable[Row]) -> None:
        values = [(row.key, row.name, row.size, row.at) for row in rows]

        def enter(db: sqlite3.Connection) -> None:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT OR REPLACE INTO entry VALUES(?,?,?,?)", values)
            db.execute("DELETE FROM stamp WHERE hashed < ?", (time.time_ns() - FORGET_AFTER_S * 10**9,))
            db.execute("PRAGMA user_version=1")
            db.execute("COMMIT")

        self._ask(enter, None)

    def close(self) -> None:
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _ask(self, question: Callable[[sqlite3.Connection], Result], otherwise: Result) -> Result:
        import sqlite3  # milliseconds that a build with nothing to do can save

        with self._mutex:
            for _ in range(2):  # a damaged file is dropped once and made anew
                try:
                    connection = self._open()
                    if connection is None:
                        return otherwise
                    return question(connection)
                except sqlite3.OperationalError:
                    self._forget()  # busy, full or read-only: do without
                    self._is_broken = True
                except sqlite3.DatabaseError:
                    self._forget()
                    self._remove()
            self._is_broken = True
            return otherwise

    def _open(self) -> sqlite3.Connection | None:
        if self._is_broken:
            return None
        if self._connection is None:
            import sqlite3

            connection = sqlite3.connect(self._path, timeout=2.0, isolation_level=None, check_same_thread=False)
            self._connection = connection
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_SCHEMA)
        return self._connection

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it is broken already
                connection.close()

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{self._path}{suffix}")
