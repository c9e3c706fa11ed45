"""Database: one SQLite file in a thread of its own, opened at the first use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from miner.gateway.errors import RefusedError
from miner.gateway.store.instance import Instance

T = TypeVar("T")

logger = logging.getLogger("miner.gateway")

_VERSION = 1
_BUSY_SECONDS = 5.0
"""How long a write waits for one of another process."""
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PRAGMAS = (
    "PRAGMA auto_vacuum = INCREMENTAL",  # before the first table: the file shrinks when rows are deleted
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # a power cut may lose the last rows, and never the file
    "PRAGMA secure_delete = ON",  # what a client deletes is overwritten
    "PRAGMA journal_size_limit = 16777216",
    "PRAGMA foreign_keys = ON",
)


class StorageError(RefusedError):
    """The database cannot be used now: disk full, no permission, locked by another process."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(
            503, "storage_unavailable", "What this server stores is not available now.", retry_after=30,
            operator_hint=f"The database {path}: {reason}. MINER_SERVE_STORE_FILE moves it, MINER_SERVE_STORE=false "
            f"switches it off.",
        )  # fmt: skip


def default_path(setting: str | None) -> Path:
    """Where the file is: as set, or in the user's state directory."""
    if setting:
        return Path(setting).expanduser()
    directory = os.environ.get("XDG_STATE_HOME", "")
    base = Path(directory) if os.path.isabs(directory) else Path("~/.local/state").expanduser()
    return base / "miner" / "store.db"


class Database:
    """Several stores share it: each adds its tables before the first use. Several processes may use one file.

    A file that is no database, or is damaged, is moved aside (`store.db.corrupt-...`), logged, and a new one begun:
    requests go on. Whatever else fails is a StorageError for the request that needed the database, logged once until
    it works again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._schema: list[str] = []
        self._recover: list[Callable[[sqlite3.Connection, Instance], None]] = []
        self._connection: sqlite3.Connection | None = None
        self._instance: Instance | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._logged = ""
        """The failure that was logged last."""

    def add_tables(
        self, *statements: str, recover: Callable[[sqlite3.Connection, Instance], None] | None = None
    ) -> None:
        """Add the tables of a store.

        Args:
            statements: `CREATE ... IF NOT EXISTS`.
            recover: called when the database is opened, in a transaction: ends what a process that died left behind.
        """
        self._schema += statements
        if recover is not None:
            self._recover.append(recover)

    @property
    def is_open(self) -> bool:
        """Whether it has been used."""
        return self._connection is not None

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the database's thread.

        Raises:
            StorageError: the database cannot be used.
        """
        return await self._run(lambda connection, _: work(connection))

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction. A caller that is cancelled meanwhile does not undo it.

        Raises:
            StorageError: the database cannot be used; nothing has changed.
        """
        return await self._run(lambda connection, _: _in_transaction(connection, work))

    async def instance(self) -> str:
        """The id of this process among those that use the file; see Instance."""
        return await self._run(lambda _, instance: instance.id)

    async def recover(self) -> None:
        """End what processes that have died meanwhile left behind.

        Raises:
            StorageError: the database cannot be used.
        """

        def work(connection: sqlite3.Connection, instance: Instance) -> None:
            _in_transaction(connection, lambda _: [recover(connection, instance) for recover in self._recover])

        await self._run(work)

    async def close(self) -> None:
        """Close it. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close_all)
            thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection, Instance], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="miner store")
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._attempt, work)
        try:
            result = await asyncio.shield(done)
        except asyncio.CancelledError:
            done.add_done_callback(lambda future: future.cancelled() or future.exception())
            raise
        except (sqlite3.Error, OSError) as error:
            reason = str(error) or type(error).__name__
            if reason != self._logged:
                logger.error("The database %s cannot be used: %s.", self.path, reason)
            self._logged = reason
            raise StorageError(reason, self.path) from error
        self._logged = ""
        return result

    def _attempt(self, work: Callable[[sqlite3.Connection, Instance], T]) -> T:
        for last in (False, True):
            try:
                return work(*self._opened())
            except sqlite3.DatabaseError as error:
                if last or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _CORRUPT:
                    if not isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
                        self._close()  # opened again by the next request: its disk may be back
                    raise
                self._move_aside(str(error))
        raise AssertionError("unreachable")

    def _opened(self) -> tuple[sqlite3.Connection, Instance]:
        if self._instance is None or self._connection is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its two other files the mode of this one.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if self._instance is None:
                self._instance = Instance(self.path)  # stays when the file has to be opened again
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                self._prepare(connection, self._instance)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection, self._instance

    def _prepare(self, connection: sqlite3.Connection, instance: Instance) -> None:
        for pragma in _PRAGMAS:
            _when_unlocked(connection, pragma)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise sqlite3.OperationalError(f"it has version {version}, of a newer miner; this one reads {_VERSION}")

        def create(_: sqlite3.Connection) -> None:
            for statement in self._schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            for recover in self._recover:
                recover(connection, instance)

        _in_transaction(connection, create)

    def _move_aside(self, reason: str) -> None:
        self._close()
        kept = self.path.with_name(f"{self.path.name}.corrupt-{time.strftime('%Y%m%d%H%M%S')}")
        os.replace(self.path, kept)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}{suffix}")
        logger.error("The database %s is damaged (%s): kept as %s; a new one begins.", self.path, reason, kept.name)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _close_all(self) -> None:
        self._close()
        instance, self._instance = self._instance, None
        if instance is not None:
            instance.close()


def _when_unlocked(connection: sqlite3.Connection, statement: str) -> None:
    """Execute a statement for which SQLite itself does not wait: a change of the journal's mode."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def _in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise
    return result
