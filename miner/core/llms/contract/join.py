"""Joins chunks to a response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from miner.core.wire import LLMChunk, LLMResponse, TokenLogprob, ToolCall
from miner.errors import BackendError


async def drain(
    batches: AsyncGenerator[list[LLMChunk], None],
    arrived: list[list[LLMChunk]] | None = None,
    on_batch: Callable[[list[LLMChunk]], None] | None = None,
) -> LLMResponse:
    """Read a stream to its end and return the response.

    Args:
        arrived: gets the batches as they come.
        on_batch: called for each.

    Raises:
        BackendError: the stream's, with what had arrived as its `partial`.
    """
    loop = asyncio.get_running_loop()
    began, first = loop.time(), None
    arrived = [] if arrived is None else arrived
    try:
        async with aclosing(batches):
            async for batch in batches:
                if first is None and batch and batch[0].progress is None:
                    first = loop.time() - began
                arrived.append(batch)
                if on_batch is not None:
                    on_batch(batch)
    except BackendError as error:
        if error.partial is None and first is not None:
            error.partial = join(arrived)
        raise
    response = join(arrived)
    response.timings.time_to_first_token = first
    return response


def has_tokens(batch: Iterable[LLMChunk]) -> bool:
    """Whether a batch holds any generated text, reasoning or tool call."""
    return any(chunk.content or chunk.reasoning or chunk.tool_calls for chunk in batch)


def join(batches: Iterable[Iterable[LLMChunk]], response: LLMResponse | None = None) -> LLMResponse:
    """Return the response of all these chunks, in order; filled into `response` if one is passed."""
    response = LLMResponse() if response is None else response
    content: list[str] = []
    reasoning: list[str] = []
    deltas: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    for batch in batches:
        for chunk in batch:
            if chunk.content:
                content.append(chunk.content)
            if chunk.reasoning:
                reasoning.append(chunk.reasoning)
            if chunk.tool_calls:
                deltas += chunk.tool_calls
            if chunk.logprobs:
                logprobs += chunk.logprobs
            if chunk.finish_reason is not None:
                response.finish_reason = chunk.finish_reason
            if chunk.stop_sequence is not None:
                response.stop_sequence = chunk.stop_sequence
            if chunk.usage is not None:
                response.usage = chunk.usage
            if chunk.timings is not None:
                response.timings = chunk.timings
            if chunk.context_exhausted:
                response.context_exhausted = True
            if chunk.context is not None:
                response.context = chunk.context
    response.content = "".join(content)
    response.reasoning = "".join(reasoning) or None
    response.tool_calls = merge_tool_deltas(deltas) or None
    response.logprobs = logprobs or None
    return response


def merge_tool_deltas(deltas: Iterable[ToolCall]) -> list[ToolCall]:
    """Return the complete calls, ordered by index."""
    calls: dict[int, dict[str, Any]] = {}
    pieces: dict[int, list[str]] = {}
    for delta in deltas:
        index = delta.get("index", 0)
        call = calls.setdefault(index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        if delta.get("id"):
            call["id"] = delta["id"]
        function = delta.get("function") or {}
        if function.get("name"):
            call["function"]["name"] = function["name"]
        if function.get("arguments"):
            pieces.setdefault(index, []).append(function["arguments"])
    for index, parts in pieces.items():
        calls[index]["function"]["arguments"] = "".join(parts)
    return [calls[index] for index in sorted(calls)]
