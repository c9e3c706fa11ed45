"""OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Any

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError
from miner.gateway.apis.fields import texts_or_tokens
from miner.gateway.apis.openai.response import prompt_usage_object
from miner.gateway.apis.openai.schema import EmbeddingRequest
from miner.gateway.body_structure import check_length
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.field_names import FieldNames
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body

MAX_INPUTS = 2048
"""Strings of one request at most, as at OpenAI."""
_DECODER = msgspec.json.Decoder(EmbeddingRequest)


async def embeddings(context: RequestContext) -> web.StreamResponse:
    """Embed each string of the input."""
    foreign: dict[str, Any] = {}
    request = await decode_body(context, _DECODER, foreign)
    texts = texts_or_tokens(request.input, "input")
    if not all(texts):
        raise InvalidRequestError(f"input[{texts.index('')}] is empty.", param=f"input[{texts.index('')}]")
    check_length(texts, "input", MAX_INPUTS)
    if request.encoding_format not in (None, "float", "base64"):
        raise InvalidRequestError(
            f"encoding_format must be 'float' or 'base64', not {request.encoding_format!r}.", param="encoding_format"
        )
    call = Call(
        arguments=[],
        model=request.model,
        items=len(texts),
        foreign=foreign,
        fields=EmbeddingRequest.__struct_fields__,
        names=FieldNames({"texts": "input", "prompt": "input"}),
    )
    await context.start_call(call)
    with call.names.translate_errors():
        response = await context.gateway.service.embed(texts, request.model, dimensions=request.dimensions)
    context.usage = response.usage
    context.note_served(response.model)
    packed = request.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": item.index, "embedding": _packed(item.embedding) if packed else item.embedding}
        for item in response.data
    ]
    body = {
        "object": "list",
        "data": data,
        "model": response.model or request.model or context.gateway.service.name,
        "usage": prompt_usage_object(response.usage),
    }
    return json_response(context, msgspec.json.encode(body))


def _packed(vector: list[float]) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
