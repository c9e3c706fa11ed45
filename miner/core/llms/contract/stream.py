"""LLMStream: a streamed response; leaving it early stops the engine."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import AsyncGeneratorType, TracebackType
from typing import Any, cast

from miner.core._typing import override
from miner.core.http.in_flight import InFlight
from miner.core.llms.contract.join import join
from miner.core.wire import LLMChunk, LLMResponse

Batches = AsyncGenerator[list[LLMChunk], None]
"""A stream in batches: the chunks that arrived in one read, together."""


class LLMStream(AsyncIterator[LLMChunk]):
    """The chunks of one response.

    ::

        async for chunk in service.stream("Why is the sky blue?"):
            print(chunk.content or "", end="")

    The request is sent when the first chunk is awaited. Leaving the loop early (break, an exception, a cancelled task)
    stops the engine; so do `aclose` and the end of an `async with` block. A stream can be read once.
    """

    def __init__(self, start: Callable[[], Batches], response: LLMResponse, in_flight: InFlight | None = None) -> None:
        """
        Args:
            start: returns the batches; called when the first is awaited.
            in_flight: the service's calls: closing the service closes the stream.
        """
        self._start = start
        self._response = response
        self._began = False
        self._closed = False
        self._quiet = False
        """Whether the reading task closed it: that one gets no "cancelled" chunk."""
        self._call = (in_flight or InFlight(lambda: RuntimeError("The stream was closed."))).call()
        self._ended = asyncio.Event()
        """Whether the request has ended and the engine's slot is free."""
        # A loop that is left drops its iterator, which asyncio then closes: so only the loop may hold it.
        self._running: weakref.ref[AsyncGeneratorType[Any, None]] | None = None
        self._own: AsyncGenerator[LLMChunk, None] | None = None

    @override
    def __aiter__(self) -> AsyncIterator[LLMChunk]:
        if self._own is not None:
            return self._own
        chunks = self._flattened(self.batches())
        self._running = weakref.ref(cast("AsyncGeneratorType[Any, None]", chunks))
        return chunks

    @override
    async def __anext__(self) -> LLMChunk:
        if self._own is None:
            self._own = self._flattened(self.batches())
            self._running = weakref.ref(cast("AsyncGeneratorType[Any, None]", self._own))
        return await anext(self._own)

    def batches(self) -> Batches:
        """Iterate over batches: lists of chunks that arrived together."""
        if self._closed and not self._began:
            raise RuntimeError("The stream is closed.")
        if self._began:
            raise RuntimeError("A stream can be read once.")
        self._began = True
        source = self._start()
        self._call.watch(source)
        batches = self._watched(source)
        self._running = weakref.ref(cast("AsyncGeneratorType[Any, None]", batches))
        return batches

    @property
    def response(self) -> LLMResponse:
        """The response without the chunks: model, backend, ignored parameters, parsed output."""
        return self._response

    async def collect(self) -> LLMResponse:
        """Read to the end and return the response."""
        arrived: list[list[LLMChunk]] = []
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                arrived.append(batch)  # noqa: PERF401  (a comprehension would lose what had arrived before an error)
        return join(arrived, self._response)

    async def aclose(self) -> None:
        """Stop the engine and release the connection. Idempotent. Another task that reads the stream (a loop, `anext`,
        `batches`, `collect`) gets a last chunk with the finish_reason "cancelled", unless the response had ended.
        """
        closed, self._closed = self._closed, True
        if not self._began or self._ended.is_set():
            return
        call, here = self._call, asyncio.current_task()
        if call.task is None and call.reader is here and not closed:
            self._quiet = True
            running = self._running() if self._running is not None else None
            call.stop()
            if running is None:
                await call.end()
            elif running.ag_running:  # it was dropped, and asyncio closes it
                await self._ended.wait()
            else:
                await running.aclose()
            return
        waits = call.task is not None and call.task is not here
        await call.end()
        if waits:
            await self._ended.wait()

    async def __aenter__(self) -> LLMStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _watched(self, source: Batches) -> Batches:
        """The batches of the source until it ends or the call is stopped."""
        call = self._call
        complete = False
        try:
            if call.enter():
                async for batch in source:
                    call.leave()
                    yield batch
                    if not call.enter():
                        break
                else:
                    complete = True
        except asyncio.CancelledError:
            if not call.leave():
                raise
        finally:
            call.leave()
            if not call.finish():
                await source.aclose()
            self._ended.set()
        if complete or not call.stopped:
            return
        if not self._closed:
            raise self._call.closed()
        if not self._quiet:
            yield [LLMChunk(finish_reason="cancelled")]

    async def _flattened(self, batches: Batches) -> AsyncGenerator[LLMChunk, None]:
        call = self._call
        async with aclosing(batches):
            async for batch in batches:
                for chunk in batch:
                    yield chunk
                    if call.stopped:
                        break
