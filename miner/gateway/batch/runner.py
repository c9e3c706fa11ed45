"""BatchRunner: runs the rows of all batches, a few at once, behind interactive requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress

import msgspec

from miner.gateway.batch.input_file import InvalidLine, rows_of
from miner.gateway.batch.internal_request import InternalResponse, send_internally
from miner.gateway.batch.places import NoPlaceError, Places, rows_at_once
from miner.gateway.batch.results import result_files
from miner.gateway.context import Caller, Route
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.rate_limit import PRIORITY_HEADER
from miner.gateway.state import Gateway
from miner.gateway.store.batches import Batch, BatchStore, Row
from miner.gateway.store.files import FileStore
from miner.gateway.unsupported import HEADER

logger = logging.getLogger("miner.gateway")

_POLL_SECONDS = 15.0
"""How often it looks for batches that have expired, that other processes stored, or whose process has died."""
_TRANSIENT = (429, 503)
"""Statuses after which a row is sent again until its batch expires: limits, full queues, an engine that starts."""
_UNSURE = (500, 502, 504)
"""Statuses after which it is sent again a few times."""
_ATTEMPTS = 3
_MAX_PAUSE = 60.0
_MAX_LIMITED_PAUSE = 4.0
"""After a 429, unless its `Retry-After` is longer: rows that wait for one another would wait the longer the more there
are."""


class BatchRunner:
    """Runs batches while the server runs. A row is in the database as running, and is run again if this process dies.

    Rows pass the middleware of the application, but for those that check who sends.

    Args:
        routes: by path, those that rows may call.
        caller_of: the caller whose data is stored under a partition; None: its key was revoked.
    """

    def __init__(
        self, gateway: Gateway, store: BatchStore, files: FileStore, middleware: Sequence[Middleware],
        routes: Mapping[str, Route], caller_of: Callable[[str], Caller | None],
    ) -> None:  # fmt: skip
        self.store = store
        self.files = files
        self._gateway = gateway
        self._middleware = middleware
        self._routes = routes
        self._caller_of = caller_of
        self._ready: list[Batch] = []
        """Batches that have rows to begin, as of the last look."""
        self._stale = True
        """Whether the database has to be looked at."""
        self._ended: set[str] = set()
        """Batches of which rows have ended since the last look."""
        self._changed = asyncio.Event()
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        """The tasks of rows, by batch id and place."""
        self._waiting: dict[tuple[str, int], str] = {}
        """Those that wait for a place at their backend, with their batch: no more rows of that one are begun."""
        self._places = Places(gateway)
        self._owners: dict[str, int] = {}
        """Rows that run, by owner."""

    def wake(self) -> None:
        """Look for work now: a batch was created, or cancelled."""
        self._stale = True
        self._changed.set()

    async def cancel(self, batch: Batch) -> None:
        """Cancel a batch: rows that run are stopped, those that wait are not run."""
        await self.store.set_status(batch, "cancelling")
        self._stop_rows(batch)
        self.wake()

    def _stop_rows(self, batch: Batch) -> None:
        for (batch_id, _), task in list(self._running.items()):
            if batch_id == batch.id:
                task.cancel()

    async def run(self) -> None:
        """Run batches, forever."""
        if not await asyncio.to_thread(self.store.database.path.exists):
            await self._changed.wait()
        try:
            while True:
                self._changed.clear()
                await self._begin_rows()
                try:
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    self._stale = True
                    await self.store.database.recover()
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.store.database.is_open:
                await self.store.release()

    async def _begin_rows(self) -> None:
        """Begin as many rows as may run."""
        if self._stale:
            self._stale = False
            self._ended.clear()
            batches = await self.store.claim()
            for batch in batches:
                await self._advance(batch)
            self._ready = [batch for batch in batches if batch.status == "in_progress" and batch.counts.get("pending")]
            # What ended meanwhile is not in what was read: it may have been the last row of its batch.
            self._stale |= not self._ended <= {batch.id for batch in self._ready}
        while len(self._running) - len(self._waiting) < self._concurrency and self._gateway.phase != "draining":
            ready = [batch for batch in self._ready if batch.id not in self._waiting.values()]
            if not ready:
                return
            batch = min(ready, key=lambda each: self._owners.get(each.owner, 0))  # the oldest batch of equals
            row = await self.store.next_row(batch)
            if row is None:
                self._ready.remove(batch)
                if not any(batch_id == batch.id for batch_id, _ in self._running):
                    self.wake()  # its last row has ended
            else:
                self._begin(batch, row)

    @property
    def _concurrency(self) -> int:
        """Rows at once, besides those that wait for a place at their own backend."""
        setting = self._gateway.settings.serve_batch_concurrency
        return setting or rows_at_once(self._gateway.service.known_concurrency)

    def _begin(self, batch: Batch, row: Row) -> None:
        key = batch.id, row.place
        self._owners[batch.owner] = self._owners.get(batch.owner, 0) + 1
        task = asyncio.create_task(self._run_row(batch, row), name=f"row {row.place} of {batch.id}")
        self._running[key] = task

        def ended(_: asyncio.Task[None]) -> None:
            del self._running[key]
            self._ended.add(batch.id)
            self._owners[batch.owner] -= 1
            if not self._owners[batch.owner]:
                del self._owners[batch.owner]
            if not any(each.id == batch.id for each in self._ready):
                self._stale = True  # this may have been its last row
            self._changed.set()

        task.add_done_callback(ended)

    async def _advance(self, batch: Batch) -> None:
        """Bring a batch to its next status, if it is time."""
        if batch.status == "validating":
            await self._validate(batch)
            return
        if batch.expires <= time.time() and batch.counts.get("pending"):
            await self.store.expire_rows(batch)
            batch.counts["expired"] = batch.counts.pop("pending") + batch.counts.get("expired", 0)
        if batch.status == "cancelling":
            self._stop_rows(batch)
        if not batch.counts.get("pending") and not batch.counts.get("running"):
            last = "cancelled" if batch.status == "cancelling" else "expired" if batch.counts.get("expired") else None
            files = await result_files(self.store, batch, self.files.age)
            if last is None:
                await self.store.set_status(batch, "finalizing")
            await self.store.end(batch, last or "completed", files)  # type: ignore[arg-type]
            logger.info("Batch %s: %s, %s.", batch.id, batch.status, _summary(batch))

    async def _validate(self, batch: Batch) -> None:
        content = await self.files.content(batch.owner, batch.details.input_file or "")
        try:
            if content is None:
                raise InvalidLine("invalid_file", "The input file was deleted.", None, None)
            rows = await asyncio.to_thread(rows_of, content, batch.endpoint)
            await self.store.start(batch, rows)
        except InvalidLine as error:
            batch.details.errors = error.errors
            await self.store.end(batch, "failed", [])
            return
        except RefusedError as error:
            batch.details.errors = [{"code": error.refusal, "message": str(error), "param": None, "line": None}]
            await self.store.end(batch, "failed", [])
            return
        batch.counts = {"pending": len(rows)}

    async def _run_row(self, batch: Batch, row: Row) -> None:
        def waits(begin: bool) -> None:
            if begin:
                self._waiting[batch.id, row.place] = batch.id
            else:
                del self._waiting[batch.id, row.place]
            self._changed.set()

        response: InternalResponse | None = None
        try:
            with suppress(NoPlaceError):  # its batch has expired
                async with self._turn(batch, row, waits):
                    response = await self._respond(batch, row)
        except asyncio.CancelledError:
            found = await self.store.find(batch.owner, batch.id)
            if found is not None and found.status == "cancelling":
                row.state = "cancelled"
                await self.store.finish_row(batch, row)
            raise  # else the server stops: `release` makes it pending again
        if response is None:
            row.state = "expired"
        else:
            row.state = "succeeded" if response.status == 200 else "errored"
            row.http_status, row.request_id, row.result = response.status, response.request_id, response.body
            usage = response.usage
            if usage is not None:
                row.usage = (
                    usage.prompt_tokens, usage.cached_tokens or 0, usage.completion_tokens, usage.reasoning_tokens or 0
                )  # fmt: skip
        await self.store.finish_row(batch, row)

    def _turn(self, batch: Batch, row: Row, waits: Callable[[bool], None]) -> AbstractAsyncContextManager[None]:
        if self._gateway.settings.serve_batch_concurrency is not None:
            return nullcontext()  # the operator says how many
        return self._places.take(row.body, batch.owner, batch.expires, waits)

    async def _respond(self, batch: Batch, row: Row) -> InternalResponse | None:
        """The response to a row; None if its batch expired before there was one."""
        headers = {PRIORITY_HEADER: "batch"}
        if batch.details.unsupported is not None:
            headers[HEADER] = batch.details.unsupported
        attempts, pause = 0, 1.0
        while True:
            caller = self._caller_of(batch.owner)
            if caller is None:
                return _revoked()
            response = await send_internally(
                self._gateway, self._middleware, self._routes[batch.endpoint], row.body, caller=caller,
                peer=batch.details.peer, headers=headers,
            )  # fmt: skip
            attempts += 1
            again = response.status in _TRANSIENT or (response.status in _UNSURE and attempts < _ATTEMPTS)
            if not again:
                return response
            pause = min(_MAX_LIMITED_PAUSE if response.status == 429 else _MAX_PAUSE, 2 * pause)
            wait = max(pause / 2, min(response.retry_after or 0.0, _MAX_PAUSE))
            if time.time() + wait > batch.expires:
                return None if response.status in _TRANSIENT else response
            await asyncio.sleep(wait)


def _revoked() -> InternalResponse:
    error = {"message": "The API key of this batch was revoked.", "type": "authentication_error", "code": "revoked"}
    return InternalResponse(401, msgspec.json.encode({"error": error}), "", None)


def _summary(batch: Batch) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(batch.counts.items()))
