"""Routes for admins: load and unload a model, reset a failed engine, and the state of all engines."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.context import RequestContext, Route
from miner.gateway.dialect import Call
from miner.gateway.generation import json_response
from miner.gateway.middleware.auth import check_model_access
from miner.gateway.request_body import decode, parse_body


class LoadBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a model is loaded; optional."""

    keep_alive: float | str | None = None
    """How long it stays loaded without a request: seconds, or such as "5m"; negative: forever."""


class NoFields(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object, or no body."""


_LOAD = msgspec.json.Decoder(LoadBody)
_NOTHING = msgspec.json.Decoder(NoFields)


async def load(context: RequestContext) -> web.StreamResponse:
    """Load a model."""
    body = await parse_body(context, lambda raw: decode(raw or b"{}", _LOAD))
    name = context.request.match_info["model"]
    await context.start_call(Call(arguments=[], model=name))
    with context.gateway.only_loads(context):
        info = await context.gateway.service.load_model(name, keep_alive=body.keep_alive)
    return _respond(context, {"model": info.id, "loaded": True})


async def unload(context: RequestContext) -> web.StreamResponse:
    """Unload a model once its requests are done."""
    name = await _model_in_path(context)
    return _respond(context, {"model": name, "unloaded": await context.gateway.service.unload_model(name)})


async def reset(context: RequestContext) -> web.StreamResponse:
    """Forget that a model's engine has failed: the next request starts it again."""
    name = await _model_in_path(context)
    context.gateway.service.reset_model(name)
    return _respond(context, {"model": name, "reset": True})


async def stop(context: RequestContext) -> web.StreamResponse:
    """Unload a model now: its requests, those that wait for it included, end with an error."""
    name = await _model_in_path(context)
    return _respond(context, {"model": name, "stopped": await context.gateway.service.stop_model(name)})


async def pin(context: RequestContext) -> web.StreamResponse:
    """Never evict a model, nor unload it when it is idle, until the server stops."""
    name = await _model_in_path(context)
    context.gateway.service.pin_model(name)
    return _respond(context, {"model": name, "pinned": True})


async def unpin(context: RequestContext) -> web.StreamResponse:
    """Undo `pin`."""
    name = await _model_in_path(context)
    context.gateway.service.unpin_model(name)
    return _respond(context, {"model": name, "pinned": False})


async def models(context: RequestContext) -> web.StreamResponse:
    """All models and what they are doing."""
    return _respond(context, {"models": await context.gateway.service.model_states()})


async def engines(context: RequestContext) -> web.StreamResponse:
    """The backend's health, with all its engines."""
    return _respond(context, await context.gateway.service.health())


async def _model_in_path(context: RequestContext) -> str:
    """The model of the path, if the caller may use it. Without the queue: these routes are for when it is stuck."""
    await parse_body(context, lambda raw: decode(raw or b"{}", _NOTHING))
    name = context.request.match_info["model"]
    await check_model_access(context, name)
    return name


def _respond(context: RequestContext, content: Any) -> web.Response:
    return json_response(context, msgspec.json.encode(content))


ADMIN = [
    Route(
        "POST", "/admin/models/{model:.+}/load", load, "admin", openai_error, "Load a model", LoadBody
    ),
    Route(
        "POST", "/admin/models/{model:.+}/unload", unload, "admin", openai_error,
        "Unload a model once its requests are done", NoFields,
    ),
    Route(
        "POST", "/admin/models/{model:.+}/reset", reset, "admin", openai_error,
        "Forget that a model's engine has failed, so that the next request starts it again", NoFields,
    ),
    Route(
        "POST", "/admin/models/{model:.+}/stop", stop, "admin", openai_error,
        "Unload a model now; its requests end with an error", NoFields,
    ),
    Route(
        "POST", "/admin/models/{model:.+}/pin", pin, "admin", openai_error,
        "Never evict a model, nor unload it when it is idle, until the server stops", NoFields,
    ),
    Route("POST", "/admin/models/{model:.+}/unpin", unpin, "admin", openai_error, "Undo pin", NoFields),
    Route("GET", "/admin/models", models, "admin", openai_error, "All models and what they are doing"),
    Route("GET", "/admin/engines", engines, "admin", openai_error, "The backend's health and all its engines"),
]  # fmt: skip
"""Only for keys with the admin right."""
