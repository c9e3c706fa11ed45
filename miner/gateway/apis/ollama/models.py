"""Ollama's routes about the server and its models: version, list, loaded ones, details."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from miner.gateway.apis.ollama.convert import required_model
from miner.gateway.apis.ollama.loading import full_name
from miner.gateway.apis.ollama.schema import OllamaShowRequest
from miner.gateway.catalog import find_model, known_models
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body

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
"""Ollama's clients take a missing time for one in the past; no backend reports when a model is unloaded."""


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
    backend = context.gateway.service.capabilities
    listed = []
    for model in await known_models(context):
        entry = {**_entry(model), "capabilities": _capabilities(model, backend)}
        if model.created:
            entry["modified_at"] = _time(model.created)
        listed.append(entry)
    return json_response(context, msgspec.json.encode({"models": listed}))


async def ps(context: RequestContext) -> web.StreamResponse:
    """List loaded models, if the backend reports them."""
    listed = []
    for model in await known_models(context):
        if model.loaded:
            entry = {**_entry(model), "expires_at": _NO_EXPIRY, "size_vram": 0}
            if model.context_length is not None:
                entry["context_length"] = model.context_length
            listed.append(entry)
    return json_response(context, msgspec.json.encode({"models": listed}))


async def show(context: RequestContext) -> web.StreamResponse:
    """Describe a model."""
    request = await decode_body(context, _SHOW)
    context.ignored += [name for name in ("verbose", "system", "template", "options") if getattr(request, name)]
    model = await _model_info(context, await full_name(context, required_model(request.model or request.name)))
    architecture = model.architecture or "unknown"
    known = {
        "general.parameter_count": model.parameters,
        f"{architecture}.context_length": model.context_length,
        f"{architecture}.embedding_length": model.dimensions,
    }
    info = {"general.architecture": architecture, **{name: value for name, value in known.items() if value is not None}}
    body: dict[str, Any] = {
        "details": _details(model),
        "model_info": info,
        "capabilities": _capabilities(model, context.gateway.service.capabilities),
    }
    if model.created:
        body["modified_at"] = _time(model.created)
    return json_response(context, msgspec.json.encode(body))


async def _model_info(context: RequestContext, name: str) -> ModelInfo:
    """A model with all details: some backends report fewer in their list."""
    try:
        listed = await find_model(context, name)
    except ModelNotFoundError:
        if await known_models(context) or context.caller.models is not None:
            raise
        listed = ModelInfo(id=name)  # a backend that lists nothing; it says itself whether it takes the name
    details = await context.gateway.service.resolve_model(name)
    if details is None:
        return listed
    fields = {
        field: value for field, value in msgspec.structs.asdict(details).items() if value is not None and field != "id"
    }
    return msgspec.structs.replace(listed, **fields)


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


def _details(model: ModelInfo) -> dict[str, Any]:
    family = model.architecture or ""
    return {
        "parent_model": "",
        "format": "gguf" if model.quantization else "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _parameter_size(model.parameters),
        "quantization_level": model.quantization or "",
        **({"context_length": model.context_length} if model.context_length is not None else {}),
        **({"embedding_length": model.dimensions} if model.dimensions is not None else {}),
    }


def _parameter_size(parameters: int | None) -> str:
    """134515008 as "134.52M"."""
    if not parameters:
        return ""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.2f}M" if parameters >= 1_000_000 else f"{parameters / 1e3:.2f}K"


def _capabilities(model: ModelInfo, backend: frozenset[str]) -> list[str]:
    known = model.capabilities if model.capabilities is not None else backend
    return [name for capability, name in _CAPABILITIES.items() if capability in known]


def _time(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
