"""OpenAI's `/v1/models` and `/v1/models/{id}`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import ModelInfo
from miner.gateway.catalog import find_model, known_models
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response


async def models(context: RequestContext) -> web.StreamResponse:
    """List the models that this caller may use, the default first."""
    listed = [_model(model, context.gateway.service.name) for model in await known_models(context)]
    return json_response(context, msgspec.json.encode({"object": "list", "data": listed}))


async def one_model(context: RequestContext) -> web.StreamResponse:
    """Describe one of them, by its id or an alias."""
    found = await find_model(context, context.request.match_info["model"])
    return json_response(context, msgspec.json.encode(_model(found, context.gateway.service.name)))


def _model(model: ModelInfo, backend: str) -> dict[str, Any]:
    body: dict[str, Any] = {"id": model.id, "object": "model", "created": model.created or 0, "owned_by": backend}
    if model.aliases:
        body["aliases"] = model.aliases
    if model.context_length is not None:
        body["max_model_len"] = model.context_length
    if model.capabilities is not None:
        body["capabilities"] = sorted(model.capabilities)
    if model.loaded is not None:
        body["loaded"] = model.loaded
    return body
