"""The progress of a pull or a creation: a line for each event, or the last one alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from miner.gateway.apis.ollama.errors import error_line
from miner.gateway.apis.ollama.stream import STREAM_TYPE
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response
from miner.gateway.streaming import EventStream


async def send_progress(
    context: RequestContext, events: AsyncGenerator[dict[str, Any], None], *, stream: bool
) -> web.StreamResponse:
    """Send the events; an error before the first one has its own HTTP status. Leaving stops the work."""
    if stream:
        return await _streamed(context, events)
    last: dict[str, Any] = {}
    async with aclosing(events):
        async for event in events:
            last = event
    return json_response(context, msgspec.json.encode({"status": last.get("status", "success")}))


async def _streamed(context: RequestContext, events: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
    context.streamed = True
    out = EventStream(context, STREAM_TYPE, b"")

    async def write() -> bytes:
        async with aclosing(events):
            async for event in events:
                await out.send(msgspec.json.encode(event) + b"\n")
        return b""

    return await out.run(write, error_line)
