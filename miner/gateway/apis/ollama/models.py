"""What Ollama's clients ask beside generations: whether somebody is there, which version, which models."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from miner.gateway.apis.ollama.common import Named
from miner.gateway.apis.ollama.loading import full_name
from miner.gateway.catalog import find_model, known_models
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body

__all__ = ["OllamaShowBody", "ps", "root", "show", "tags", "version"]

API_VERSION = "0.33.0"
"""The version of Ollama whose API this is: clients compare it before they use newer parts."""
_WORDS = {
    "chat": "completion",
    "tools": "tools",
    "reasoning": "thinking",
    "images": "vision",
    "embeddings": "embedding",
}
"""What a model can do, and Ollama's word for it."""
_FAR = "2318-01-01T00:00:00Z"
"""Ollama's clients take a missing time for one that is over; nobody here tells when a model goes."""


class OllamaShowBody(Named, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/show`. Ollama's command line sends all of these, most of them empty."""

    verbose: bool = False
    system: str = ""
    template: str = ""
    options: dict[str, Any] | None = None


_SHOW = msgspec.json.Decoder(OllamaShowBody)


async def root(context: RequestContext) -> web.StreamResponse:
    """What Ollama says; its command line asks it before anything else."""
    context.status = 200
    return web.Response(body=b"Ollama is running", headers=context.headers("text/plain; charset=utf-8"))


async def version(context: RequestContext) -> web.StreamResponse:
    """The version of the API."""
    return json_response(context, msgspec.json.encode({"version": API_VERSION}))


async def tags(context: RequestContext) -> web.StreamResponse:
    """Every model that can be named, the default first, loaded or not."""
    able = context.gateway.service.capabilities
    listed = []
    for model in await known_models(context):
        entry = {**_entry(model), "capabilities": _abilities(model, able)}
        if model.created:
            entry["modified_at"] = _time(model.created)
        listed.append(entry)
    return json_response(context, msgspec.json.encode({"models": listed}))


async def ps(context: RequestContext) -> web.StreamResponse:
    """The models that are loaded, as far as the backend knows."""
    listed = []
    for model in await known_models(context):
        if model.loaded:
            entry = {**_entry(model), "expires_at": _FAR, "size_vram": 0}
            if model.context_length is not None:
                entry["context_length"] = model.context_length
            listed.append(entry)
    return json_response(context, msgspec.json.encode({"models": listed}))


async def show(context: RequestContext) -> web.StreamResponse:
    """One model."""
    asked = await decode_body(context, _SHOW)
    context.ignored += [name for name in ("verbose", "system", "template", "options") if getattr(asked, name)]
    model = await _described(context, await full_name(context, asked.named()))
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
        "capabilities": _abilities(model, context.gateway.service.capabilities),
    }
    if model.created:
        body["modified_at"] = _time(model.created)
    return json_response(context, msgspec.json.encode(body))


async def _described(context: RequestContext, name: str) -> ModelInfo:
    """All that is known of a model: some backends tell more of one than in their list."""
    try:
        listed = await find_model(context, name)
    except ModelNotFoundError:
        if await known_models(context) or context.caller.models is not None:
            raise
        listed = ModelInfo(id=name)  # a backend that lists nothing; it says itself whether it takes the name
    told = await context.gateway.service.resolve_model(name)
    if told is None:
        return listed
    fields = {
        field: value for field, value in msgspec.structs.asdict(told).items() if value is not None and field != "id"
    }
    return msgspec.structs.replace(listed, **fields)


def _entry(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.id,
        "model": model.id,
        "size": model.size or 0,
        "digest": model.digest or _stand_in(model),
        "details": _details(model),
    }


def _stand_in(model: ModelInfo) -> str:
    """Ollama's command line shows twelve characters of a digest and crashes on a shorter one. Where the backend knows
    none, this one stands for the model's name and size.
    """
    return hashlib.sha256(f"{model.id} {model.size}".encode()).hexdigest()


def _details(model: ModelInfo) -> dict[str, Any]:
    family = model.architecture or ""
    return {
        "parent_model": "",
        "format": "gguf" if model.quantization else "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _short(model.parameters),
        "quantization_level": model.quantization or "",
        **({"context_length": model.context_length} if model.context_length is not None else {}),
        **({"embedding_length": model.dimensions} if model.dimensions is not None else {}),
    }


def _short(parameters: int | None) -> str:
    """134515008 as "134.52M"."""
    if not parameters:
        return ""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.2f}M" if parameters >= 1_000_000 else f"{parameters / 1e3:.2f}K"


def _abilities(model: ModelInfo, backend: frozenset[str]) -> list[str]:
    able = model.capabilities if model.capabilities is not None else backend
    return [word for ability, word in _WORDS.items() if ability in able]


def _time(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
