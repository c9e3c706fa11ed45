"""LLMStream: a reply as it comes, which stops the engine when it is left."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import TracebackType

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
        self._running: weakref.ref[AsyncGenerator[LLMChunk, None]] | None = None
        self._own: AsyncGenerator[LLMChunk, None] | None = None

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
        if self._began:
            raise RuntimeError("A stream can be read once; ask the service for a new one.")
        self._began = True
        return self._start() if not self._closed else _nothing()

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
        """Stop the engine and release the connection. Idempotent."""
        self._closed = True
        self._began = True
        running = self._own
        if running is None and self._running is not None:
            running = self._running()
        self._own = None
        if running is not None:
            await running.aclose()

    async def __aenter__(self) -> LLMStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aclose()

    @staticmethod
    async def _flattened(batches: Batches) -> AsyncGenerator[LLMChunk, None]:
        async with aclosing(batches):
            async for batch in batches:
                for chunk in batch:
                    yield chunk


async def _nothing() -> Batches:
    """The batches of a stream that was closed before it was read."""
    none: list[list[LLMChunk]] = []
    for batch in none:
        yield batch
