"""Serving a generation: streamed or not, in any dialect, over any service.

A client that disconnects stops the service: the handler's task is cancelled, and all that it awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from aiohttp import web

from miner.core.llms.contract.stream import LLMStream
from miner.core.wire import LLMChunk, LLMResponse, TokenUsage
from miner.errors import MinerError, OutputValidationError
from miner.gateway.context import Handler, RequestContext, add_usage, new_id
from miner.gateway.dialect import Call, Dialect, Head, StreamWriter
from miner.gateway.errors import ErrorBoundary
from miner.gateway.request_body import off_loop, parse_body
from miner.gateway.streaming import EventStream


def generation_handler(dialect: Dialect) -> Handler:
    """The handler of a route that generates."""

    async def handle(context: RequestContext) -> web.StreamResponse:
        return await send_reply(context, dialect, await parse_body(context, dialect.parse))

    return handle


async def send_reply(context: RequestContext, dialect: Dialect, call: Call) -> web.StreamResponse:
    """Call the service and send its reply, as the dialect writes it."""
    for arguments in call.arguments:
        if arguments.get("max_tokens") is None:
            arguments["max_tokens"] = call.default_max_tokens
    await context.start_call(call)
    with call.names.translate_errors():
        return await (_streaming if call.stream else _non_streaming)(context, dialect, call)


def json_response(context: RequestContext, body: bytes, status: int = 200) -> web.Response:
    """A response with a JSON body."""
    context.status = status
    return web.Response(status=status, body=body, headers=context.headers())


async def _non_streaming(context: RequestContext, dialect: Dialect, call: Call) -> web.Response:
    if len(call.arguments) == 1:
        responses = [await _respond(context, call.arguments[0])]
    else:
        responses = await _respond_all(context, call)
    context.usage = _total_usage(response.usage for response in responses)
    context.characters = sum(len(response.content) + len(response.reasoning or "") for response in responses)
    _note_ignored(context, responses)
    return json_response(context, dialect.response_body(call, _head(context, call, responses), responses))


async def _respond(context: RequestContext, arguments: dict[str, Any]) -> LLMResponse:
    service = context.gateway.service
    try:
        with ErrorBoundary():  # here, because each of several has a task of its own
            if "messages" in arguments:
                return await service.chat_completion(**arguments)
            return await service.stream(**arguments).collect()  # `generate` returns only the text
    except OutputValidationError as error:
        return _unfinished(error)


def _unfinished(error: OutputValidationError) -> LLMResponse:
    """The response, if its finish reason explains why it does not match the format, or if it is a tool call that the
    model wrote wrongly: clients tell the model so, and it corrects the call.
    """
    reasons = ("length", "repetition", "unknown")
    response = error.response
    if isinstance(response, LLMResponse) and (response.finish_reason in reasons or response.tool_calls):
        return response
    raise error


def _end_of(error: OutputValidationError) -> list[LLMChunk]:
    """The end of such a response's stream, in which only a truncated response still has its finish reason."""
    complete = _unfinished(error).finish_reason in ("stop", "tool_calls")
    return [LLMChunk(finish_reason="tool_calls")] if complete else []


async def _respond_all(context: RequestContext, call: Call) -> list[LLMResponse]:
    """All replies of the call, concurrently; the first failure cancels the others."""
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


async def _streaming(context: RequestContext, dialect: Dialect, call: Call) -> web.StreamResponse:
    """The first batch is fetched before the headers are sent, so that an early error gets its own status."""
    context.streamed = True
    service = context.gateway.service

    def prepare() -> list[LLMStream]:
        return [service.stream(**arguments) for arguments in call.arguments]

    streams = await off_loop(context, prepare)  # a long conversation takes a while to check
    responses = [stream.response for stream in streams]
    out = EventStream(context, dialect.stream_type, dialect.heartbeat, call.stream_errors)
    writer: StreamWriter | None = None

    def get_writer() -> StreamWriter:
        nonlocal writer
        if writer is None:
            writer = dialect.stream(call, _head(context, call, responses))
        return writer

    async def write() -> bytes:
        several = len(streams) > 1
        source: AsyncGenerator[Any, None] = _merge(streams) if several else streams[0].batches()
        index = 0
        try:
            async with aclosing(source) as batches:
                with call.names.translate_errors():
                    async for batch in batches:
                        if several:
                            index, batch = batch
                        context.record_chunks(batch)
                        if writer is None:
                            _note_ignored(context, responses)
                        data = (writer or get_writer()).batch(batch, index)
                        if data:
                            await out.send(data)
        except OutputValidationError as error:
            if end := _end_of(error):
                context.record_chunks(end)
                return get_writer().batch(end, index) + get_writer().end(responses)
        return get_writer().end(responses)

    return await out.run(write, lambda failure: get_writer().error(failure))


def _head(context: RequestContext, call: Call, responses: list[LLMResponse]) -> Head:
    return Head(new_id(), responses[0].model or call.model or context.gateway.service.name)


async def _merge(streams: Sequence[LLMStream]) -> AsyncGenerator[tuple[int, list[LLMChunk]], None]:
    """Batches of several streams as they come, each with the index of its stream. The first failure ends them all."""
    arrived: asyncio.Queue[tuple[int, list[LLMChunk] | MinerError | None]] = asyncio.Queue(len(streams))

    async def read(index: int, stream: LLMStream) -> None:
        try:
            with ErrorBoundary():
                async with aclosing(stream.batches()) as batches:
                    async for batch in batches:
                        await arrived.put((index, batch))
        except OutputValidationError as error:
            try:
                if end := _end_of(error):
                    await arrived.put((index, end))
                await arrived.put((index, None))
            except OutputValidationError:
                await arrived.put((index, error))
        except MinerError as error:
            await arrived.put((index, error))
        else:
            await arrived.put((index, None))

    readers = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    unfinished = len(readers)
    try:
        while unfinished:
            index, item = await arrived.get()
            if item is None:
                unfinished -= 1
            elif isinstance(item, MinerError):
                raise item
            else:
                yield index, item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


def _total_usage(usages: Iterable[TokenUsage | None]) -> TokenUsage | None:
    """The sum of the known ones; None if all are unknown."""
    total: TokenUsage | None = None
    for usage in usages:
        if usage is not None:
            total = add_usage(total, usage)
    return total
