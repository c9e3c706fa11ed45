"""llama.cpp's `/completion` and `/infill`: bodies and events are the engine's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from miner.core.llms.contract.native import NativeBatch
from miner.core.wire import UNLIMITED, LLMChunk
from miner.errors import InvalidRequestError
from miner.gateway.apis.llamacpp.errors import error_event
from miner.gateway.apis.llamacpp.native import backend_of, model_of, object_of, own_errors
from miner.gateway.context import Handler, RequestContext
from miner.gateway.dialect import Call
from miner.gateway.errors import ErrorBoundary
from miner.gateway.generation import json_response
from miner.gateway.merge import merged
from miner.gateway.streaming import EventStream

MAX_CHOICES = 16
"""Responses of one request at most."""
_STREAM_TYPE = "text/event-stream"
_HEARTBEAT = b":\n\n"
_FIRST = b'{"index":0,'


def native_completion(path: str) -> Handler:
    """The handler of a route that generates.

    Args:
        path: the engine's.
    """

    async def handle(context: RequestContext) -> web.StreamResponse:
        body = await object_of(context)
        bodies, call = split(body)
        await context.start_call(call)
        backend = backend_of(context)
        with own_errors():
            streams = [backend.native_stream(path, each, call.model) for each in bodies]
            return await (_stream if call.stream else _whole)(context, streams)

    return handle


def split(body: dict[str, Any]) -> tuple[list[dict[str, Any]], Call]:
    """A body for each response, and the call: several prompts wait for as many slots, as any requests do.

    Raises:
        InvalidRequestError: too many responses, or none.
    """
    model, stream = model_of(body), body.get("stream") is True
    count = body.pop("n", None) or body.pop("n_cmpl", None) or 1
    prompts = _prompts(body.get("prompt"))
    if type(count) is not int or not 1 <= count * len(prompts) <= MAX_CHOICES:
        raise InvalidRequestError(
            f"prompt and n request {len(prompts)} times {count!r:.20} responses; 1 to {MAX_CHOICES} are possible.",
            param="n",
        )
    seed = body.get("seed")
    bodies = []
    for prompt in prompts:
        for number in range(count):
            each = {**body, "prompt": prompt} if "prompt" in body else dict(body)
            if number and type(seed) is int and seed >= 0:
                each["seed"] = seed + number
            bodies.append(each)
    limit = next((value for name in ("n_predict", "max_tokens") if type(value := body.get(name)) is int), UNLIMITED)
    arguments = [{"prompt": each.get("prompt"), "max_tokens": max(limit, UNLIMITED)} for each in bodies]
    return bodies, Call(arguments=arguments, model=model, stream=stream)


def _prompts(prompt: Any) -> list[Any]:
    """Each prompt: a string, an object with one, or a list of tokens, among which may be strings."""
    if not isinstance(prompt, list):
        return [prompt]
    if any(type(part) is int for part in prompt) or not prompt:
        return [prompt]
    return prompt


async def _whole(context: RequestContext, streams: list[AsyncGenerator[NativeBatch, None]]) -> web.Response:
    """All responses, in order: an object, or an array of several."""

    async def read(index: int, stream: AsyncGenerator[NativeBatch, None]) -> bytes:
        with ErrorBoundary():
            last = b""
            async with aclosing(stream) as batches:
                async for batch in batches:
                    _count(context, batch.chunk)
                    last = _with_index(batch.events[-1], index) if batch.events else last
            return last

    tasks = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        responses = [task.result() for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return json_response(context, responses[0] if len(responses) == 1 else b"[" + b",".join(responses) + b"]")


async def _stream(context: RequestContext, streams: list[AsyncGenerator[NativeBatch, None]]) -> web.StreamResponse:
    context.streamed = True
    out = EventStream(context, _STREAM_TYPE, _HEARTBEAT)

    async def write() -> bytes:
        async with aclosing(merged(streams)) as batches:
            async for index, batch in batches:
                _count(context, batch.chunk)
                if batch.events:
                    await out.send(b"".join([b"data: %b\n\n" % _with_index(event, index) for event in batch.events]))
        return b""

    return await out.run(write, error_event)


def _with_index(event: bytes, index: int) -> bytes:
    """The event with the index of its response: the engine had one request for each."""
    return b'{"index":%d,' % index + event[len(_FIRST) :] if index and event.startswith(_FIRST) else event


def _count(context: RequestContext, chunk: LLMChunk) -> None:
    context.record_chunks([chunk])
