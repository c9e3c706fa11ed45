"""`/v1/rerank`, in the form that Jina, Cohere and vLLM share."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.apis.openai.response import prompt_usage_object
from miner.gateway.apis.openai.schema import RerankRequest
from miner.gateway.context import RequestContext
from miner.gateway.dialect import Call
from miner.gateway.generation import json_response
from miner.gateway.request_body import decode_body

MAX_DOCUMENTS = 1024
"""Documents of one request at most."""
_DECODER = msgspec.json.Decoder(RerankRequest)


async def rerank(context: RequestContext) -> web.StreamResponse:
    """Sort documents by their relevance to a query."""
    foreign: dict[str, Any] = {}
    request = await decode_body(context, _DECODER, foreign)
    texts = [_text(one, place) for place, one in enumerate(request.documents)]
    if not request.query or not texts or len(texts) > MAX_DOCUMENTS:
        raise InvalidRequestError(f"A query and 1 to {MAX_DOCUMENTS} documents are required.", param="documents")
    service = context.gateway.service
    await context.start_call(
        Call(
            arguments=[], model=request.model, items=len(texts), foreign=foreign, fields=RerankRequest.__struct_fields__
        )
    )
    try:
        ranking = await service.rerank(request.query, texts, request.model, request.top_n)
    except UnsupportedFeatureError as error:
        if error.param == "rerank":
            error.param = "model"  # the client's field that selects the backend's model
        raise
    context.usage = ranking.usage
    context.note_served(ranking.model)
    results: list[dict[str, Any]] = [
        {"index": one.index, "relevance_score": one.relevance_score} for one in ranking.results
    ]
    if request.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    body = {
        "id": f"rerank-{context.id}",
        "model": ranking.model or request.model or service.name,
        "results": results,
        "usage": prompt_usage_object(ranking.usage),
    }
    return json_response(context, msgspec.json.encode(body))


def _text(document: str | dict[str, Any], place: int) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str) or not text:
        raise InvalidRequestError(f"documents[{place}] must be a non-empty string.", param=f"documents[{place}]")
    return text
