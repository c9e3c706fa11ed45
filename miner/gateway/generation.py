"""Serving a generation: streamed or not, in any dialect, over any service.

A client that disconnects stops the service: the handler's task is cancelled, and all that it awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any

from aiohttp import web

from miner.core.llms.contract.stream import LLMStream
from miner.core.wire import LLMChunk, LLMResponse, TokenUsage
from miner.errors import OutputValidationError
from miner.gateway.context import Handler, RequestContext, new_id
from miner.gateway.dialect import Call, Dialect, Head, StreamWriter
from miner.gateway.errors import ErrorBoundary
from miner.gateway.merge import merged
from miner.gateway.request_body import off_loop, parse_body
from miner.gateway.streaming import EventStream


def generation_handler(dialect: Dialect) -> Handler:
    """The handler of a route that generates."""

    async def handle(context: RequestContext) -> web.StreamResponse:
        return await send_reply(context, dialect, await parse_body(context, dialect.parse))

    return handle


async def send_reply(context: RequestContext, dialect: Dialect, call: Call) -> web.StreamResponse:
    """Call the service and send its reply, as the dialect writes it."""
    set_default_limit(context, call)
    await context.start_call(call)
    with call.names.translate_errors():
        return await (_streaming if call.stream else _non_streaming)(context, dialect, call)


def set_default_limit(context: RequestContext, call: Call) -> None:
    """Give the call the limit of its model, else the one that its dialect means, where the client names none."""
    limit = context.gateway.service.rules_of(call.model).sampling.get("max_tokens", call.default_max_tokens)
    for arguments in call.arguments:
        if arguments.get("max_tokens") is None:
            arguments["max_tokens"] = limit


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
    context.finish_reasons = {
        index: response.finish_reason for index, response in enumerate(responses) if response.finish_reason is not None
    }
    _note_ignored(context, responses)
    head = _head(context, dialect, call, responses)
    if call.on_complete is not None:
        await call.on_complete(head, responses, None)
    return json_response(context, dialect.response_body(call, head, responses))


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
    reply = StreamedReply(context, dialect, call)
    await reply.prepare()
    out = EventStream(context, dialect.stream_type, dialect.heartbeat, call.stream_errors)
    return await out.run(lambda: reply.write(out.send), lambda failure: reply.writer.error(failure))


class StreamedReply:
    """The reply to a call as the events of a dialect, wherever they go."""

    def __init__(self, context: RequestContext, dialect: Dialect, call: Call) -> None:
        self._context = context
        self._dialect = dialect
        self._call = call
        self._streams: list[LLMStream] = []
        self._responses: list[LLMResponse] = []
        self._writer: StreamWriter | None = None
        self._head: Head | None = None

    async def prepare(self) -> None:
        """Check the arguments of the call.

        Raises:
            RequestError: names the invalid one.
        """
        service = self._context.gateway.service

        def streams() -> list[LLMStream]:
            return [service.stream(**arguments) for arguments in self._call.arguments]

        self._streams = await off_loop(self._context, streams)  # a long conversation takes a while to check
        self._responses = [stream.response for stream in self._streams]

    @property
    def head(self) -> Head:
        """The head of the response; its model is known from the first batch on."""
        if self._head is None:
            self._head = _head(self._context, self._dialect, self._call, self._responses)
        return self._head

    @property
    def writer(self) -> StreamWriter:
        """The writer of the events."""
        if self._writer is None:
            self._writer = self._dialect.stream(self._call, self.head)
        return self._writer

    async def write(self, send: Callable[[bytes], Awaitable[None]]) -> bytes:
        """Generate, and send the events as they come; return the last ones."""
        context, call, streams = self._context, self._call, self._streams
        several = len(streams) > 1
        source: AsyncGenerator[Any, None] = (
            merged([_until_cut(stream) for stream in streams]) if several else streams[0].batches()
        )
        index = 0
        writer: StreamWriter | None = None
        try:
            async with aclosing(source) as batches:
                with call.names.translate_errors():
                    async for batch in batches:
                        if several:
                            index, batch = batch
                        context.record_chunks(batch, index)
                        if writer is None:
                            _note_ignored(context, self._responses)
                            writer = self.writer
                        data = writer.batch(batch, index)
                        if data:
                            await send(data)
        except OutputValidationError as error:
            if end := _end_of(error):
                context.record_chunks(end, index)
                data = self.writer.batch(end, index)
                if data:
                    await send(data)
        writer = self.writer
        if call.on_complete is not None:
            await call.on_complete(self.head, self._responses, writer)
        return writer.end(self._responses)


def _head(context: RequestContext, dialect: Dialect, call: Call, responses: list[LLMResponse]) -> Head:
    context.note_served(responses[0].model)
    head = Head(call.id or new_id(), responses[0].model or call.model or context.gateway.service.name)
    if dialect.id_prefix is not None:
        context.response_id = f"{dialect.id_prefix}{head.id}"
    return head


async def _until_cut(stream: LLMStream) -> AsyncGenerator[list[LLMChunk], None]:
    """The batches of a stream, with the end of one whose finish reason explains why it does not match its format."""
    try:
        async with aclosing(stream.batches()) as batches:
            async for batch in batches:
                yield batch
    except OutputValidationError as error:
        if end := _end_of(error):
            yield end


def _total_usage(usages: Iterable[TokenUsage | None]) -> TokenUsage | None:
    """The sum of the known ones; None if all are unknown."""
    total: TokenUsage | None = None
    for usage in usages:
        if usage is not None:
            total = usage if total is None else total.plus(usage)
    return total
