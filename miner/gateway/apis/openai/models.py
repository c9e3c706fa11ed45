"""OpenAI's `/v1/models` and `/v1/models/{id}`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import ModelInfo
from miner.errors import MinerError
from miner.gateway.catalog import find_model, known_models, listed_names
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response


async def models(context: RequestContext) -> web.StreamResponse:
    """List the models that this caller may use by all their names, the default first."""
    known, service = await known_models(context), context.gateway.service
    default = service.rules_of(None).name
    if default is None and len(known) > 1:
        with suppress(MinerError):  # none is the default, or its server cannot be asked
            found = await service.resolve_model()
            default = None if found is None else found.id
    listed = []
    for model, name in listed_names(known):
        entry = _model(model, name, service.backend_of(model.id).name)
        if default is not None and name == model.id and default in (model.id, *model.aliases):
            entry["default"] = True  # of requests that name none
        listed.append(entry)
    return json_response(context, msgspec.json.encode({"object": "list", "data": listed}))


async def one_model(context: RequestContext) -> web.StreamResponse:
    """Describe one of them, by its id or another name."""
    wanted = context.request.match_info["model"]
    found = await find_model(context, wanted)
    name = wanted if wanted in found.aliases else found.id
    backend = context.gateway.service.backend_of(found.id).name
    return json_response(context, msgspec.json.encode(_model(found, name, backend)))


def _model(model: ModelInfo, name: str, backend: str) -> dict[str, Any]:
    body: dict[str, Any] = {"id": name, "object": "model", "created": model.created or 0, "owned_by": backend}
    if name != model.id:
        body["root"] = model.id
    if model.description is not None:
        body["description"] = model.description
    if model.aliases:
        body["aliases"] = model.aliases
    if model.context_length is not None:
        body["max_model_len"] = model.context_length
    if model.capabilities is not None:
        body["capabilities"] = sorted(model.capabilities)
    if model.loaded is not None:
        body["loaded"] = model.loaded
    return body
