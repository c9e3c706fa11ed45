"""How a checked request runs: find the model, ask, ask again where that can help, bound the waits, check the reply.

The same for a whole reply and for a stream, and for every backend.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from miner.core.http.crash_budget import budget_scope
from miner.core.llms.contract.capabilities import IGNORABLE, forget, without_ignored
from miner.core.llms.contract.join import join
from miner.core.llms.contract.retry import Retries, retried
from miner.core.llms.contract.structured import check_output
from miner.core.llms.contract.tools import arguments_parse, tool_names
from miner.core.wire import ChatRequest, LLMChunk, LLMResponse, Timeout, Timings
from miner.errors import BackendError, BackendTimeoutError, OutputValidationError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

__all__ = ["respond", "stream_batches"]

_Batches = AsyncGenerator[list[LLMChunk], None]


async def respond(service: LLMService, request: ChatRequest) -> LLMResponse:
    """A whole reply."""
    with service._in_flight.call():
        return await _respond(service, request)


async def _respond(service: LLMService, request: ChatRequest) -> LLMResponse:
    limits = request.timeout
    if limits is not None and (limits.first is not None or limits.between is not None):
        # Only a stream shows when a token came.
        response = LLMResponse()
        arrived = [batch async for batch in stream_batches(service, request, response)]
        return join(arrived, response)
    loop = asyncio.get_running_loop()
    began = loop.time()
    if limits is None or limits.total is None:
        response = await _ask(service, request, None)
    else:
        async with _total(limits.total, service):
            response = await _ask(service, request, began + limits.total)
    response.finish_reason = response.finish_reason or "stop"  # of a backend that says none
    _complete(service, request, response)
    response.timings.total = loop.time() - began
    return response


async def _ask(service: LLMService, request: ChatRequest, deadline: float | None) -> LLMResponse:
    retries = Retries(service._settings.max_retries, deadline)
    request = await _resolve(service, request, retries)
    while True:
        try:
            return await retried(service, functools.partial(service._chat, request), retries)
        except UnsupportedFeatureError as error:
            request = _ignore_or_raise(request, error)
        except BackendError as error:
            if error.partial is not None:
                _describe(service, request, error.partial)
            raise


async def _resolve(service: LLMService, request: ChatRequest, retries: Retries) -> ChatRequest:
    while True:
        try:
            return await retried(service, functools.partial(service._resolve, request), retries)
        except UnsupportedFeatureError as error:
            request = _ignore_or_raise(request, error)


async def stream_batches(service: LLMService, request: ChatRequest, response: LLMResponse) -> _Batches:
    """The reply in batches. `response` gets what is known of it apart from the text: model, backend, what was ignored,
    what was parsed.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    first: float | None = None
    arrived: list[list[LLMChunk]] = []
    checked = request.response_format is not None or request.tools is not None
    held: list[list[LLMChunk]] = []
    """The end of a reply that has to be checked: "stop" is said of none that breaks its format."""
    batches = _attempts(service, request, began)
    if request.timeout is not None:
        batches = _bounded(batches, request.timeout, service)
    try:
        async with aclosing(batches):
            async for batch in batches:
                if request.parallel_tool_calls is False:
                    _keep_first_call(batch)
                arrived.append(batch)
                if first is None and any(chunk.content or chunk.reasoning or chunk.tool_calls for chunk in batch):
                    first = loop.time() - began
                    _describe(service, request, response)
                last = batch[-1]
                if last.usage is not None or last.finish_reason is not None:
                    last.timings = last.timings or Timings()
                    last.timings.time_to_first_token = first
                    last.timings.total = loop.time() - began
                if checked and (held or any(chunk.finish_reason is not None for chunk in batch)):
                    held.append(batch)
                else:
                    yield batch
        if not any(chunk.finish_reason is not None for batch in reversed(arrived) for chunk in batch):
            end = [LLMChunk(finish_reason="stop")]  # as a whole reply says it
            arrived.append(end)
            if checked:
                held.append(end)
            else:
                yield end
        _describe(service, request, response)
        if checked:
            _complete(service, request, join(arrived, response))
    except BackendError as error:
        if error.partial is None and first is not None:
            error.partial = join(arrived)
            error.partial.model, error.partial.backend = _model_name(request), service.name
        cut = isinstance(error, OutputValidationError) and response.finish_reason not in (None, "stop", "tool_calls")
        for batch in held:
            for chunk in batch:
                chunk.finish_reason = chunk.finish_reason if cut else None  # where it is cut, that says it all
            yield batch
        raise
    for batch in held:
        yield batch


async def _attempts(service: LLMService, request: ChatRequest, began: float) -> _Batches:
    """The batches of the first attempt that delivers any."""
    limits = request.timeout
    deadline = began + limits.total if limits is not None and limits.total is not None else None
    retries = Retries(service._settings.max_retries, deadline)
    request = await _resolve(service, request, retries)
    while True:
        delivered = False
        try:
            async with aclosing(service._stream(request)) as batches:
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
        except BackendError as error:
            if delivered:
                raise
            await retries.pause_or_raise(error)
            service.retries += 1


async def _first(batches: _Batches) -> list[LLMChunk] | None:
    """The first batch that holds anything."""
    async for batch in batches:
        if batch:
            return batch
    return None


def _ignore_or_raise(request: ChatRequest, error: UnsupportedFeatureError) -> ChatRequest:
    """Some engines say only when asked that they lack something (vLLM's tools need flags of its server)."""
    param = error.param
    if not request.ignore_unsupported or param not in IGNORABLE or param in request.resolution.ignored:
        raise error  # the messages, say, are never ignored
    return forget(request, param)


async def _bounded(batches: _Batches, limits: Timeout, service: LLMService) -> _Batches:
    """The same batches, with the caller's own bounds on the waits."""
    loop = asyncio.get_running_loop()
    began = last = loop.time()
    waits_for_first = True
    async with aclosing(batches):
        while True:
            span = (limits.first if waits_for_first else limits.between) or float("inf")
            ends_at = last + span
            if limits.total is not None:
                ends_at = min(ends_at, began + limits.total)
            timer = asyncio.timeout_at(ends_at if ends_at != float("inf") else None)
            try:
                async with timer:
                    batch = await anext(batches)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not timer.expired():
                    raise
                total_over = limits.total is not None and loop.time() >= began + limits.total
                bound = "timeout.total" if total_over else "timeout.first" if waits_for_first else "timeout.between"
                raise _too_slow(service, bound, limits.total if total_over else span) from None
            if any(chunk.content or chunk.reasoning or chunk.tool_calls for chunk in batch):
                waits_for_first = False
                last = loop.time()
            yield batch


def _too_slow(service: LLMService, bound: str, seconds: float | None) -> BackendTimeoutError:
    return BackendTimeoutError(
        f"{service.name} took longer than {bound} allows ({seconds:g} s).",
        backend=service.name,
        hint="Raise the request's timeout, or ask for less.",
    )


@asynccontextmanager
async def _total(seconds: float, service: LLMService) -> AsyncIterator[None]:
    """The caller's bound on the whole call."""
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        raise _too_slow(service, "timeout", seconds) from None


def _keep_first_call(batch: list[LLMChunk]) -> None:
    """Engines honour parallel_tool_calls=False unreliably: what they send beyond the first call is dropped."""
    for chunk in batch:
        if chunk.tool_calls:
            chunk.tool_calls = [call for call in chunk.tool_calls if call.get("index", 0) == 0] or None


def _model_name(request: ChatRequest) -> str | None:
    found = request.resolution.model
    return request.model if found is None else found.id


def _describe(service: LLMService, request: ChatRequest, response: LLMResponse) -> None:
    response.ignored = list(request.resolution.ignored)
    response.model = response.model or _model_name(request)
    response.backend = response.backend or service.name


def _complete(service: LLMService, request: ChatRequest, response: LLMResponse) -> None:
    """Check a whole reply before it is called a success."""
    _describe(service, request, response)
    request = without_ignored(request)
    origin: dict[str, Any] = {"backend": service.name}
    if response.tool_calls:
        if request.parallel_tool_calls is False:
            response.tool_calls = response.tool_calls[:1]
        names = tool_names(request.tools)
        for call in response.tool_calls:
            name = call["function"]["name"]
            if names and name not in names:
                raise OutputValidationError(
                    f"The model called a tool {name!r} that was not offered ({', '.join(names)}).",
                    response=response,
                    **origin,
                )
            if not arguments_parse(call):
                cut = " It was cut short: raise max_tokens." if response.finish_reason == "length" else ""
                raise OutputValidationError(
                    f"The arguments of the call of {name!r} are not a JSON object.{cut}", response=response, **origin
                )
    elif request.tool_choice not in (None, "auto", "none"):
        cut = " It was cut short: raise max_tokens." if response.finish_reason == "length" else ""
        raise OutputValidationError(f"A tool call was required and none came.{cut}", response=response, **origin)
    if request.response_format is not None:
        check_output(request.response_format, response, origin)
