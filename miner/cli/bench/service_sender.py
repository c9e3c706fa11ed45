"""Sends requests to a backend in this process, through its public stream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from time import perf_counter
from typing import Any

from miner.cli.bench.measure import Measurement
from miner.cli.bench.sender import BenchRequest, Sampling
from miner.core.llms import LLMService
from miner.core.wire import LLMChunk
from miner.errors import MinerError


class ServiceSender:
    """Sends to one service.

    Args:
        on_tokens: called with the number of chunks with tokens that arrived together.
    """

    def __init__(
        self, service: LLMService, model: str | None, endpoint: str, sampling: Sampling,
        on_tokens: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._service = service
        self._model = model
        self._endpoint = endpoint
        self._sampling = sampling
        self._on_tokens = on_tokens

    async def send(self, request: BenchRequest, seen: Measurement) -> None:
        """Send one request and read its response: see `Sender`."""
        seen.begin()
        try:
            if self._endpoint == "embeddings":
                await self._embed(request, seen)
            else:
                await self._stream(request, seen)
        except MinerError as error:
            seen.failed(error)

    async def _stream(self, request: BenchRequest, seen: Measurement) -> None:
        options: dict[str, Any] = {"temperature": self._sampling.temperature}
        extra = {**({"ignore_eos": True} if self._sampling.ignore_eos else {}), **self._sampling.extra}
        if extra:
            options["extra"] = extra
        if request.messages is not None:
            options["messages"] = request.messages
            if request.tools is not None:
                options |= {"tools": request.tools, "tool_choice": "none"}
        else:
            options |= {"prompt": request.text, "raw": True}
        stream = self._service.stream(model=self._model, max_tokens=request.max_tokens, **options)
        async with aclosing(stream.batches()) as batches:
            async for batch in batches:
                now, before = perf_counter(), seen.chunks
                finished = False
                for chunk in batch:
                    finished |= _note(chunk, now, request, seen)
                if seen.chunks != before:
                    self._on_tokens(seen.chunks - before)
                    if request.cancel_after is not None and seen.chunks >= request.cancel_after and not finished:
                        seen.cancelled, seen.done = True, now
                        return  # closing the stream stops the engine
        seen.finish(perf_counter())

    async def _embed(self, request: BenchRequest, seen: Measurement) -> None:
        response = await self._service.embed(request.text, self._model)
        now = perf_counter()
        if response.usage is not None:
            seen.prompt_tokens = response.usage.prompt_tokens
        seen.completion_tokens = 0
        seen.times.append(now)
        seen.finish(now)

    async def count(self, text: str) -> int:
        """The tokens of a text: see `Sender`."""
        return await self._service.count_tokens(text, model=self._model, raw=True)


def _note(chunk: LLMChunk, now: float, request: BenchRequest, seen: Measurement) -> bool:
    """Note what a chunk has; return whether it ends the response."""
    tokens = bool(chunk.content or chunk.reasoning or chunk.tool_calls)
    if tokens or chunk.finish_reason is not None:
        seen.chunk(now, tokens=tokens)
    if request.keep_text and chunk.content:
        seen.text.append(chunk.content)
    if chunk.usage is not None:
        seen.prompt_tokens = chunk.usage.prompt_tokens
        seen.completion_tokens = chunk.usage.completion_tokens
        seen.cached_tokens = chunk.usage.cached_tokens
    if chunk.timings is not None and chunk.timings.queue is not None:
        seen.queue = chunk.timings.queue
    return chunk.finish_reason is not None
