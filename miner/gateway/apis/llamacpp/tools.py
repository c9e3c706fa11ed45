"""llama.cpp's routes that generate nothing: tokens, templates, vectors, ranks, and the server itself."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import ModelInfo, TokenUsage
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.llamacpp.native import backend_of, model_of, object_of, own_errors
from miner.gateway.apis.openai.models import models as openai_models
from miner.gateway.catalog import known_models
from miner.gateway.context import Handler, RequestContext
from miner.gateway.dialect import Call
from miner.gateway.endpoints.health import not_ready
from miner.gateway.errors import public
from miner.gateway.generation import json_response

_SLOT_FIELDS = ("id", "id_task", "n_ctx", "speculative", "is_processing", "next_token")
"""Of a slot: not whose prompt it computes."""


def native(path: str) -> Handler:
    """The handler of a route that passes its body on.

    Args:
        path: the engine's.
    """

    async def handle(context: RequestContext) -> web.StreamResponse:
        body = await object_of(context)
        model = model_of(body)
        await context.start_call(Call(arguments=[], model=model, items=_items(body)))
        with own_errors():
            response = await backend_of(context).native(path, body, model)
        context.usage = _usage(response)
        return json_response(context, response)

    return handle


async def tokenize(context: RequestContext) -> web.StreamResponse:
    """The tokens of a text in llama.cpp's form, on another backend that tells them (vLLM)."""
    body = await object_of(context)
    model = model_of(body)
    text: Any = body.get("content")
    await context.start_call(Call(arguments=[], model=model))
    try:
        tokens = await context.gateway.service.tokenize(text, model, special=body.get("add_special") is True)
    except UnsupportedFeatureError as error:
        if error.param != "text":
            raise
        with own_errors():  # as for the other routes
            return json_response(context, await backend_of(context).native("/tokenize", body, model))
    except InvalidRequestError as error:
        if error.param == "text":
            error.param, error.message = "content", error.message.replace("text", "content", 1)
        raise
    pieces = [{"id": token.id, "piece": token.bytes or token.piece} for token in tokens]
    listed = pieces if body.get("with_pieces") is True else [token.id for token in tokens]
    return json_response(context, msgspec.json.encode({"tokens": listed}))


async def props(context: RequestContext) -> web.StreamResponse:
    """The properties of a model's engine. In which directory its file is, only admins see."""
    found = msgspec.json.decode(await _get(context, "/props"))
    if isinstance(found, dict) and not context.caller.admin:
        for name, value in found.items():
            if name.endswith("_path") and isinstance(value, str):
                found[name] = value.replace("\\", "/").rpartition("/")[2]
    return json_response(context, msgspec.json.encode(found))


async def slots(context: RequestContext) -> web.StreamResponse:
    """What the slots of a model's engine do."""
    query = "?fail_on_no_slot=1" if context.request.query.get("fail_on_no_slot") else ""
    found = msgspec.json.decode(await _get(context, f"/slots{query}"))
    listed = [{name: slot[name] for name in _SLOT_FIELDS if name in slot} for slot in found]
    return json_response(context, msgspec.json.encode(listed))


async def models(context: RequestContext) -> web.StreamResponse:
    """List the models that this caller may use, each once, with what its file says."""
    if context.gateway.service.native_backend is None:
        return await openai_models(context)
    known = await known_models(context)
    data = [
        {
            "id": model.id, "aliases": model.aliases, "tags": [], "object": "model", "created": model.created or 0,
            "owned_by": context.gateway.service.backend_of(model.id).name, "meta": _meta(model),
        }
        for model in known
    ]  # fmt: skip
    listed = [{"name": model.id, "model": model.id, "capabilities": _capabilities(model)} for model in known]
    return json_response(context, msgspec.json.encode({"models": listed, "object": "list", "data": data}))


def _meta(model: ModelInfo) -> dict[str, int]:
    found = {
        "n_ctx": model.context_length, "n_embd": model.dimensions, "n_params": model.parameters, "size": model.size
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def _capabilities(model: ModelInfo) -> list[str]:
    able = model.capabilities or ("chat",)
    return ["completion"] if "chat" in able else ["embedding"]


async def lora_adapters(context: RequestContext) -> web.StreamResponse:
    """The adapters of a model's engine, without their paths."""
    found = msgspec.json.decode(await _get(context, "/lora-adapters"))
    listed = [{name: value for name, value in adapter.items() if name != "path"} for adapter in found]
    return json_response(context, msgspec.json.encode(listed))


async def health(context: RequestContext) -> web.StreamResponse:
    """Whether a request could be served now."""
    problem = await not_ready(context.gateway)
    if problem is None:
        return json_response(context, b'{"status":"ok"}')
    error = {"code": 503, "message": public(problem.reason), "type": "unavailable_error"}
    return json_response(context, msgspec.json.encode({"error": error}), 503)


async def _get(context: RequestContext, path: str) -> bytes:
    model = context.request.query.get("model") or None
    await context.start_call(Call(arguments=[], model=model))
    with own_errors():
        return await backend_of(context).native(path, None, model)


def _items(body: dict[str, Any]) -> int:
    """Texts to embed or rank."""
    for name in ("input", "content", "documents", "texts"):
        texts = body.get(name)
        if isinstance(texts, list) and texts and type(texts[0]) is not int:
            return len(texts)
    return 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Counted(msgspec.Struct):
    usage: _Usage | None = None


def _usage(response: bytes) -> TokenUsage | None:
    """The usage of a response that has one."""
    try:
        usage = msgspec.json.decode(response, type=_Counted).usage
    except msgspec.DecodeError:
        return None
    return None if usage is None else TokenUsage(usage.prompt_tokens, 0, usage.prompt_tokens)
