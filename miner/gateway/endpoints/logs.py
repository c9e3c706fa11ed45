"""`/admin/logs`: the last lines of the server's log; `/admin/models/{model}/logs`: those of a model's engine.

With `follow=true` both are server-sent events, which go on with what is logged from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.context import RequestContext, Route
from miner.gateway.errors import Failure
from miner.gateway.generation import json_response
from miner.gateway.middleware.auth import check_model_access
from miner.gateway.server.log_ring import MAX_LINES
from miner.gateway.state import LogLine
from miner.gateway.streaming import EventStream

_LEVELS = ("debug", "info", "warning", "error", "critical")
_LINES = 100
"""Lines where the request does not say how many."""
_PAUSE_SECONDS = 0.25
"""Between two looks for new lines."""

T = TypeVar("T")


async def logs(context: RequestContext) -> web.StreamResponse:
    """The server's own log."""
    most, level, after = _lines(context), _level(context), _number(context, "after", 0)
    ring = context.gateway.log
    after = 0 if after > ring.last else after  # of another run of the server
    if not _follows(context):
        found = ring.lines(after=after, level=level, most=most)
        return _respond(context, {"entries": [msgspec.Raw(line.data) for line in found], "last": ring.last})

    async def frames() -> AsyncIterator[bytes]:
        seen = ring.last
        yield b"".join(map(_frame, ring.lines(after=after, level=level, most=most)))
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            last, lost = ring.last, not ring.is_complete(seen)
            new = ring.lines(after=seen, level=level)
            text = b'event: lost\ndata: {"after":%d}\n\n' % seen if lost else b""
            seen = max(last, new[-1].number if new else 0)
            yield text + b"".join(map(_frame, new))

    return await _stream(context, frames())


def _frame(line: LogLine) -> bytes:
    return b"id: %d\nevent: log\ndata: %s\n\n" % (line.number, line.data)


async def engine_logs(context: RequestContext) -> web.StreamResponse:
    """The last lines that a model's engine has written, also of one that has exited."""
    name = context.request.match_info["model"]
    await check_model_access(context, name)
    service, most = context.gateway.service, _lines(context)
    first = await service.engine_log(name)
    shown = list(first.lines[max(0, len(first.lines) - most) :])
    if not _follows(context):
        return _respond(context, {"model": name, "lines": shown})

    async def frames() -> AsyncIterator[bytes]:
        before = first
        yield _line_frames(shown)
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            now = await service.engine_log(name)
            yield _line_frames(now.since(before))
            before = now

    return await _stream(context, frames())


def _line_frames(lines: list[str]) -> bytes:
    return b"".join(b"event: line\ndata: %s\n\n" % msgspec.json.encode({"line": line}) for line in lines)


async def _stream(context: RequestContext, frames: AsyncIterator[bytes]) -> web.StreamResponse:
    out = EventStream(context, "text/event-stream", b": heartbeat\n\n")

    async def write() -> bytes:
        if context.request.method == "HEAD":
            return b""
        await out.send(b": log\n\n")  # the headers go out, also where there is no line yet
        async for data in frames:
            if data:
                await out.send(data)
            if context.gateway.phase == "draining":
                break
        return b""

    return await out.run(write, _error)


def _error(failure: Failure) -> bytes:
    return b"event: error\ndata: %s\n\n" % openai_error(failure)


def _respond(context: RequestContext, content: Any) -> web.Response:
    return json_response(context, msgspec.json.encode(content))


def _lines(context: RequestContext) -> int:
    return _number(context, "lines", _LINES)


def _level(context: RequestContext) -> int:
    text = context.request.query.get("level", "").lower()
    if text and text not in _LEVELS:
        raise InvalidRequestError(f"level must be one of {', '.join(_LEVELS)}, not {text!r:.40}.", param="level")
    return int(getattr(logging, text.upper())) if text else logging.NOTSET


def _follows(context: RequestContext) -> bool:
    return _parsed(context, "follow", False, {"true": True, "1": True, "false": False, "0": False}.get, "true or false")


def _number(context: RequestContext, name: str, default: int) -> int:
    def parse(text: str) -> int | None:
        return int(text) if text.isdecimal() and len(text) <= 15 else None

    return _parsed(context, name, default, parse, "a number of lines, 0 or more" if name == "lines" else "a line's id")


def _parsed(context: RequestContext, name: str, default: T, parse: Callable[[str], T | None], allowed: str) -> T:
    """A parameter of the query.

    Raises:
        InvalidRequestError: it has another value.
    """
    text = context.request.query.get(name)
    if not text:
        return default
    value = parse(text.lower())
    if value is None:
        raise InvalidRequestError(f"{name} must be {allowed}, not {text!r:.40}.", param=name)
    return value


LOGS = [
    Route(
        "GET", "/admin/logs", logs, "admin", openai_error,
        f"The last lines of the server's log, {MAX_LINES} of them and as many from warning",
        content_types=("application/json", "text/event-stream"),
    ),
    Route(
        "GET", "/admin/models/{model:.+}/logs", engine_logs, "admin", openai_error,
        "The last lines that a model's engine has written", content_types=("application/json", "text/event-stream"),
    ),
]  # fmt: skip
"""Only for keys with the admin right."""
