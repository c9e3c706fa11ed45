"""FileStore: uploads to `/v1/files`, and the results of batches; each client's own, bounded in size."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from typing import Literal

from miner.gateway.errors import RefusedError
from miner.gateway.store.database import Database

_TABLES = (
    """CREATE TABLE IF NOT EXISTS files (
        owner TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL, created REAL NOT NULL,
        expires REAL NOT NULL, bytes INTEGER NOT NULL, content BLOB, batch TEXT, part TEXT, PRIMARY KEY (owner, id)
    )""",
    "CREATE INDEX IF NOT EXISTS files_by_age ON files (expires)",
)
_COLUMNS = "id, name, purpose, created, expires, bytes, batch, part"

Part = Literal["output", "errors"]


@dataclass(slots=True)
class StoredFile:
    """A file without its content."""

    id: str
    name: str
    purpose: str
    created: float
    """Seconds since 1970, as `expires`."""
    expires: float
    bytes: int
    batch: str | None = None
    """The batch whose results it is; its content is read from the batch."""
    part: Part | None = None


class FileStore:
    """Files by owner and id. An owner never finds what another one stored.

    Args:
        database: shared with other stores.
        size: bytes of all files and batches together, at most.
        age: seconds for which a file is kept, unless its owner wants less.
    """

    def __init__(self, database: Database, *, size: int, age: float) -> None:
        self._database = database
        self.size = size
        self.age = age
        database.add_tables(*_TABLES)

    async def add(self, owner: str, file: StoredFile, content: bytes) -> None:
        """Store an uploaded file.

        Raises:
            RefusedError: there is no room for it.
            StorageError: the database cannot be used.
        """

        def work(connection: sqlite3.Connection) -> None:
            check_room(connection, self.size, len(content))
            insert_file(connection, owner, file, content)

        await self._database.write(work)

    async def find(self, owner: str, file_id: str) -> StoredFile | None:
        """The file; None: there is none, it is another owner's, or too old."""
        return await self._database.read(lambda connection: find_file(connection, owner, file_id))

    async def content(self, owner: str, file_id: str) -> bytes | None:
        """The bytes of an uploaded file; None: there is none."""

        def work(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT content FROM files WHERE owner = ? AND id = ? AND expires > ?", (owner, file_id, time.time())
            ).fetchone()
            return row[0] if row else None

        return await self._database.read(work)

    async def list_files(
        self, owner: str, *, purpose: str | None, after: str | None, limit: int, ascending: bool
    ) -> list[StoredFile]:
        """Files of an owner, behind the one with the id `after`.

        Args:
            limit: files at most.
            ascending: the oldest first; else the newest.
        """

        def work(connection: sqlite3.Connection) -> list[StoredFile]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM files WHERE owner = ? AND expires > ? AND (? IS NULL OR purpose = ?) "
                f"ORDER BY created {'ASC' if ascending else 'DESC'}, id",
                (owner, time.time(), purpose, purpose),
            ).fetchall()
            files = [StoredFile(*row) for row in rows]
            places = [place for place, file in enumerate(files) if file.id == after]
            start = places[0] + 1 if places else 0
            return files[start : start + limit]

        return await self._database.read(work)

    async def delete(self, owner: str, file_id: str) -> bool:
        """Delete it; return whether it was there."""

        def work(connection: sqlite3.Connection) -> bool:
            done = connection.execute("DELETE FROM files WHERE owner = ? AND id = ?", (owner, file_id))
            return done.rowcount > 0

        return await self._database.write(work)


def find_file(connection: sqlite3.Connection, owner: str, file_id: str) -> StoredFile | None:
    """The file of an owner, in a transaction of the caller's."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE owner = ? AND id = ? AND expires > ?", (owner, file_id, time.time())
    ).fetchone()
    return StoredFile(*row) if row else None


def insert_file(connection: sqlite3.Connection, owner: str, file: StoredFile, content: bytes | None) -> None:
    """Insert a file, in a transaction of the caller's."""
    connection.execute(
        "INSERT INTO files (owner, id, name, purpose, created, expires, bytes, content, batch, part) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            owner, file.id, file.name, file.purpose, file.created, file.expires, file.bytes, content, file.batch,
            file.part,
        ),
    )  # fmt: skip


def check_room(connection: sqlite3.Connection, size: int, more: int) -> None:
    """Make sure that `more` bytes fit, once what has expired is deleted.

    Raises:
        RefusedError: they do not.
    """
    connection.execute("DELETE FROM files WHERE expires < ?", (time.time(),))
    (files,) = connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM files WHERE content IS NOT NULL").fetchone()
    (rows,) = connection.execute(
        "SELECT COALESCE(SUM(LENGTH(body) + LENGTH(COALESCE(result, ''))), 0) FROM batch_rows"
    ).fetchone()
    if files + rows + more > size:
        raise RefusedError(
            413, "storage_full", f"There is no room for {more} bytes: files and batches may have {size} together.",
            hint="Delete files and batches that are no longer needed.",
            operator_hint="Raise MINER_SERVE_BATCH_MAX_BYTES.",
        )  # fmt: skip
