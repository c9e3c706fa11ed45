"""Ollama's `/api/pull`: the backend gets a model, and the client sees how far it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from miner.errors import UnsupportedFeatureError
from miner.gateway.apis.ollama.common import STREAM_TYPE, Named
from miner.gateway.apis.ollama.errors import ollama_error
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body
from miner.gateway.streamed import streamed
from miner.gateway.streaming import OpenStream

__all__ = ["OllamaPullBody", "pull"]


class OllamaPullBody(Named, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/pull`."""

    insecure: bool = False
    stream: bool = True
    username: str = ""
    password: str = ""


_DECODER = msgspec.json.Decoder(OllamaPullBody)


async def pull(context: RequestContext) -> web.StreamResponse:
    """Get a model. A client that hangs up ends it; the next pull goes on from there.

    Raises:
        RefusedError: 501 where the backend gets no models.
    """
    asked = await decode_body(context, _DECODER)
    context.ignored += [name for name in ("username", "password") if getattr(asked, name)]
    events = _events(context, asked.named(), insecure=asked.insecure)
    if asked.stream:
        return await _streamed(context, events)
    last: dict[str, Any] = {}
    async with aclosing(events):
        async for event in events:
            last = event
    return json_response(context, msgspec.json.encode({"status": last.get("status", "success")}))


def _events(context: RequestContext, name: str, *, insecure: bool) -> AsyncGenerator[dict[str, Any], None]:
    try:
        return context.gateway.service.pull_model(name, insecure=insecure)
    except UnsupportedFeatureError as error:
        if error.param != "pull":
            raise
        raise RefusedError(
            501, "not_implemented", f"{name!r} cannot be pulled through this server.",
            hint="Its operator puts models where the backend finds them; GET /api/tags lists those that are there.",
        ) from error  # fmt: skip


async def _streamed(context: RequestContext, events: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
    """A line for each event; what fails before the first one has a status of its own."""
    context.streamed = True
    out = OpenStream(context, STREAM_TYPE, b"")

    async def write() -> bytes:
        async with aclosing(events):
            async for event in events:
                await out.send(msgspec.json.encode(event) + b"\n")
        return b""

    return await streamed(out, write, lambda failure: ollama_error(failure) + b"\n")
