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
from miner.gateway.context import Exchange, new_id
from miner.gateway.field_names import LENIENT_HEADER
from miner.gateway.merge import merged, total_usage
from miner.gateway.request_body import off_loop, parse_body
from miner.gateway.routing import Handler
from miner.gateway.streamed import streamed
from miner.gateway.streaming import OpenStream

__all__ = ["generation", "json_response", "reply"]


def generation(dialect: Dialect) -> Handler:
    """The handler of a route that generates."""

    async def handle(exchange: Exchange) -> web.StreamResponse:
        return await reply(exchange, dialect, await parse_body(exchange, dialect.parse))

    return handle


async def reply(exchange: Exchange, dialect: Dialect, call: Call) -> web.StreamResponse:
    """Ask the service and answer."""
    exchange.ignored += call.ignored
    if exchange.request.headers.get(LENIENT_HEADER, "").strip().lower() == "ignore":
        for arguments in call.arguments:
            arguments.setdefault("unsupported", "ignore")
    await exchange.enter(call)
    with call.names.told():
        return await (_streamed if call.stream else _whole)(exchange, dialect, call)


def json_response(exchange: Exchange, body: bytes, status: int = 200) -> web.Response:
    """An answer in one piece."""
    exchange.status = status
    return web.Response(status=status, body=body, headers=exchange.headers())


async def _whole(exchange: Exchange, dialect: Dialect, call: Call) -> web.Response:
    if len(call.arguments) == 1:
        response = await _respond(exchange, call.arguments[0])
        exchange.usage = response.usage
        responses = [response]
    else:
        responses = await _respond_all(exchange, call)
        exchange.usage = total_usage(response.usage for response in responses)
    exchange.letters = sum(len(response.content) + len(response.reasoning or "") for response in responses)
    _note_ignored(exchange, responses)
    return json_response(exchange, dialect.whole(call, _head(exchange, call, responses), responses))


async def _respond(exchange: Exchange, arguments: dict[str, Any]) -> LLMResponse:
    service = exchange.gateway.service
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


async def _respond_all(exchange: Exchange, call: Call) -> list[LLMResponse]:
    """All the replies that are wanted, at once; the first failure stops the others."""
    tasks = [asyncio.create_task(_respond(exchange, arguments)) for arguments in call.arguments]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return [task.result() for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _note_ignored(exchange: Exchange, responses: list[LLMResponse]) -> None:
    for response in responses:
        for name in map(exchange.call.names.of if exchange.call is not None else str, response.ignored):
            if name not in exchange.ignored:
                exchange.ignored.append(name)


async def _streamed(exchange: Exchange, dialect: Dialect, call: Call) -> web.StreamResponse:
    """The first batch is fetched before the headers go out, so that what fails early has a status of its own."""
    exchange.streamed = True
    service = exchange.gateway.service

    def checked() -> list[LLMStream]:
        return [service.stream(**arguments) for arguments in call.arguments]

    streams = await off_loop(exchange, checked)  # a long conversation takes a while to check
    responses = [stream.response for stream in streams]
    out = OpenStream(exchange, dialect.stream_type, dialect.heartbeat)
    writer: StreamWriter | None = None

    def writing() -> StreamWriter:
        nonlocal writer
        if writer is None:
            writer = dialect.stream(call, _head(exchange, call, responses))
        return writer

    async def write() -> bytes:
        several = len(streams) > 1
        source: AsyncGenerator[Any, None] = merged(streams) if several else streams[0].batches()
        index = 0
        try:
            async with aclosing(source) as batches:
                with call.names.told():
                    async for batch in batches:
                        if several:
                            index, batch = batch
                        exchange.tokens(batch)
                        if writer is None:
                            _note_ignored(exchange, responses)
                        data = (writer or writing()).batch(batch, index)
                        if data:
                            await out.send(data)
        except OutputValidationError as error:
            _cut_short(error)
        return writing().end(responses)

    return await streamed(out, write, lambda failure: writing().error(failure))


def _head(exchange: Exchange, call: Call, responses: list[LLMResponse]) -> Head:
    return Head(new_id(), responses[0].model or call.model or exchange.gateway.service.name)
