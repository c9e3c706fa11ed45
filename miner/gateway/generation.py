"""Answering a generation: whole or streamed, in any dialect, over any service.

Whoever stops waiting (a client that hangs up) stops the service: the handler's task is cancelled, and what it awaits
with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from miner.core.llms.contract.stream import LLMStream
from miner.core.wire import LLMResponse
from miner.errors import OutputValidationError
from miner.gateway.apis.base import Call, Dialect, Head, StreamWriter
from miner.gateway.contained import Contained
from miner.gateway.context import RequestContext, new_id
from miner.gateway.field_names import LENIENT_HEADER
from miner.gateway.merge import merged, total_usage
from miner.gateway.request_body import off_loop, parse_body
from miner.gateway.routing import Handler
from miner.gateway.streamed import streamed
from miner.gateway.streaming import OpenStream

__all__ = ["generation", "json_response", "reply"]


def generation(dialect: Dialect) -> Handler:
    """The handler of a route that generates."""

    async def handle(context: RequestContext) -> web.StreamResponse:
        return await reply(context, dialect, await parse_body(context, dialect.parse))

    return handle


async def reply(context: RequestContext, dialect: Dialect, call: Call) -> web.StreamResponse:
    """Ask the service and answer."""
    context.ignored += call.ignored
    if context.request.headers.get(LENIENT_HEADER, "").strip().lower() == "ignore":
        for arguments in call.arguments:
            arguments.setdefault("unsupported", "ignore")
    await context.enter(call)
    with call.names.translate_errors():
        return await (_streamed if call.stream else _whole)(context, dialect, call)


def json_response(context: RequestContext, body: bytes, status: int = 200) -> web.Response:
    """An answer in one piece."""
    context.status = status
    return web.Response(status=status, body=body, headers=context.headers())


async def _whole(context: RequestContext, dialect: Dialect, call: Call) -> web.Response:
    if len(call.arguments) == 1:
        response = await _respond(context, call.arguments[0])
        context.usage = response.usage
        responses = [response]
    else:
        responses = await _respond_all(context, call)
        context.usage = total_usage(response.usage for response in responses)
    context.letters = sum(len(response.content) + len(response.reasoning or "") for response in responses)
    _note_ignored(context, responses)
    return json_response(context, dialect.response_body(call, _head(context, call, responses), responses))


async def _respond(context: RequestContext, arguments: dict[str, Any]) -> LLMResponse:
    service = context.gateway.service
    try:
        with Contained():  # here, because each of several has a task of its own
            if "messages" in arguments:
                return await service.chat_completion(**arguments)
            return await service.stream(**arguments).collect()  # `generate` gives the text alone
    except OutputValidationError as error:
        return _cut_short(error)


def _cut_short(error: OutputValidationError) -> LLMResponse:
    """The reply, where the finish reason already tells why it breaks the format: every dialect says so."""
    cut = ("length", "repetition", "unknown")
    if isinstance(error.response, LLMResponse) and error.response.finish_reason in cut:
        return error.response
    raise error


async def _respond_all(context: RequestContext, call: Call) -> list[LLMResponse]:
    """All the replies that are wanted, at once; the first failure stops the others."""
    tasks = [asyncio.create_task(_respond(context, arguments)) for arguments in call.arguments]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return [task.result() for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _note_ignored(context: RequestContext, responses: list[LLMResponse]) -> None:
    for response in responses:
        for name in map(context.call.names.of if context.call is not None else str, response.ignored):
            if name not in context.ignored:
                context.ignored.append(name)


async def _streamed(context: RequestContext, dialect: Dialect, call: Call) -> web.StreamResponse:
    """The first batch is fetched before the headers go out, so that what fails early has a status of its own."""
    context.streamed = True
    service = context.gateway.service

    def checked() -> list[LLMStream]:
        return [service.stream(**arguments) for arguments in call.arguments]

    streams = await off_loop(context, checked)  # a long conversation takes a while to check
    responses = [stream.response for stream in streams]
    out = OpenStream(context, dialect.stream_type, dialect.heartbeat)
    writer: StreamWriter | None = None

    def writing() -> StreamWriter:
        nonlocal writer
        if writer is None:
            writer = dialect.stream(call, _head(context, call, responses))
        return writer

    async def write() -> bytes:
        several = len(streams) > 1
        source: AsyncGenerator[Any, None] = merged(streams) if several else streams[0].batches()
        index = 0
        try:
            async with aclosing(source) as batches:
                with call.names.translate_errors():
                    async for batch in batches:
                        if several:
                            index, batch = batch
                        context.tokens(batch)
                        if writer is None:
                            _note_ignored(context, responses)
                        data = (writer or writing()).batch(batch, index)
                        if data:
                            await out.send(data)
        except OutputValidationError as error:
            _cut_short(error)
        return writing().end(responses)

    return await streamed(out, write, lambda failure: writing().error(failure))


def _head(context: RequestContext, call: Call, responses: list[LLMResponse]) -> Head:
    return Head(new_id(), responses[0].model or call.model or context.gateway.service.name)
