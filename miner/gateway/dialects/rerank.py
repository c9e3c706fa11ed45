"""`/v1/rerank`, in the shape that Jina, Cohere and vLLM share: documents by how well they answer a query."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import msgspec
from aiohttp import web

from miner.core.llms.registry import find_backends
from miner.errors import InvalidRequestError
from miner.gateway.body import decode, read_body
from miner.gateway.dialects.base import Call
from miner.gateway.errors import RefusedError
from miner.gateway.exchange import Exchange
from miner.gateway.reply import json_response

__all__ = ["RerankBody", "Reranker", "rerank"]

MAX_DOCUMENTS = 1024
"""Documents of one request at most."""


@runtime_checkable
class Reranker(Protocol):
    """A service that can compare texts with a query."""

    async def rerank(self, query: str, documents: list[str], model: str | None = None) -> list[float]:
        """How well each document answers the query, the higher the better; in the documents' order."""


class RerankBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a request for a ranking."""

    query: str
    documents: list[str | dict[str, Any]]
    """Texts, or objects with `text`."""
    model: str | None = None
    top_n: int | None = None
    return_documents: bool = True


_DECODER = msgspec.json.Decoder(RerankBody)


async def rerank(exchange: Exchange) -> web.StreamResponse:
    """The documents in the order of their scores."""
    asked = decode(await read_body(exchange), _DECODER)
    texts = [_text(one, place) for place, one in enumerate(asked.documents)]
    if not asked.query or not texts or len(texts) > MAX_DOCUMENTS:
        raise InvalidRequestError(f"query and 1 to {MAX_DOCUMENTS} documents are needed.", param="documents")
    service = exchange.gateway.service
    if not isinstance(service, Reranker):
        able = [backend.name for backend in find_backends(service.config) if _can(backend.cls)]
        hint = f"These backends can: {', '.join(able)}." if able else "No installed backend can."
        raise RefusedError(501, "unsupported_feature", f"{service.name} does not rerank.", hint=hint)
    await exchange.enter(Call(arguments=[], model=asked.model))
    scores = await service.rerank(asked.query, texts, asked.model)
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: asked.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if asked.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    body = {"id": f"rerank-{exchange.id}", "model": asked.model or service.name, "results": results}
    return json_response(exchange, msgspec.json.encode(body))


def _text(document: str | dict[str, Any], place: int) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str) or not text:
        raise InvalidRequestError(f"documents[{place}] must be a text that is not empty.", param=f"documents[{place}]")
    return text


def _can(cls: type | None) -> bool:
    return cls is not None and issubclass(cls, Reranker)
