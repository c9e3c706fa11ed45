"""Ollama's `/api/embed`, and `/api/embeddings`, which it replaced."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from miner.core.wire import EmbeddingResponse
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.base import Call
from miner.gateway.apis.ollama.common import OllamaOptions, model_of
from miner.gateway.apis.ollama.loading import full_name
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body

__all__ = ["OllamaEmbedBody", "OllamaEmbeddingsBody", "embed", "embeddings"]

MAX_TEXTS = 2048
"""Texts of one request at most, as on `/v1/embeddings`."""


class _Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    options: OllamaOptions | None = None
    keep_alive: float | str | None = None
    truncate: bool | None = None


class OllamaEmbedBody(_Body, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/embed`."""

    input: str | list[str]
    dimensions: int | None = None


class OllamaEmbeddingsBody(_Body, kw_only=True, forbid_unknown_fields=True):
    """The body of `/api/embeddings`."""

    prompt: str = ""


_EMBED = msgspec.json.Decoder(OllamaEmbedBody)
_EMBEDDINGS = msgspec.json.Decoder(OllamaEmbeddingsBody)


async def embed(context: RequestContext) -> web.StreamResponse:
    """One vector for each text; none for no text, as at Ollama."""
    began = asyncio.get_running_loop().time()
    asked = await decode_body(context, _EMBED)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if len(texts) > MAX_TEXTS:
        raise InvalidRequestError(f"input holds {len(texts)} texts; {MAX_TEXTS} at most.", param="input")
    if len(texts) > 1 and not all(texts):
        raise InvalidRequestError(f"input[{texts.index('')}] is empty.", param=f"input[{texts.index('')}]")
    made = await _vectors(context, asked, [text for text in texts if text])
    if made.data and asked.dimensions not in (None, 0, made.dimensions):
        raise UnsupportedFeatureError(
            f"The vectors of this model have {made.dimensions} dimensions, not {asked.dimensions}.", param="dimensions",
            hint="Leave it out.",
        )  # fmt: skip
    body: dict[str, Any] = {"model": asked.model, "embeddings": made.embeddings}
    if made.data:
        body["total_duration"] = round((asyncio.get_running_loop().time() - began) * 1e9)
        if made.usage is not None and made.usage.prompt_tokens:
            body["prompt_eval_count"] = made.usage.prompt_tokens
    return json_response(context, msgspec.json.encode(body))


async def embeddings(context: RequestContext) -> web.StreamResponse:
    """The vector of one text."""
    asked = await decode_body(context, _EMBEDDINGS)
    made = await _vectors(context, asked, [asked.prompt] if asked.prompt else [])
    return json_response(context, msgspec.json.encode({"embedding": made.embeddings[0] if made.data else []}))


async def _vectors(context: RequestContext, asked: _Body, texts: list[str]) -> EmbeddingResponse:
    model = await full_name(context, model_of(asked.model))
    # A text that is too long is an error here, never cut, and a vector knows no sampling.
    context.ignored += [name for name in ("truncate", "keep_alive") if getattr(asked, name)]
    if asked.options is not None:
        given = msgspec.structs.asdict(asked.options)
        context.ignored += [f"options.{name}" for name, value in given.items() if value is not None]
    await context.enter(Call(arguments=[], model=model, items=len(texts)))
    if not texts:
        await context.gateway.service.resolve_model(model)
        return EmbeddingResponse(data=[])
    made = await context.gateway.service.embed(texts, model)
    context.usage = made.usage
    return made
