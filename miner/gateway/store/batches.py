"""BatchStore: batches and their rows, each client's own; every row is run to its end once, also across restarts."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from miner.gateway.store.database import Database
from miner.gateway.store.files import StoredFile, check_room, find_file, insert_file
from miner.gateway.store.instance import Instance

_TABLES = (
    """CREATE TABLE IF NOT EXISTS batches (
        owner TEXT NOT NULL, id TEXT NOT NULL, api TEXT NOT NULL, endpoint TEXT NOT NULL, status TEXT NOT NULL,
        created REAL NOT NULL, expires REAL NOT NULL, instance TEXT, details BLOB NOT NULL, PRIMARY KEY (owner, id)
    )""",
    "CREATE INDEX IF NOT EXISTS batches_by_status ON batches (status)",
    """CREATE TABLE IF NOT EXISTS batch_rows (
        batch TEXT NOT NULL, place INTEGER NOT NULL, custom_id TEXT NOT NULL, body BLOB NOT NULL, state TEXT NOT NULL,
        http_status INTEGER, request_id TEXT, result BLOB, prompt_tokens INTEGER NOT NULL DEFAULT 0,
        cached_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0,
        reasoning_tokens INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (batch, place)
    )""",
    "CREATE INDEX IF NOT EXISTS batch_rows_by_state ON batch_rows (batch, state)",
)
Status = Literal["validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled", "expired"]
RowState = Literal["pending", "running", "succeeded", "errored", "cancelled", "expired"]
_ENDED = ("completed", "failed", "cancelled", "expired")
_WORKABLE = "('in_progress', 'cancelling')"
_PAGE = 200
"""Rows that are read at once."""


class Details(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a batch has besides its columns."""

    input_file: str | None = None
    metadata: dict[str, str] | None = None
    window: str = "24h"
    results_age: float | None = None
    """Seconds for which its result files are kept; None: as all files."""
    peer: str = "unix"
    """Address of its client: without keys, limits count by it."""
    unsupported: str | None = None
    """The policy for unsupported parameters that its request names."""
    times: dict[str, float] = {}
    """When it reached each status, in seconds since 1970."""
    errors: list[dict[str, Any]] = []
    """Why it failed: `code`, `message`, `param` and `line`."""
    output_file: str | None = None
    error_file: str | None = None


@dataclass(slots=True)
class Batch:
    """One batch."""

    owner: str
    id: str
    api: Literal["openai", "anthropic"]
    endpoint: str
    status: Status
    created: float
    """Seconds since 1970, as `expires`."""
    expires: float
    details: Details = field(default_factory=Details)
    counts: dict[str, int] = field(default_factory=dict)
    """Number of rows in each state."""
    usage: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Tokens of its rows: prompts, of those cached, completions, of those reasoning."""

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in _ENDED

    @property
    def total(self) -> int:
        """Number of its rows."""
        return sum(self.counts.values())


@dataclass(slots=True)
class Row:
    """One request of a batch, with its result once it has one."""

    place: int
    custom_id: str
    body: bytes
    state: RowState
    http_status: int | None = None
    request_id: str | None = None
    result: bytes | None = None
    """The body of its response."""
    usage: tuple[int, int, int, int] = (0, 0, 0, 0)


class BatchStore:
    """Batches by owner and id. An owner never finds what another one stored.

    Args:
        database: shared with other stores.
        size: bytes of all files and batches together, at most.
        age: seconds for which a batch that has ended is kept.
    """

    def __init__(self, database: Database, *, size: int, age: float) -> None:
        self.database = database
        self._size = size
        self._age = age
        database.add_tables(*_TABLES, recover=_release_orphans)

    async def create(self, batch: Batch, rows: list[tuple[str, bytes]] | None = None) -> None:
        """Store a new batch, with its rows where they are known.

        Args:
            rows: custom id and body of each.

        Raises:
            RefusedError: there is no room for it.
            StorageError: the database cannot be used.
        """

        def work(connection: sqlite3.Connection) -> None:
            check_room(connection, self._size, sum(len(body) for _, body in rows or ()))
            self._expire(connection)
            connection.execute(
                "INSERT INTO batches (owner, id, api, endpoint, status, created, expires, details) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    batch.owner, batch.id, batch.api, batch.endpoint, batch.status, batch.created, batch.expires,
                    msgspec.json.encode(batch.details),
                ),
            )  # fmt: skip
            _insert_rows(connection, batch.id, rows or ())

        await self.database.write(work)

    async def find(self, owner: str, batch_id: str) -> Batch | None:
        """The batch with its counts; None: there is none, or it is another owner's."""

        def work(connection: sqlite3.Connection) -> Batch | None:
            return next(_batches(connection, "owner = ? AND id = ?", (owner, batch_id)), None)

        return await self.database.read(work)

    async def list_batches(self, owner: str, api: str) -> list[Batch]:
        """All batches of an owner, the newest first."""

        def work(connection: sqlite3.Connection) -> list[Batch]:
            return list(_batches(connection, "owner = ? AND api = ? ORDER BY created DESC, id", (owner, api)))

        return await self.database.read(work)

    async def delete(self, owner: str, batch_id: str) -> None:
        """Delete a batch with its rows."""

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute("DELETE FROM batches WHERE owner = ? AND id = ?", (owner, batch_id)).rowcount:
                connection.execute("DELETE FROM batch_rows WHERE batch = ?", (batch_id,))

        await self.database.write(work)

    async def rows(self, batch_id: str, after: int, states: tuple[RowState, ...]) -> list[Row]:
        """A page of rows in these states, in their order, behind the place `after`; empty at the end."""

        def work(connection: sqlite3.Connection) -> list[Row]:
            found = connection.execute(
                "SELECT place, custom_id, '', state, http_status, request_id, result FROM batch_rows "
                f"WHERE batch = ? AND place > ? AND state IN ({', '.join('?' * len(states))}) ORDER BY place LIMIT ?",
                (batch_id, after, *states, _PAGE),
            ).fetchall()
            return [Row(*row) for row in found]

        return await self.database.read(work)

    # The runner's side

    async def claim(self) -> list[Batch]:
        """The unfinished batches that are this process' own now: those that no living process works on are taken."""
        instance = await self.database.instance()

        def work(connection: sqlite3.Connection) -> list[Batch]:
            unfinished = f"status NOT IN ({', '.join(repr(status) for status in _ENDED)})"
            connection.execute(f"UPDATE batches SET instance = ? WHERE instance IS NULL AND {unfinished}", (instance,))
            return list(_batches(connection, f"instance = ? AND {unfinished} ORDER BY created, id", (instance,)))

        return await self.database.write(work)

    async def release(self) -> None:
        """Work on none of them any more: rows that were running are pending again."""
        instance = await self.database.instance()

        def work(connection: sqlite3.Connection) -> None:
            _release(connection, instance)

        await self.database.write(work)

    async def start(self, batch: Batch, rows: list[tuple[str, bytes]]) -> None:
        """Store the rows of a batch whose input file was valid."""

        def work(connection: sqlite3.Connection) -> None:
            check_room(connection, self._size, sum(len(body) for _, body in rows))
            _insert_rows(connection, batch.id, rows)
            _set_status(connection, batch, "in_progress")

        await self.database.write(work)

    async def set_status(self, batch: Batch, status: Status) -> None:
        """Change the status, and note when. With `cancelling`, rows that have not begun are cancelled."""

        def work(connection: sqlite3.Connection) -> None:
            if status == "cancelling":
                _end_pending(connection, batch, "cancelled")
            _set_status(connection, batch, status)

        await self.database.write(work)

    async def expire_rows(self, batch: Batch) -> None:
        """Its time is over: rows that have not begun have expired."""
        await self.database.write(lambda connection: _end_pending(connection, batch, "expired"))

    async def next_row(self, batch: Batch) -> Row | None:
        """The next row to run, marked as running; None: all have begun."""

        def work(connection: sqlite3.Connection) -> Row | None:
            row = connection.execute(
                "SELECT place, custom_id, body, state FROM batch_rows WHERE batch = ? AND state = 'pending' "
                "AND EXISTS (SELECT 1 FROM batches WHERE id = ? AND status = 'in_progress') ORDER BY place LIMIT 1",
                (batch.id, batch.id),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE batch_rows SET state = 'running' WHERE batch = ? AND place = ?", (batch.id, row[0])
            )
            return Row(*row)

        return await self.database.write(work)

    async def finish_row(self, batch: Batch, row: Row) -> None:
        """Store the result of a row."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE batch_rows SET state = ?, http_status = ?, request_id = ?, result = ?, prompt_tokens = ?, "
                "cached_tokens = ?, completion_tokens = ?, reasoning_tokens = ? WHERE batch = ? AND place = ?",
                (row.state, row.http_status, row.request_id, row.result, *row.usage, batch.id, row.place),
            )

        await self.database.write(work)

    async def end(self, batch: Batch, status: Status, files: list[StoredFile]) -> None:
        """The last row has ended: store the batch with its result files."""

        def work(connection: sqlite3.Connection) -> None:
            for file in files:
                insert_file(connection, batch.owner, file, None)
            connection.execute("UPDATE batches SET instance = NULL WHERE id = ?", (batch.id,))
            _set_status(connection, batch, status)

        await self.database.write(work)

    async def input_of(self, batch: Batch) -> StoredFile | None:
        """Its input file; None: it was deleted."""
        file_id = batch.details.input_file or ""
        return await self.database.read(lambda connection: find_file(connection, batch.owner, file_id))

    def _expire(self, connection: sqlite3.Connection) -> None:
        ended = ", ".join(repr(status) for status in _ENDED)
        old = connection.execute(
            f"SELECT owner, id FROM batches WHERE status IN ({ended}) AND created < ?", (time.time() - self._age,)
        ).fetchall()
        for owner, batch_id in old:
            connection.execute("DELETE FROM batches WHERE owner = ? AND id = ?", (owner, batch_id))
            connection.execute("DELETE FROM batch_rows WHERE batch = ?", (batch_id,))


def _insert_rows(connection: sqlite3.Connection, batch_id: str, rows: Iterable[tuple[str, bytes]]) -> None:
    connection.executemany(
        "INSERT INTO batch_rows (batch, place, custom_id, body, state) VALUES (?, ?, ?, ?, 'pending')",
        ((batch_id, place, custom_id, body) for place, (custom_id, body) in enumerate(rows)),
    )


def _batches(connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> Iterator[Batch]:
    rows = connection.execute(
        f"SELECT owner, id, api, endpoint, status, created, expires, details FROM batches WHERE {where}", values
    ).fetchall()
    for owner, batch_id, api, endpoint, status, created, expires, raw in rows:
        details = msgspec.json.decode(raw, type=Details)
        batch = Batch(owner, batch_id, api, endpoint, status, created, expires, details)
        counted = connection.execute(
            "SELECT state, COUNT(*), SUM(prompt_tokens), SUM(cached_tokens), SUM(completion_tokens), "
            "SUM(reasoning_tokens) FROM batch_rows WHERE batch = ? GROUP BY state",
            (batch.id,),
        ).fetchall()
        batch.counts = {state: number for state, number, *_ in counted}
        tokens = [sum(column) for column in zip(*(row[2:] for row in counted), strict=True)] or [0] * 4
        batch.usage = (tokens[0], tokens[1], tokens[2], tokens[3])
        yield batch


def _set_status(connection: sqlite3.Connection, batch: Batch, status: Status) -> None:
    batch.status = status
    batch.details.times.setdefault(status, time.time())
    connection.execute(
        "UPDATE batches SET status = ?, details = ? WHERE owner = ? AND id = ?",
        (status, msgspec.json.encode(batch.details), batch.owner, batch.id),
    )


def _end_pending(connection: sqlite3.Connection, batch: Batch, state: RowState) -> None:
    connection.execute("UPDATE batch_rows SET state = ? WHERE batch = ? AND state = 'pending'", (state, batch.id))


def _release(connection: sqlite3.Connection, instance: str) -> None:
    connection.execute(
        "UPDATE batch_rows SET state = 'pending' WHERE state = 'running' "
        "AND batch IN (SELECT id FROM batches WHERE instance = ?)",
        (instance,),
    )
    connection.execute("UPDATE batches SET instance = NULL WHERE instance = ?", (instance,))


def _release_orphans(connection: sqlite3.Connection, instance: Instance) -> None:
    """Batches whose process died are anyone's."""
    rows = connection.execute("SELECT DISTINCT instance FROM batches WHERE instance IS NOT NULL").fetchall()
    for (other,) in rows:
        if not instance.lives(other):
            _release(connection, other)
