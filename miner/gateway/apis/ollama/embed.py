"""Ollama's `/api/embed`, and `/api/embeddings`, which it replaced."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import EmbeddingResponse
from miner.errors import InvalidRequestError
from miner.gateway.apis.fields import set_fields
from miner.gateway.apis.ollama.convert import required_model
from miner.gateway.apis.ollama.loading import full_name, keep, others_wait
from miner.gateway.apis.ollama.response import Reply
from miner.gateway.apis.ollama.schema import EmbeddingParams, OllamaEmbeddingsRequest, OllamaEmbedRequest
from miner.gateway.body_structure import check_length
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.generation import json_response
from miner.gateway.model_backend import backend_of
from miner.gateway.request_body import decode_body

MAX_INPUTS = 2048
"""Strings of one request at most, as on `/v1/embeddings`."""
_EMBED = msgspec.json.Decoder(OllamaEmbedRequest)
_EMBEDDINGS = msgspec.json.Decoder(OllamaEmbeddingsRequest)


async def embed(context: RequestContext) -> web.StreamResponse:
    """Embed each string of the input; a single empty one gives no vector, as in Ollama."""
    reply, foreign = Reply(""), dict[str, Any]()
    request = await decode_body(context, _EMBED, foreign)
    texts = [request.input] if isinstance(request.input, str) else request.input
    check_length(texts, "input", MAX_INPUTS)
    if len(texts) > 1 and not all(texts):
        raise InvalidRequestError(f"input[{texts.index('')}] is empty.", param=f"input[{texts.index('')}]")
    response = await _embed(context, request, [text for text in texts if text], foreign, reply)
    body: dict[str, Any] = {"model": request.model, "embeddings": response.embeddings}
    if response.data:
        body |= {"total_duration": time.perf_counter_ns() - reply.began, "load_duration": reply.prepared}
        if response.usage is not None and response.usage.prompt_tokens:
            body["prompt_eval_count"] = response.usage.prompt_tokens
    return json_response(context, msgspec.json.encode(body))


async def embeddings(context: RequestContext) -> web.StreamResponse:
    """Embed one prompt."""
    foreign: dict[str, Any] = {}
    request = await decode_body(context, _EMBEDDINGS, foreign)
    response = await _embed(context, request, [request.prompt] if request.prompt else [], foreign, Reply(""))
    return json_response(context, msgspec.json.encode({"embedding": response.embeddings[0] if response.data else []}))


async def _embed(
    context: RequestContext, request: EmbeddingParams, texts: list[str], foreign: dict[str, Any], reply: Reply
) -> EmbeddingResponse:
    service = context.gateway.service
    model = await full_name(context, required_model(request.model))
    # An input that is too long is an error here, never truncated, and an embedding has no sampling.
    keeps = "keep_alive" in (await backend_of(service, model)).capabilities
    ignored = ("truncate",) if keeps else ("truncate", "keep_alive")
    context.ignored += [name for name in ignored if getattr(request, name)]
    if request.options is not None:
        options = set_fields(request.options, request.options.__struct_fields__)
        context.ignored += [f"options.{name}" for name in options]
    await context.start_call(
        Call(arguments=[], model=model, items=len(texts), foreign=foreign, fields=type(request).__struct_fields__)
    )
    info = await service.resolve_model(model)
    if not texts:
        return EmbeddingResponse(data=[])
    if info is not None and info.loaded is False:
        await service.load_model(model)
    reply.is_ready()
    response = await service.embed(texts, model, dimensions=getattr(request, "dimensions", None) or None)
    context.usage = response.usage
    context.note_served(response.model)
    if keeps and request.keep_alive is not None and not await others_wait(service, model):
        await keep(service, model, request.keep_alive)
    return response
