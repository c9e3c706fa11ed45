"""Embeddings and reranking: arguments and responses checked for every backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.resolution import add_context_length, model_for_texts
from miner.core.llms.contract.retry import Retries
from miner.core.wire import ChatRequest, EmbeddingResponse, ModelInfo, RerankResponse, RerankResult
from miner.errors import BackendProtocolError, ContextLengthError, InvalidRequestError, UnsupportedFeatureError

A = TypeVar("A")
T = TypeVar("T")


async def embed(backend: Backend, texts: str | Sequence[str], model: str | None) -> EmbeddingResponse:
    """Return one vector for each text."""
    inputs = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Sequence) else None
    if not inputs or not all(isinstance(text, str) and text for text in inputs):
        raise InvalidRequestError("texts must be a string or a list of strings, none of them empty.", param="texts")
    return await resolve_then_send(
        backend,
        lambda: model_for_texts(backend, model, "embeddings", [(text,) for text in inputs], "texts"),
        lambda info: backend._embed(inputs, info.id if info is not None else model),
    )


async def rerank(
    backend: Backend, query: str, documents: Sequence[str], model: str | None, top_n: int | None
) -> RerankResponse:
    """Return the documents in the order of their scores, each with its text."""
    if not isinstance(query, str) or not query:
        raise InvalidRequestError("query must be a string that is not empty.", param="query")
    texts = list(documents) if isinstance(documents, Sequence) and not isinstance(documents, str) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequestError("documents must be a list of strings, none of them empty.", param="documents")
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
        raise InvalidRequestError(f"top_n must be an integer of at least 1, not {top_n!r}.", param="top_n")
    if "rerank" not in backend.capabilities:
        raise UnsupportedFeatureError(f"{backend.name} does not rerank.", param="rerank")
    response = await resolve_then_send(
        backend,
        lambda: model_for_texts(backend, model, "rerank", [(query, text) for text in texts], "documents"),
        lambda info: backend._rerank(query, texts, info.id if info is not None else model, top_n),
    )
    wanted = min(top_n or len(texts), len(texts))
    scores = {result.index: result.relevance_score for result in response.results}
    if len(scores) < max(wanted, len(response.results)) or not all(0 <= index < len(texts) for index in scores):
        raise BackendProtocolError(
            f"{backend.name} sent {len(response.results)} scores for {len(texts)} documents.", backend=backend.name
        )
    best = sorted(scores, key=lambda index: (-scores[index], index))[:wanted]
    response.results = [RerankResult(index, scores[index], texts[index]) for index in best]
    return response


async def resolve_then_send(
    backend: Backend, resolve: Callable[[], Awaitable[A]], send: Callable[[A], Awaitable[T]]
) -> T:
    """Resolve, then send, each with retries, as for a generation; return the result of `send`."""
    with backend._in_flight.call():
        retries = Retries(backend)
        resolved = await retries.run(resolve)
        try:
            return await retries.run(lambda: send(resolved))
        except ContextLengthError as error:
            info = resolved.resolution.model if isinstance(resolved, ChatRequest) else resolved
            add_context_length(error, info if isinstance(info, ModelInfo) else None)
            raise
