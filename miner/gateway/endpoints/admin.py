"""Routes for the one who runs the server: load a model, let it go, give a failed engine another chance, look at all."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.gateway.apis.base import Call
from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response
from miner.gateway.middleware.auth import Access
from miner.gateway.request_body import decode, parse_body
from miner.gateway.routing import Route

__all__ = ["ADMIN", "LoadBody", "NoFields"]


class LoadBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a model is loaded; may be left out."""

    keep_alive: float | str | None = None
    """How long it stays without a request: seconds, or such as "5m"; negative: forever."""


class NoFields(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object, or nothing."""


_LOAD = msgspec.json.Decoder(LoadBody)
_NOTHING = msgspec.json.Decoder(NoFields)


async def load(context: RequestContext) -> web.StreamResponse:
    """Make a model ready to answer."""
    asked = await parse_body(context, lambda raw: decode(raw or b"{}", _LOAD))
    name = context.request.match_info["model"]
    await context.enter(Call(arguments=[], model=name))
    info = await context.gateway.service.load_model(name, keep_alive=asked.keep_alive)
    return _answer(context, {"model": info.id, "loaded": True})


async def unload(context: RequestContext) -> web.StreamResponse:
    """Let a model go once its requests are done."""
    name = await _named(context)
    return _answer(context, {"model": name, "unloaded": await context.gateway.service.unload_model(name)})


async def reset(context: RequestContext) -> web.StreamResponse:
    """Forget that a model's engine failed: the next request starts it again."""
    name = await _named(context)
    context.gateway.service.reset_model(name)
    return _answer(context, {"model": name, "reset": True})


async def engines(context: RequestContext) -> web.StreamResponse:
    """The backend's health, with every engine that was asked for."""
    return _answer(context, await context.gateway.service.health())


async def _named(context: RequestContext) -> str:
    """The model of the path, if this key may name it. No turn is waited for: these are for when nothing goes on."""
    await parse_body(context, lambda raw: decode(raw or b"{}", _NOTHING))
    name = context.request.match_info["model"]
    for middleware in context.gateway.middleware.all:
        if isinstance(middleware, Access):
            await middleware.enter(context, Call(arguments=[], model=name))
    return name


def _answer(context: RequestContext, told: Any) -> web.Response:
    return json_response(context, msgspec.json.encode(told))


ADMIN = [
    Route(
        "POST", "/admin/models/{model:.+}/load", load, "admin", openai_error, "Make a model ready to answer", LoadBody
    ),
    Route(
        "POST", "/admin/models/{model:.+}/unload", unload, "admin", openai_error,
        "Let a model go once its requests are done", NoFields,
    ),
    Route(
        "POST", "/admin/models/{model:.+}/reset", reset, "admin", openai_error,
        "Forget that a model's engine failed, so that the next request starts it again", NoFields,
    ),
    Route("GET", "/admin/engines", engines, "admin", openai_error, "The backend's health and all its engines"),
]  # fmt: skip
"""What only a key with the admin right opens."""
