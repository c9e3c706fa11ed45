"""`/v1/rerank`, in the shape that Jina, Cohere and vLLM share: documents by how well they answer a query."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.base import Call
from miner.gateway.apis.openai.common import read_usage
from miner.gateway.context import RequestContext
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body

__all__ = ["RerankBody", "rerank"]

MAX_DOCUMENTS = 1024
"""Documents of one request at most."""


class RerankBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a request for a ranking."""

    query: str
    documents: list[str | dict[str, Any]]
    """Texts, or objects with `text`."""
    model: str | None = None
    top_n: int | None = None
    return_documents: bool = True


_DECODER = msgspec.json.Decoder(RerankBody)


async def rerank(context: RequestContext) -> web.StreamResponse:
    """The documents in the order of their scores."""
    asked = await decode_body(context, _DECODER)
    texts = [_text(one, place) for place, one in enumerate(asked.documents)]
    if not asked.query or not texts or len(texts) > MAX_DOCUMENTS:
        raise InvalidRequestError(f"query and 1 to {MAX_DOCUMENTS} documents are needed.", param="documents")
    service = context.gateway.service
    await context.enter(Call(arguments=[], model=asked.model, items=len(texts)))
    try:
        made = await service.rerank(asked.query, texts, asked.model, asked.top_n)
    except UnsupportedFeatureError as error:
        if error.param == "rerank":
            error.param = "model"  # the client's field that chooses who is asked
        raise
    context.usage = made.usage
    results: list[dict[str, Any]] = [
        {"index": one.index, "relevance_score": one.relevance_score} for one in made.results
    ]
    if asked.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    body = {
        "id": f"rerank-{context.id}",
        "model": made.model or asked.model or service.name,
        "results": results,
        "usage": read_usage(made.usage),
    }
    return json_response(context, msgspec.json.encode(body))


def _text(document: str | dict[str, Any], place: int) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str) or not text:
        raise InvalidRequestError(f"documents[{place}] must be a text that is not empty.", param=f"documents[{place}]")
    return text
