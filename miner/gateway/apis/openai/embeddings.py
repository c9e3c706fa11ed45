"""OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Any

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.base import Call
from miner.gateway.apis.openai.common import read_usage
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body

__all__ = ["EmbeddingBody", "embeddings"]

MAX_TEXTS = 2048
"""Texts of one request at most, as at OpenAI."""


class EmbeddingBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a request for embeddings."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: str | None = None
    """float or base64 (of little-endian 32-bit floats)."""
    dimensions: int | None = None
    user: str | None = None


_DECODER = msgspec.json.Decoder(EmbeddingBody)


async def embeddings(context: RequestContext) -> web.StreamResponse:
    """One vector for each text."""
    asked = await decode_body(context, _DECODER)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequestError(
            "input must be a text or a list of texts, none of them empty: token ids are not taken.", param="input"
        )
    if len(texts) > MAX_TEXTS:
        raise InvalidRequestError(f"input holds {len(texts)} texts; {MAX_TEXTS} at most.", param="input")
    if asked.encoding_format not in (None, "float", "base64"):
        raise InvalidRequestError(
            f"encoding_format must be float or base64, not {asked.encoding_format!r}.", param="encoding_format"
        )
    await context.enter(Call(arguments=[], model=asked.model, items=len(texts)))
    made = await context.gateway.service.embed(texts, asked.model)
    if asked.dimensions not in (None, made.dimensions):
        raise UnsupportedFeatureError(
            f"The vectors of this model have {made.dimensions} dimensions, not {asked.dimensions}.", param="dimensions",
            hint="Leave it out.",
        )  # fmt: skip
    context.usage = made.usage
    packed = asked.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": item.index,
            "embedding": _packed(item.embedding) if packed else item.embedding,
        }
        for item in made.data
    ]
    body = {
        "object": "list",
        "data": data,
        "model": made.model or asked.model or context.gateway.service.name,
        "usage": read_usage(made.usage),
    }
    return json_response(context, msgspec.json.encode(body))


def _packed(vector: list[float]) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
