"""`/admin/events`: what happens here, as server-sent events.

The first event is `state`: all models, and the number of requests. Then follow, as they happen: `engine` (phases of
loads, evictions, stops, crashes), `request` (started, finished), `load` (slots, queues and tokens a second, where they
have changed within a second) and `config`. A watcher that comes back with `Last-Event-ID` gets what it missed, as far
as that is kept.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.context import RequestContext, Route
from miner.gateway.errors import Failure
from miner.gateway.feed import Event, Watcher
from miner.gateway.streaming import EventStream


async def events(context: RequestContext) -> web.StreamResponse:
    """Stream events until the client leaves or the server stops."""
    after = _last_seen(context)
    feed = context.gateway.feed
    with feed.watch(after) as watcher:
        out = EventStream(context, "text/event-stream", b": heartbeat\n\n")
        number = feed.last if after is None else after
        state = {"models": await context.gateway.service.model_states(), "requests": len(context.gateway.running)}
        first = _frame(Event(number, "state", msgspec.json.encode(state)))

        async def write() -> bytes:
            if context.request.method == "HEAD":
                return b""
            await out.send(first)
            while context.gateway.phase != "draining":
                frames = await _next(watcher)
                if frames:
                    await out.send(frames)
            return b""

        return await out.run(write, _error)


async def _next(watcher: Watcher) -> bytes:
    """The frames of the next events; none where none have come for a second."""
    try:
        async with asyncio.timeout(1.0):
            arrived = await watcher.next()
    except TimeoutError:
        return b""
    frames = []
    if watcher.lost:
        frames.append(b"event: lost\ndata: %s\n\n" % msgspec.json.encode({"events": watcher.lost}))
        watcher.lost = 0
    return b"".join([*frames, *map(_frame, arrived)])


def _frame(event: Event) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.kind.encode(), event.data)


def _error(failure: Failure) -> bytes:
    return b"event: error\ndata: %s\n\n" % openai_error(failure)


def _last_seen(context: RequestContext) -> int | None:
    text = context.request.headers.get("Last-Event-ID") or context.request.query.get("after")
    if not text:
        return None
    if not text.isdecimal() or len(text) > 15:
        raise InvalidRequestError(f"Last-Event-ID must be the id of an event, not {text!r:.40}.", param="Last-Event-ID")
    return int(text)


EVENTS = [
    Route(
        "GET", "/admin/events", events, "admin", openai_error, "What happens here, as server-sent events",
        content_types="text/event-stream",
    ),
]  # fmt: skip
