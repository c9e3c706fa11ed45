"""LLMStream: a reply as it comes, which stops the engine when it is left."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import AsyncGeneratorType, TracebackType
from typing import Any, cast

from miner.core._typing import override
from miner.core.llms.join import join
from miner.core.wire import LLMChunk, LLMResponse

__all__ = ["Batches", "LLMStream"]

Batches = AsyncGenerator[list[LLMChunk], None]
"""What arrived in one read, together."""


class LLMStream(AsyncIterator[LLMChunk]):
    """The chunks of one reply.

    ::

        async for chunk in service.stream("Why is the sky blue?"):
            print(chunk.content or "", end="")

    The request is sent when the first chunk is asked for. Leaving the loop early (break, an exception, a cancelled
    task) stops the engine; so do `aclose` and the end of an `async with` block. A stream is read once.
    """

    def __init__(self, start: Callable[[], Batches], response: LLMResponse) -> None:
        self._start = start
        self._response = response
        self._began = False
        self._closed = False
        # A loop that is left drops its iterator, and asyncio closes what is dropped. So only the loop may hold it.
        self._running: weakref.ref[AsyncGenerator[Any, None]] | None = None
        self._own: AsyncGenerator[LLMChunk, None] | None = None
        self._reader: asyncio.Task[Any] | None = None
        self._stopped = asyncio.Event()

    @override
    def __aiter__(self) -> AsyncIterator[LLMChunk]:
        if self._own is not None:
            return self._own
        chunks = self._flattened(self.batches())
        self._running = weakref.ref(chunks)
        return chunks

    @override
    async def __anext__(self) -> LLMChunk:
        if self._own is None:
            self._own = self._flattened(self.batches())
        return await anext(self._own)

    def batches(self) -> Batches:
        """The chunks in the lists in which they arrived: for who writes them on together."""
        if self._closed:
            raise RuntimeError("The stream is closed; ask the service for a new one.")
        if self._began:
            raise RuntimeError("A stream can be read once; ask the service for a new one.")
        self._began = True
        batches = self._start()
        self._running = weakref.ref(batches)
        return batches

    @property
    def response(self) -> LLMResponse:
        """What is known of the reply besides its pieces: model, backend, what was ignored, what was parsed."""
        return self._response

    async def collect(self) -> LLMResponse:
        """Read to the end and return the whole reply."""
        arrived: list[list[LLMChunk]] = []
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                arrived.append(batch)  # noqa: PERF401  (a comprehension would lose what had come when it breaks)
        return join(arrived, self._response)

    async def aclose(self) -> None:
        """Stop the engine and release the connection. Idempotent. The loop of another task that reads ends with a chunk
        whose finish_reason is "cancelled".
        """
        self._closed = True
        running = self._own
        if running is None and self._running is not None:
            running = self._running()
        self._own = None
        if running is None:
            return
        if not cast(AsyncGeneratorType[Any, None], running).ag_running:
            await running.aclose()
        elif self._reader is None:
            raise RuntimeError("Another task reads the batches of this stream: cancel that task.")
        else:
            self._reader.cancel()
            await self._stopped.wait()

    async def __aenter__(self) -> LLMStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _flattened(self, batches: Batches) -> AsyncGenerator[LLMChunk, None]:
        try:
            async with aclosing(batches):
                while True:
                    self._reader = asyncio.current_task()
                    try:
                        batch = await anext(batches)
                    except StopAsyncIteration:
                        return
                    for chunk in batch:
                        yield chunk
        except asyncio.CancelledError:
            # From `aclose` in another task: the loop here ends, its task goes on.
            if not self._closed or self._reader is None or self._reader.uncancel() > 0:
                raise
        finally:
            self._stopped.set()
        yield LLMChunk(finish_reason="cancelled")
