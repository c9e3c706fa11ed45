"""Embeddings, reranking and tokens: arguments and responses checked for every backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from miner.core.llms.contract.backend import Backend
from miner.core.llms.contract.resolution import add_context_length, model_for_texts, resolve
from miner.core.llms.contract.retry import Retries
from miner.core.llms.contract.vectors import Texts
from miner.core.wire import ChatRequest, EmbeddingResponse, ModelInfo, RerankResponse, RerankResult, Token
from miner.errors import BackendProtocolError, ContextLengthError, InvalidRequestError, UnsupportedFeatureError

A = TypeVar("A")
T = TypeVar("T")


async def embed(backend: Backend, texts: Texts, model: str | None, dimensions: int | None = None) -> EmbeddingResponse:
    """Return one vector for each text."""
    inputs = _inputs(texts)
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise InvalidRequestError(
            f"dimensions must be an integer of at least 1, not {dimensions!r}.", param="dimensions"
        )
    response = await resolve_then_send(
        backend,
        lambda: model_for_texts(backend, model, "embeddings", [(text,) for text in inputs], "texts"),
        lambda info: _send(backend, inputs, info.id if info is not None else model, dimensions),
    )
    if dimensions is not None and response.dimensions != dimensions:
        raise UnsupportedFeatureError(
            f"The embeddings of this model have {response.dimensions} dimensions, not {dimensions}.",
            param="dimensions", hint="Send fewer, or leave it out.",
        )  # fmt: skip
    return response


def _inputs(texts: Any) -> list[Any]:
    """The texts, each a string or a list of token ids."""
    inputs: list[Any] = [texts] if isinstance(texts, str) or _are_tokens(texts) else texts
    if isinstance(inputs, Sequence) and inputs:
        if all(isinstance(text, str) and text for text in inputs):
            return list(inputs)
        if all(_are_tokens(text) for text in inputs):
            return [list(tokens) for tokens in inputs]
    raise InvalidRequestError(
        "texts must be a string, a list of strings, a list of token ids or a list of such lists, none of them empty.",
        param="texts",
    )


def _are_tokens(text: Any) -> bool:
    tokens = isinstance(text, (list, tuple)) and bool(text) and all(type(token) is int for token in text)
    if tokens and not all(0 <= token < 2**31 for token in text):
        raise InvalidRequestError("texts has token ids that no model has: they are from 0 on.", param="texts")
    return tokens


async def _send(backend: Backend, inputs: list[Any], model: str | None, dimensions: int | None) -> EmbeddingResponse:
    if dimensions is None:
        return await backend._embed(inputs, model)
    return await backend._embed_short(inputs, model, dimensions)


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


async def count_tokens(backend: Backend, request: ChatRequest) -> int:
    """Return the tokens of the request's prompt, its chat template included."""
    if request.prompt_tokens is not None:
        return len(request.prompt_tokens)

    async def resolved() -> ChatRequest:
        ready = await resolve(backend, request)
        if "count_tokens" not in backend.capabilities:
            raise UnsupportedFeatureError(f"{backend.name} cannot count tokens.", param="count_tokens")
        return ready

    return await resolve_then_send(backend, resolved, backend._count_tokens)


async def tokenize(backend: Backend, text: str, model: str | None, *, special: bool) -> list[Token]:
    """Return the tokens of a text."""
    if not isinstance(text, str) or not text:
        raise InvalidRequestError("text must be a string that is not empty.", param="text")
    return await resolve_then_send(
        backend,
        lambda: backend.resolve_model(model),
        lambda info: backend._tokenize(text, info.id if info is not None else model, special=special),
    )


async def resolve_then_send(
    backend: Backend, resolving: Callable[[], Awaitable[A]], send: Callable[[A], Awaitable[T]]
) -> T:
    """Resolve, then send, each with retries, as for a generation; return the result of `send`."""
    with backend._in_flight.call():
        retries = Retries(backend)
        resolved = await retries.run(resolving)
        try:
            return await retries.run(lambda: send(resolved))
        except ContextLengthError as error:
            info = resolved.resolution.model if isinstance(resolved, ChatRequest) else resolved
            add_context_length(error, info if isinstance(info, ModelInfo) else None)
            raise
