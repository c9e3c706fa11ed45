"""OpenAI's `/v1/responses` and what stands below it."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.config.config import config_of
from miner.core.wire import LLMResponse
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.openai.responses.background import BackgroundRun, events_after
from miner.gateway.apis.openai.responses.compact import COMPACTION, summarize
from miner.gateway.apis.openai.responses.dialect import OpenAIResponses
from miner.gateway.apis.openai.responses.input import stored_items
from miner.gateway.apis.openai.responses.response import ResponseOptions
from miner.gateway.apis.openai.responses.stored import conversation, earlier_items, found, not_found, store_of
from miner.gateway.apis.openai.responses.stream import ResponseStream
from miner.gateway.context import RequestContext, new_id
from miner.gateway.dialect import Call, Head
from miner.gateway.errors import RefusedError
from miner.gateway.generation import json_response, send_reply, set_default_limit
from miner.gateway.middleware.auth import check_model_access
from miner.gateway.request_body import off_loop, parse_body
from miner.gateway.store.database import StorageError
from miner.gateway.store.responses import StoredResponse
from miner.gateway.streaming import EventStream
from miner.gateway.token_count import count_tokens

_DIALECT = OpenAIResponses()
_encode = msgspec.json.encode


async def create(context: RequestContext) -> web.StreamResponse:
    """Create a response: streamed, not streamed, or in the background."""
    call = await parse_body(context, _DIALECT.begin)
    _decide_storing(context, call)
    await _complete(context, call)
    options: ResponseOptions = call.options
    if options.background:
        return await _start(context, call)
    saving = _Saving(context, call) if options.stored else None
    if saving is not None:
        call.on_complete = saving.complete
    try:
        return await send_reply(context, _DIALECT, call)
    finally:
        if saving is not None and options.final is not None and options.final["status"] == "failed":
            await saving.save(options.final)


def _decide_storing(context: RequestContext, call: Call) -> None:
    """Whether the response is stored, and generated in the background."""
    options: ResponseOptions = call.options
    request = options.request
    call.id = new_id()
    on = context.gateway.responses is not None
    options.stored = on and request.store is not False
    options.background = bool(request.background)
    if request.store and not on:
        call.skip("store", hint="Nothing is stored on this server (MINER_SERVE_STORE is false): remove it.")
    if options.background and not on:
        raise UnsupportedFeatureError(
            "Unsupported parameter: 'background'. Nothing is stored on this server (MINER_SERVE_STORE is false).",
            param="background", hint="Send stream: true, or wait for the response.",
        )  # fmt: skip
    if options.background and not options.stored:
        raise InvalidRequestError("background requires store: true.", param="background")


async def _complete(context: RequestContext, call: Call) -> None:
    """Find what the request refers to, and convert it all."""
    options: ResponseOptions = call.options
    config = config_of(context.gateway.service.config)
    service = context.gateway.service
    named = service.rules_of(None).name or (service.config_state is None and config.model_path)
    if call.model is None and not named:
        # As in OpenAI's API, whose compliance suites check it.
        raise InvalidRequestError(
            "Missing required parameter: 'model'.", param="model", hint="GET /v1/models lists them.",
            operator_hint="DEFAULT_MODEL is the model of requests that name none.",
        )  # fmt: skip
    sampling = service.rules_of(call.model).sampling
    options.temperature = sampling.get("temperature", config.default_temperature)
    options.top_p = sampling.get("top_p", config.default_top_p)
    earlier = await earlier_items(context, options.request)
    await off_loop(context, _DIALECT.complete, call, earlier)


class _Saving:
    """Stores one response that its client waits for."""

    def __init__(self, context: RequestContext, call: Call) -> None:
        self._context = context
        self._call = call

    async def complete(self, head: Head, responses: list[LLMResponse], writer: Any) -> None:
        """Store the complete response before its client has it, since that may continue it at once."""
        if isinstance(writer, ResponseStream):
            final = writer.finish()
        else:
            final = self._call.options.final = _DIALECT.final(self._call, head, responses[0])
        await self.save(final)

    async def save(self, final: dict[str, Any]) -> None:
        """Store it. Where that fails the client gets it nevertheless, and reads that it is not stored."""
        context, call = self._context, self._call
        store = store_of(context)
        request = call.options.request

        def stored() -> StoredResponse:
            return StoredResponse(
                final["id"], request.previous_response_id, final["status"], False, _encode(final),
                _encode(stored_items(request.input, call.id)),
            )  # fmt: skip

        try:
            await store.save(context.caller.partition, await off_loop(context, stored))
        except StorageError:  # logged
            final["store"] = False
            if "store" not in context.ignored:
                context.ignored.append("store")


async def _start(context: RequestContext, call: Call) -> web.StreamResponse:
    """Begin a background response, and return it, or its events so far and from now on."""
    set_default_limit(context, call)
    context.apply_policy(call)
    await check_model_access(context, call.model)
    if not context.rules.names:
        await context.gateway.service.resolve_model(call.model)  # a wrong name is an error now
    request = call.options.request
    items = await off_loop(context, lambda: _encode(stored_items(request.input, call.id)))
    detached = context.detach()
    run = BackgroundRun(detached, _DIALECT, call, store_of(context), items)
    try:
        response = await run.start()
    except BaseException:
        detached.finish()
        context.gateway.response_finished(detached)
        raise
    if call.stream:
        return await _follow(context, run, -1)
    return json_response(context, response)


async def _follow(context: RequestContext, run: BackgroundRun, after: int) -> web.StreamResponse:
    """Send the events of a background response. Its client may leave and come back."""
    context.streamed = True
    out = EventStream(context, _DIALECT.stream_type, _DIALECT.heartbeat)

    async def write() -> bytes:
        async for events in run.events(after):
            await out.send(events)
        return b""

    return await out.run(write, lambda failure: b"")


def _run_of(context: RequestContext, response_id: str) -> BackgroundRun | None:
    run = context.gateway.runs.get((context.caller.partition, response_id))
    return run if isinstance(run, BackgroundRun) else None


async def retrieve(context: RequestContext) -> web.StreamResponse:
    """A stored response, or with `stream=true` the events of a background response."""
    name, query = context.request.match_info["id"], context.request.query
    if query.get("stream", "").lower() not in ("true", "1"):
        return json_response(context, (await found(context, name)).response)
    after = _whole_number(query.get("starting_after", "-1"), "starting_after")
    run = _run_of(context, name)
    if run is not None:
        return await _follow(context, run, after)
    stored = await found(context, name)
    if stored.events is None:
        raise InvalidRequestError(
            f"Response {name!r} has no stream to follow.", param="stream",
            hint="Only responses that were created with background: true have; read it without stream.",
        )  # fmt: skip
    context.streamed = True
    out = EventStream(context, _DIALECT.stream_type, _DIALECT.heartbeat)
    events = events_after(stored.events, after)

    async def write() -> bytes:
        return events

    return await out.run(write, lambda failure: b"")


def _whole_number(text: str, name: str, low: int = -1, high: int = 2**31) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise InvalidRequestError(
            f"{name} must be an integer from {max(low, 0)} to {high}, not {text[:40]!r}.", param=name
        )
    return number


async def delete(context: RequestContext) -> web.StreamResponse:
    """Delete a stored response; one that is being generated is stopped."""
    name = context.request.match_info["id"]
    store = store_of(context)
    run = _run_of(context, name)
    if run is not None:
        await run.cancel()
    if await store.delete(context.caller.partition, name) is None:
        raise not_found(name)
    return json_response(context, _encode({"id": name, "object": "response", "deleted": True}))


async def cancel(context: RequestContext) -> web.StreamResponse:
    """Cancel a background response: the engine stops. One that has ended is returned as it is."""
    name = context.request.match_info["id"]
    run = _run_of(context, name)
    if run is not None:
        await run.cancel()
    stored = await found(context, name)
    if not stored.background:
        raise InvalidRequestError(
            f"Response {name!r} was not created with background: true, so it cannot be cancelled.",
            hint="Close its connection instead.",
        )  # fmt: skip
    if not stored.finished:
        raise RefusedError(
            409, "conflict", f"Response {name!r} is generated by another process.", hint="Send this there."
        )
    return json_response(context, stored.response)


async def input_items(context: RequestContext) -> web.StreamResponse:
    """The items that a response was generated from, those of earlier responses included, a page at a time."""
    name, query = context.request.match_info["id"], context.request.query
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequestError(f"order must be asc or desc, not {order[:40]!r}.", param="order")
    limit = _whole_number(query.get("limit", "20"), "limit", 1, 100)
    stored = await found(context, name)
    items: list[dict[str, Any]] = []
    if stored.previous is not None:
        most = context.gateway.settings.serve_max_body
        chain = await store_of(context).chain(context.caller.partition, stored.previous, most)
        items += await conversation(context, chain)
    context.count_stored(len(stored.input))
    items += await off_loop(context, stored.input_items)
    if order == "desc":
        items.reverse()
    after = query.get("after")
    if after is not None:
        places = [place for place, item in enumerate(items) if item.get("id") == after]
        if not places:
            raise InvalidRequestError(f"No item has the id {after[:100]!r}.", param="after")
        items = items[places[0] + 1 :]
    page = items[:limit]
    return json_response(
        context,
        _encode(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(items) > limit,
            }
        ),
    )


async def input_tokens(context: RequestContext) -> web.StreamResponse:
    """Count the input tokens that a response would have."""
    call = await parse_body(context, _DIALECT.begin)
    await _complete(context, call)
    await context.start_call(call)
    arguments = call.arguments[0]
    count = await count_tokens(
        context, call, messages=arguments["messages"], model=call.model, tools=arguments.get("tools")
    )
    return json_response(context, _encode({"object": "response.input_tokens", "input_tokens": count}))


async def compact(context: RequestContext) -> web.StreamResponse:
    """Summarize a conversation: an item that stands for it, behind the user's messages."""
    call = await parse_body(context, COMPACTION.begin)
    await _complete(context, call)
    return await summarize(context, call)
