"""Background responses: generated when nobody waits, polled, followed from any event on, and cancelled."""

from __future__ import annotations

import asyncio
import logging
import weakref
import zlib
from collections.abc import AsyncGenerator
from contextlib import suppress

import msgspec

from miner.core._typing import override
from miner.errors import MinerError
from miner.gateway.apis.openai.responses.dialect import OpenAIResponses
from miner.gateway.apis.openai.responses.response import ResponseOptions, response_object
from miner.gateway.apis.openai.responses.stream import ResponseStream
from miner.gateway.context import Interruptible, RequestContext
from miner.gateway.dialect import Call, Head
from miner.gateway.errors import ErrorBoundary, RefusedError, failure_of
from miner.gateway.generation import StreamedReply
from miner.gateway.middleware.errors import log_error
from miner.gateway.server.log_format import current_request
from miner.gateway.store.database import StorageError
from miner.gateway.store.responses import ResponseStore, StoredResponse

logger = logging.getLogger("miner.gateway")

_PAUSES = (0.5, 1.0, 2.0)
"""Seconds between attempts to store the end of a response."""
_SEPARATOR = b"\n\n"


class BackgroundRun:
    """One response that is generated in the background. It is stored when it is created, when its generation begins,
    and at its end; its events are kept in memory meanwhile.

    Args:
        context: detached from its request.
        call: of the response.
        store: where it is stored.
        items: its input, as it is stored.
    """

    def __init__(
        self, context: RequestContext, dialect: OpenAIResponses, call: Call, store: ResponseStore, items: bytes
    ) -> None:
        self._context = context
        self._call = call
        self._store = store
        self._items = items
        self._owner = context.caller.partition
        self._head = Head(call.id, call.model or context.rules.name or context.gateway.service.name)
        self._writer = dialect.stream(call, self._head)
        self._events: list[bytes] = []
        self._writer.recorded = self._events
        self._dialect = _Running(self._writer)
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    @property
    def id(self) -> str:
        """The id of the response."""
        return f"resp_{self._call.id}"

    async def start(self) -> bytes:
        """Store it as queued and begin; return the response object.

        Raises:
            StorageError: it cannot be stored, and was not begun.
        """
        response = msgspec.json.encode(response_object(self._call, self._head, "queued", []))
        await self._store.save(self._owner, self._stored("queued", response, await self._store.instance()))
        self._writer.queued()
        self._context.gateway.runs[self._owner, self.id] = self
        self._task = asyncio.create_task(self._run(), name=f"background response {self.id}")
        return response

    async def events(self, after: int) -> AsyncGenerator[bytes, None]:
        """The events behind this sequence number, as they come, until the last one."""
        place = after + 1
        while True:
            async with self._changed:
                while len(self._events) <= place and not self._done:
                    await self._changed.wait()
            if len(self._events) > place:
                events = self._events[place:]
                place += len(events)
                yield b"".join(events)
            elif self._done:
                return

    async def cancel(self) -> None:
        """Stop it: the engine's slot is free when this returns. Idempotent."""
        self._cancelled = True
        await self.stop()

    async def stop(self) -> None:
        """End it, as at the end of the server, and wait until that is stored."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
        if task is not None:
            await asyncio.wait({task})

    @property
    def _done(self) -> bool:
        return self._task is None or self._task.done() or self._call.options.final is not None

    async def _run(self) -> None:
        context = self._context
        current_request.set(weakref.ref(context))
        try:
            await self._end(await self._generate())
        finally:
            context.gateway.runs.pop((self._owner, self.id), None)
            context.finish()
            context.gateway.response_finished(context)
            async with self._changed:
                self._changed.notify_all()

    async def _generate(self) -> str:
        """Generate it and return its final status."""
        context, call = self._context, self._call
        try:
            with ErrorBoundary(), Interruptible(context):
                await context.start_call(call)
                context.streamed = True
                await self._begin()
                with call.names.translate_errors():
                    reply = StreamedReply(context, self._dialect, call)
                    await reply.prepare()
                    await reply.write(self._note)
        except asyncio.CancelledError:
            context.disconnected, context.status = True, 499
            if not self._cancelled:
                failure = failure_of(RefusedError(503, "shutting_down", "The server is shutting down."), context.id)
                self._writer.failed(failure)
                return "failed"
            self._writer.cancelled()
            return "cancelled"
        except MinerError as error:
            context.error, failure = error, failure_of(error, context.id)
            context.status = failure.status
            log_error(context, failure, error, "failed in the background")
            self._writer.failed(failure)
            return "failed"
        context.status = 200
        return str(call.options.final["status"])

    async def _begin(self) -> None:
        """It leaves the queue."""
        response = msgspec.json.encode(response_object(self._call, self._head, "in_progress", []))

        def change(stored: StoredResponse) -> StoredResponse:
            stored.status, stored.response = "in_progress", response
            return stored

        with suppress(StorageError):  # logged; its end is stored again
            await self._store.update(self._owner, self.id, change)
        self._writer.started()
        await self._note(b"")

    async def _note(self, _: bytes) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _end(self, status: str) -> None:
        options: ResponseOptions = self._call.options
        events = zlib.compress(b"".join(self._events))
        stored = self._stored(status, msgspec.json.encode(options.final), None)

        def change(found: StoredResponse) -> StoredResponse:
            found.status, found.response, found.instance, found.events = status, stored.response, None, events
            return found

        for pause in (*_PAUSES, None):
            try:
                await self._store.update(self._owner, self.id, change)
                return
            except StorageError:  # logged; whoever polls sees it as failed, if it never succeeds
                if pause is not None:
                    await asyncio.sleep(pause)

    def _stored(self, status: str, response: bytes, instance: str | None) -> StoredResponse:
        request = self._call.options.request
        return StoredResponse(
            self.id, request.previous_response_id, status, True, response, self._items, instance=instance
        )


class _Running(OpenAIResponses):
    """The dialect with a writer that has written its first events already."""

    def __init__(self, writer: ResponseStream) -> None:
        self._writer = writer

    @override
    def stream(self, call: Call, head: Head) -> ResponseStream:
        """The writer of its events, which now know the model."""
        self._writer.head.model = head.model
        return self._writer


def events_after(compressed: bytes, after: int) -> bytes:
    """The stored events of a response behind this sequence number."""
    events = zlib.decompress(compressed).split(_SEPARATOR)
    return b"".join(event + _SEPARATOR for event in events[after + 1 :] if event)
