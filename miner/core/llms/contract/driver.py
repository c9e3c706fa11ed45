"""How a validated request runs on any backend: resolve, send, retry where that can help, bound the waits, validate the
response. One loop for non-streaming requests, one for streams.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

from miner.core.http.crash_budget import budget_scope
from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.capabilities import IGNORABLE, drop_param, may_ignore, without_ignored
from miner.core.llms.contract.deadline import Deadline
from miner.core.llms.contract.join import drain, has_tokens, join
from miner.core.llms.contract.resolution import add_context_length, resolve
from miner.core.llms.contract.retry import Retries
from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.structured import check_output
from miner.core.llms.contract.tools import arguments_parse, tool_names
from miner.core.wire import UNLIMITED, ChatRequest, LLMChunk, LLMResponse, Timings
from miner.errors import (
    BackendError,
    ContextLengthError,
    OutputValidationError,
    UnsupportedFeatureError,
)


async def run(backend: Backend, request: ChatRequest, deadline: Deadline | None = None) -> LLMResponse:
    """Return the non-streaming response: the drained stream, unless the backend overrides `_chat`.

    Args:
        deadline: of the request, where its clock runs already.
    """
    deadline = deadline or Deadline(backend.name, request.timeout)
    arrived: list[list[LLMChunk]] = []
    with backend._in_flight.call():
        try:
            async with asyncio.timeout_at(deadline.when) as timer:
                response = await _send(backend, request, deadline, timer, arrived)
        except TimeoutError:
            if not timer.expired():
                raise
            late = deadline.error()
            _add_partial(late, backend, request, arrived)
            raise late from None
        except BackendError as error:
            _add_partial(error, backend, request, arrived)
            raise
        response.finish_reason = response.finish_reason or "stop"  # of a backend that sends none
        response.timings.total = deadline.elapsed
        response.timings.time_to_first_token = response.timings.time_to_first_token or deadline.first_token
        _check_response(backend, request, response)
        return response


async def _send(
    backend: Backend, request: ChatRequest, deadline: Deadline, timer: asyncio.Timeout, arrived: list[list[LLMChunk]]
) -> LLMResponse:
    retries = Retries(backend, deadline.total)
    request = await _resolve(backend, request, retries)
    cls = type(backend)
    streams = cls._stream is not Backend._stream and (cls._chat is Backend._chat or deadline.bounds_tokens)

    def on_batch(batch: list[LLMChunk]) -> None:
        if deadline.first_token is None and has_tokens(batch):
            deadline.first_token = deadline.elapsed
        if deadline.bounds_tokens:
            deadline.note(batch)
            timer.reschedule(deadline.when)

    async def send() -> LLMResponse:
        if not streams:
            return await backend._chat(request)
        arrived.clear()
        deadline.first_token = None
        if deadline.bounds_tokens:
            deadline.restart()
            timer.reschedule(deadline.when)
        return await drain(backend._stream(request), arrived, on_batch)

    while True:
        try:
            return await retries.run(send)
        except UnsupportedFeatureError as error:
            request = _ignore_or_raise(request, error)
        except ContextLengthError as error:
            add_context_length(error, request.resolution.model)
            raise


async def _resolve(backend: Backend, request: ChatRequest, retries: Retries) -> ChatRequest:
    while True:
        try:
            return await retries.run(partial(resolve, backend, request))
        except UnsupportedFeatureError as error:
            request = _ignore_or_raise(request, error)


async def run_stream(
    backend: Backend, request: ChatRequest, response: LLMResponse, deadline: Deadline | None = None
) -> Batches:
    """Yield the response in batches. `response` gets the rest: model, backend, ignored parameters, parsed output.

    Args:
        deadline: of the request, where its clock runs already.
    """
    deadline = deadline or Deadline(backend.name, request.timeout)
    first: float | None = None
    arrived: list[list[LLMChunk]] = []
    checked = request.response_format is not None or request.tools is not None
    held: list[list[LLMChunk]] = []
    """The end of a response that is checked: no finish reason "stop" is sent for one that breaks its format."""
    batches = _attempts(backend, request, deadline)
    if request.timeout is not None:
        batches = deadline.bounded(batches)
    try:
        async with aclosing(batches):
            async for batch in batches:
                if request.parallel_tool_calls is False:
                    _keep_first_call(batch)
                arrived.append(batch)
                if first is None and has_tokens(batch):
                    first = deadline.elapsed
                    _describe(backend, request, response)
                last = batch[-1]
                if last.usage is not None or last.finish_reason is not None:
                    last.timings = last.timings or Timings()
                    last.timings.time_to_first_token = first
                    last.timings.total = deadline.elapsed
                if checked and (held or any(chunk.finish_reason is not None for chunk in batch)):
                    held.append(batch)
                else:
                    yield batch
        if not any(chunk.finish_reason is not None for batch in reversed(arrived) for chunk in batch):
            end = [LLMChunk(finish_reason="stop")]  # as in a non-streaming response
            arrived.append(end)
            if checked:
                held.append(end)
            else:
                yield end
        _describe(backend, request, response)
        if checked:
            _check_response(backend, request, join(arrived, response))
    except BackendError as error:
        _add_partial(error, backend, request, arrived)
        cut = isinstance(error, OutputValidationError) and response.finish_reason not in (None, "stop", "tool_calls")
        for batch in held:
            for chunk in batch:
                chunk.finish_reason = chunk.finish_reason if cut else None  # a cut response keeps its reason
            yield batch
        raise
    for batch in held:
        yield batch


async def _attempts(backend: Backend, request: ChatRequest, deadline: Deadline) -> Batches:
    """The batches of the first attempt that delivers any."""
    retries = Retries(backend, deadline.total)
    request = await _resolve(backend, request, retries)
    while True:
        delivered = False
        try:
            async with aclosing(backend._stream(request)) as batches:
                with budget_scope(retries.budget):  # not over a yield: who reads has a context of its own
                    first = await _first(batches)
                if first is not None:
                    delivered = True
                    yield first
                async for batch in batches:
                    if batch:
                        yield batch
            return
        except UnsupportedFeatureError as error:
            if delivered:
                raise
            request = _ignore_or_raise(request, error)
        except ContextLengthError as error:
            add_context_length(error, request.resolution.model)
            raise
        except BackendError as error:
            if delivered:
                raise
            await retries.pause_or_raise(error)


async def _first(batches: Batches) -> list[LLMChunk] | None:
    """The first batch that holds anything."""
    async for batch in batches:
        if batch:
            return batch
    return None


def _ignore_or_raise(request: ChatRequest, error: UnsupportedFeatureError) -> ChatRequest:
    """Leave out a parameter that only the engine refused, if the caller allows that (vLLM's tools need flags)."""
    param = error.param
    if param not in IGNORABLE or param in request.resolution.ignored or not may_ignore(request, param):
        raise error  # messages, for instance, are never ignored
    return drop_param(request, param)


def _keep_first_call(batch: list[LLMChunk]) -> None:
    """Engines honour parallel_tool_calls=False unreliably: what they send beyond the first call is dropped."""
    for chunk in batch:
        if chunk.tool_calls:
            chunk.tool_calls = [call for call in chunk.tool_calls if call.get("index", 0) == 0] or None


def _add_partial(error: BackendError, backend: Backend, request: ChatRequest, arrived: list[list[LLMChunk]]) -> None:
    """Set `partial` of an error: the response so far."""
    if error.partial is None and any(map(has_tokens, arrived)):
        error.partial = join(arrived)
    if error.partial is not None:
        _describe(backend, request, error.partial)


def _describe(backend: Backend, request: ChatRequest, response: LLMResponse) -> None:
    model = request.resolution.model
    response.ignored = list(request.resolution.ignored)
    response.model = response.model or (request.model if model is None else model.id)
    response.backend = response.backend or backend.name


def _check_response(backend: Backend, request: ChatRequest, response: LLMResponse) -> None:
    """Check a response before it is called a success.

    Raises:
        OutputValidationError: its tool calls or its format are not those of the request.
    """
    _describe(backend, request, response)
    request = without_ignored(request)
    fix = "shorten the prompt" if request.max_tokens == UNLIMITED else "raise max_tokens"
    cut = f" It was cut short: {fix}." if response.finish_reason == "length" else ""
    error: str | None = None
    if response.tool_calls:
        if request.parallel_tool_calls is False:
            response.tool_calls = response.tool_calls[:1]
        names = tool_names(request.tools)
        for call in response.tool_calls:
            name = call["function"]["name"]
            if names and name not in names:
                error = f"The model called a tool {name!r} that is not in tools ({', '.join(names)})."
            elif not arguments_parse(call):
                error = f"The arguments of the call of {name!r} are not a JSON object.{cut}"
            if error is not None:
                break
    elif request.tool_choice not in (None, "auto", "none"):
        error = f"A tool call was required, but the model made none.{cut}"
    if error is not None:
        raise OutputValidationError(error, response=response, backend=backend.name)
    if request.response_format is not None:
        check_output(request.response_format, response, {"backend": backend.name})
