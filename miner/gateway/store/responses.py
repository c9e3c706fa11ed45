"""ResponseStore: what `/v1/responses` keeps, each client's own, bounded in number, age and size."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from miner.errors import InvalidRequestError
from miner.gateway.errors import RefusedError
from miner.gateway.store.database import Database
from miner.gateway.store.instance import Instance

_TABLES = (
    """CREATE TABLE IF NOT EXISTS responses (
        owner TEXT NOT NULL, id TEXT NOT NULL, previous TEXT, status TEXT NOT NULL, background INTEGER NOT NULL,
        instance TEXT, used_at REAL NOT NULL, response BLOB NOT NULL, input BLOB NOT NULL, events BLOB,
        bytes INTEGER NOT NULL, PRIMARY KEY (owner, id)
    )""",
    "CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used_at)",
    "CREATE INDEX IF NOT EXISTS responses_by_owner ON responses (owner, used_at)",
    "CREATE TABLE IF NOT EXISTS response_sizes (owner TEXT PRIMARY KEY, number INTEGER, bytes INTEGER)",
    """CREATE TRIGGER IF NOT EXISTS response_added AFTER INSERT ON responses BEGIN
        INSERT INTO response_sizes VALUES (new.owner, 1, new.bytes)
        ON CONFLICT (owner) DO UPDATE SET number = number + 1, bytes = bytes + new.bytes; END""",
    """CREATE TRIGGER IF NOT EXISTS response_deleted AFTER DELETE ON responses BEGIN
        UPDATE response_sizes SET number = number - 1, bytes = bytes - old.bytes WHERE owner = old.owner;
        DELETE FROM response_sizes WHERE owner = old.owner AND number <= 0; END""",
    """CREATE TRIGGER IF NOT EXISTS response_updated AFTER UPDATE OF bytes ON responses BEGIN
        UPDATE response_sizes SET bytes = bytes + new.bytes - old.bytes WHERE owner = new.owner; END""",
)
_COLUMNS = "id, previous, status, background, instance, response, input, events"
_UNFINISHED = ("queued", "in_progress")
_EXPIRED = "DELETE FROM responses WHERE used_at < ? AND instance IS NULL"
_LONGEST_CHAIN = 10_000
_EXPIRY_SECONDS = 3600.0


@dataclass(slots=True)
class StoredResponse:
    """One response, with what is new in its input."""

    id: str
    previous: str | None
    status: str
    background: bool
    response: bytes
    """The response object as JSON."""
    input: bytes
    """The items of its own input as a JSON array, each with an id."""
    instance: str | None = None
    """The process that generates it; None once it has ended."""
    events: bytes | None = None
    """The events of its stream, compressed, where they can be read later."""

    def object(self) -> dict[str, Any]:
        """The response object."""
        return msgspec.json.decode(self.response)  # type: ignore[no-any-return]

    def input_items(self) -> list[dict[str, Any]]:
        """The items of its own input."""
        return msgspec.json.decode(self.input)  # type: ignore[no-any-return]

    def fail(self, message: str) -> None:
        """Its generation ended, and nothing is left of it."""
        response = self.object()
        response["status"] = self.status = "failed"
        response["error"] = {"code": "server_error", "message": message}
        self.response, self.instance = msgspec.json.encode(response), None

    @property
    def finished(self) -> bool:
        """Whether it will not change any more."""
        return self.status not in _UNFINISHED


class ResponseStore:
    """Responses by owner and id. An owner never finds what another one stored, whatever id it names.

    What was not used for longest goes first when there are too many or they are too large, and of the owner that takes
    the most room: nobody can push out what others stored.

    Args:
        database: shared with other stores.
        number: responses at most.
        size: bytes at most, of all together.
        age: seconds for which one that is not used is kept.
    """

    def __init__(self, database: Database, *, number: int, size: int, age: float) -> None:
        self._database = database
        self._number = number
        self._size = size
        self._age = age
        database.add_tables(*_TABLES, recover=_fail_orphans)

    async def instance(self) -> str:
        """The id of this process, for `StoredResponse.instance`."""
        return await self._database.instance()

    async def save(self, owner: str, stored: StoredResponse) -> None:
        """Insert it, or replace what has its id.

        Raises:
            StorageError: the database cannot be used.
        """
        size = len(stored.response) + len(stored.input) + len(stored.events or b"")
        values = (
            stored.previous, stored.status, stored.background, stored.instance, time.time(), stored.response,
            stored.input, stored.events, size, owner, stored.id,
        )  # fmt: skip

        def work(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE responses SET previous = ?, status = ?, background = ?, instance = ?, used_at = ?, "
                "response = ?, input = ?, events = ?, bytes = ? WHERE owner = ? AND id = ?",
                values,
            )
            if not changed.rowcount:
                connection.execute(
                    "INSERT INTO responses (previous, status, background, instance, used_at, response, input, events, "
                    "bytes, owner, id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
            self._make_room(connection)

        await self._database.write(work)

    async def update(self, owner: str, response_id: str, change: Callable[[StoredResponse], StoredResponse]) -> bool:
        """Change one that is still there and unfinished; return whether there was one.

        Raises:
            StorageError: the database cannot be used.
        """

        def work(connection: sqlite3.Connection) -> bool:
            found = _find(connection, owner, response_id)
            if found is None or found.finished:
                return False
            new = change(found)
            size = len(new.response) + len(new.input) + len(new.events or b"")
            connection.execute(
                "UPDATE responses SET status = ?, instance = ?, used_at = ?, response = ?, events = ?, bytes = ? "
                "WHERE owner = ? AND id = ?",
                (new.status, new.instance, time.time(), new.response, new.events, size, owner, response_id),
            )
            self._make_room(connection)
            return True

        return await self._database.write(work)

    async def find(self, owner: str, response_id: str) -> StoredResponse | None:
        """The response; None: there is none, it is another owner's, or too old.

        Raises:
            StorageError: the database cannot be used.
        """
        oldest = time.time() - self._age
        return await self._database.read(lambda connection: _find(connection, owner, response_id, oldest))

    async def chain(self, owner: str, response_id: str, most: int) -> list[StoredResponse]:
        """The response and those before it, the first one first. They count as used.

        Args:
            most: bytes of all together at most.

        Raises:
            StorageError: the database cannot be used.
            RefusedError: 400, one of them is not there.
            InvalidRequestError: they are too large.
        """
        oldest = time.time() - self._age

        def work(connection: sqlite3.Connection) -> list[StoredResponse]:
            found: list[StoredResponse] = []
            name: str | None = response_id
            size = 0
            while name is not None:
                one = _find(connection, owner, name, oldest)
                if one is None:
                    raise _not_found(response_id, name)
                found.append(one)
                size += len(one.response) + len(one.input)
                if size > most or len(found) > _LONGEST_CHAIN:
                    raise InvalidRequestError(
                        f"The conversation of previous_response_id {response_id!r} is too large: the limit is {most} "
                        f"bytes.", param="previous_response_id", hint="Begin a new one.",
                    )  # fmt: skip
                name = one.previous
            now = time.time()
            connection.executemany(
                "UPDATE responses SET used_at = ? WHERE owner = ? AND id = ?", [(now, owner, one.id) for one in found]
            )
            return found[::-1]

        return await self._database.write(work)

    async def delete(self, owner: str, response_id: str) -> StoredResponse | None:
        """Delete it and return it; None: there is none.

        Raises:
            StorageError: the database cannot be used.
        """

        def work(connection: sqlite3.Connection) -> StoredResponse | None:
            found = _find(connection, owner, response_id)
            connection.execute("DELETE FROM responses WHERE owner = ? AND id = ?", (owner, response_id))
            return found

        return await self._database.write(work)

    async def expire_regularly(self) -> None:
        """Delete what is too old, every hour, forever; nothing while the database has not been used."""
        while True:
            await asyncio.sleep(_EXPIRY_SECONDS)
            if self._database.is_open:
                await self._database.write(self._make_room)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        deleted = connection.execute(_EXPIRED, (time.time() - self._age,)).rowcount
        while True:
            number, size = connection.execute("SELECT sum(number), sum(bytes) FROM response_sizes").fetchone()
            if (number or 0) <= self._number and (size or 0) <= self._size:
                break
            order = "bytes" if (size or 0) > self._size else "number"
            (owner,) = connection.execute(f"SELECT owner FROM response_sizes ORDER BY {order} DESC LIMIT 1").fetchone()
            gone = connection.execute(
                "DELETE FROM responses WHERE rowid IN (SELECT rowid FROM responses "
                "WHERE owner = ? AND instance IS NULL ORDER BY used_at LIMIT 1)",
                (owner,),
            ).rowcount
            if not gone:
                break  # all of them are being generated
            deleted += gone
        if deleted:
            connection.execute("PRAGMA incremental_vacuum(256)").fetchall()


def _find(connection: sqlite3.Connection, owner: str, response_id: str, oldest: float = 0.0) -> StoredResponse | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM responses WHERE owner = ? AND id = ? AND used_at >= ?", (owner, response_id, oldest)
    ).fetchone()
    return None if row is None else _stored(row)


def _stored(row: Sequence[Any]) -> StoredResponse:
    name, previous, status, background, instance, response, items, events = row
    return StoredResponse(name, previous, status, bool(background), response, items, instance, events)


def _not_found(asked: str, missing: str) -> RefusedError:
    if asked == missing:
        message = f"Previous response with id {asked!r} not found."
    else:
        message = f"Previous response with id {asked!r} continues {missing!r}, which was deleted or has expired."
    return RefusedError(
        400, "previous_response_not_found", message, param="previous_response_id",
        hint="Send the conversation as input instead.",
    )  # fmt: skip


def _fail_orphans(connection: sqlite3.Connection, instance: Instance) -> None:
    """Responses whose process died have failed."""
    rows = connection.execute(f"SELECT owner, {_COLUMNS} FROM responses WHERE instance IS NOT NULL").fetchall()
    lives: dict[str, bool] = {}
    for owner, *row in rows:
        stored = _stored(row)
        assert stored.instance is not None
        if stored.instance not in lives:
            lives[stored.instance] = instance.lives(stored.instance)
        if not lives[stored.instance]:
            stored.fail("The server stopped before this response was complete.")
            connection.execute(
                "UPDATE responses SET status = ?, instance = NULL, response = ? WHERE owner = ? AND id = ?",
                (stored.status, stored.response, owner, stored.id),
            )
