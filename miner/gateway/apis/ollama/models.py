"""Ollama's routes about the server and its models: version, list, loaded ones, details."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import msgspec
from aiohttp import web

from miner.core.llms.LLMService import LLMService
from miner.core.model_card import ModelCard, RunningModel
from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from miner.gateway.apis.ollama.body import read_body
from miner.gateway.apis.ollama.convert import required_model
from miner.gateway.apis.ollama.loading import full_name
from miner.gateway.apis.ollama.modelfile import modelfile, parameters_text
from miner.gateway.apis.ollama.response import timestamp
from miner.gateway.apis.ollama.schema import OllamaShowRequest
from miner.gateway.catalog import capabilities_of, find_model, known_models, may_list
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response

API_VERSION = "0.33.0"
"""The version of Ollama whose API this is: clients compare it before they use newer parts."""
_CAPABILITIES = {
    "chat": "completion",
    "tools": "tools",
    "reasoning": "thinking",
    "images": "vision",
    "embeddings": "embedding",
}
"""Our capabilities and Ollama's names for them."""
_NO_EXPIRY = "2318-01-01T00:00:00Z"
"""Of a model that stays: Ollama's clients take a missing time for one in the past."""
_FOREVER = 1e11


_SHOW = msgspec.json.Decoder(OllamaShowRequest)


async def root(context: RequestContext) -> web.StreamResponse:
    """Ollama's liveness text; its command line requests it first."""
    context.status = 200
    return web.Response(body=b"Ollama is running", headers=context.headers("text/plain; charset=utf-8"))


async def version(context: RequestContext) -> web.StreamResponse:
    """The version of the API."""
    return json_response(context, msgspec.json.encode({"version": API_VERSION}))


async def tags(context: RequestContext) -> web.StreamResponse:
    """List models, the default first, loaded or not."""
    service = context.gateway.service
    listed = []
    for model in await known_models(context):
        dates = {"modified_at": _time(model.created or context.gateway.created)}
        listed.append({**_entry(model), **dates, "capabilities": _capabilities(service, model)})
    return json_response(context, msgspec.json.encode({"models": listed}))


async def ps(context: RequestContext) -> web.StreamResponse:
    """List the models in memory, the one that stays longest first."""
    service = context.gateway.service
    allowed = {model.id for model in await known_models(context)} if context.caller.models is not None else None
    running = [
        model
        for model in await service.running_models()
        if (allowed is None or not allowed.isdisjoint((model.info.id, *model.info.aliases)))
        and may_list(context.caller, service, model.info)
    ]
    running.sort(key=lambda model: model.expires_at or _FOREVER, reverse=True)
    return json_response(context, msgspec.json.encode({"models": [_running(model) for model in running]}))


def _running(model: RunningModel) -> dict[str, Any]:
    info = model.info
    expires_at = _NO_EXPIRY if model.expires_at is None else timestamp(round(model.expires_at * 1e9))
    return {
        **_entry(info),
        "size": model.memory or info.size or 0,
        "expires_at": expires_at,
        "size_vram": model.gpu_memory,
        "context_length": info.context_length or 0,
        **model.server,
    }


async def show(context: RequestContext) -> web.StreamResponse:
    """Describe a model."""
    request = await read_body(context, _SHOW, "template", "options")
    full = await full_name(context, required_model(request.model or request.name or ""))
    try:
        listed = await find_model(context, full)
    except ModelNotFoundError:
        if await known_models(context) or context.caller.models is not None:
            raise
        listed = None  # a backend that lists nothing; it says itself whether it takes the name
    card = await context.gateway.service.show_model(full, verbose=bool(request.verbose))
    if listed is not None:
        details = msgspec.structs.asdict(card.info)
        known = {name: value for name, value in details.items() if value not in (None, []) and name != "id"}
        card.info = msgspec.structs.replace(listed, **known)
    if request.system:
        card.system = request.system
    return json_response(context, msgspec.json.encode(_shown(context, card)))


def _shown(context: RequestContext, card: ModelCard) -> dict[str, Any]:
    info = card.info
    architecture = info.architecture or "unknown"
    known = {
        "general.architecture": architecture,
        "general.parameter_count": info.parameters,
        f"{architecture}.context_length": info.trained_context_length or info.context_length,
        f"{architecture}.embedding_length": info.dimensions,
    }
    body: dict[str, Any] = {
        "license": "\n".join(card.licenses),
        "modelfile": modelfile(card),
        "parameters": parameters_text(card.parameters),
        "template": card.template,
        "system": card.system,
        "details": {**_details(info, lengths=False), "parent_model": card.parent},
        "model_info": {**{name: value for name, value in known.items() if value is not None}, **card.metadata},
        "capabilities": _capabilities(context.gateway.service, info),
        "modified_at": _time(info.created or context.gateway.created),
    }
    for name in ("messages", "tensors"):
        if value := getattr(card, name):
            body[name] = value
    if card.projector:
        body["projector_info"] = card.projector
    return body | card.server


def _entry(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.id,
        "model": model.id,
        "size": model.size or 0,
        "digest": model.digest or _substitute_digest(model),
        "details": _details(model),
    }


def _substitute_digest(model: ModelInfo) -> str:
    """Ollama's command line shows twelve characters of a digest and crashes on a shorter one. Without one from the
    backend, it is the digest of the model's name and size.
    """
    return hashlib.sha256(f"{model.id} {model.size}".encode()).hexdigest()


def _details(model: ModelInfo, *, lengths: bool = True) -> dict[str, Any]:
    """Its form and size. `lengths`: with those of its context and its vectors, as `/api/tags` has them."""
    family = model.architecture or ""
    context_length = model.trained_context_length or model.context_length
    return {
        "parent_model": "",
        "format": "gguf" if model.quantization else "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _parameter_size(model.parameters),
        "quantization_level": model.quantization or "",
        **({"context_length": context_length} if lengths and context_length is not None else {}),
        **({"embedding_length": model.dimensions} if lengths and model.dimensions is not None else {}),
    }


def _parameter_size(parameters: int | None) -> str:
    """134515008 as "134.52M"."""
    if not parameters:
        return ""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.2f}M" if parameters >= 1_000_000 else f"{parameters / 1e3:.2f}K"


def _capabilities(service: LLMService, model: ModelInfo) -> list[str]:
    known = capabilities_of(service, model)
    return [name for capability, name in _CAPABILITIES.items() if capability in known]


def _time(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
