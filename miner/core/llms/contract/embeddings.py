"""The verbs over texts that generate nothing: vectors, rankings, counts. Arguments and answers are checked here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from miner.core.llms.contract.context_length import check_length
from miner.core.llms.contract.retry import Retries, retried
from miner.core.wire import ChatRequest, EmbeddingResponse, ModelInfo, RerankResponse, RerankResult
from miner.errors import BackendProtocolError, InvalidRequestError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

__all__ = ["count_tokens", "embed", "rerank"]

A = TypeVar("A")
T = TypeVar("T")


async def embed(service: LLMService, texts: str | Sequence[str], model: str | None) -> EmbeddingResponse:
    """One vector for each text."""
    given = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Sequence) else None
    if not given or not all(isinstance(text, str) and text for text in given):
        raise InvalidRequestError("texts must be a text or a list of texts, none of them empty.", param="texts")
    return await _asked(
        service,
        lambda: _able_model(service, model, "embeddings", [(text,) for text in given], "texts"),
        lambda info: service._embed(given, info.id if info is not None else model),
    )


async def rerank(
    service: LLMService, query: str, documents: Sequence[str], model: str | None, top_n: int | None
) -> RerankResponse:
    """The documents in the order of their scores, each with its text."""
    if not isinstance(query, str) or not query:
        raise InvalidRequestError("query must be a text that is not empty.", param="query")
    given = list(documents) if isinstance(documents, Sequence) and not isinstance(documents, str) else []
    if not given or not all(isinstance(text, str) and text for text in given):
        raise InvalidRequestError("documents must be a list of texts, none of them empty.", param="documents")
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
        raise InvalidRequestError(f"top_n must be an integer of at least 1, not {top_n!r}.", param="top_n")
    if "rerank" not in service.capabilities:
        raise UnsupportedFeatureError(f"{service.name} does not rerank.", param="rerank")
    answer = await _asked(
        service,
        lambda: _able_model(service, model, "rerank", [(query, text) for text in given], "documents"),
        lambda info: service._rerank(query, given, info.id if info is not None else model, top_n),
    )
    wanted = min(top_n or len(given), len(given))
    found = {result.index: result.relevance_score for result in answer.results}
    if len(found) < max(wanted, len(answer.results)) or not all(0 <= index < len(given) for index in found):
        raise BackendProtocolError(
            f"{service.name} sent {len(answer.results)} scores for {len(given)} documents.", backend=service.name
        )
    best = sorted(found, key=lambda index: (-found[index], index))[:wanted]
    answer.results = [RerankResult(index, found[index], given[index]) for index in best]
    return answer


async def count_tokens(service: LLMService, request: ChatRequest) -> int:
    """Tokens of the prompt as the model gets it."""

    async def resolve() -> ChatRequest:
        found = await service._resolve(request)
        if "count_tokens" not in service.capabilities:
            raise UnsupportedFeatureError(f"{service.name} cannot count tokens.", param="count_tokens")
        return found

    if request.prompt_tokens is not None:
        return len(request.prompt_tokens)
    return await _asked(service, resolve, service._count_tokens)


async def _asked(service: LLMService, find: Callable[[], Awaitable[A]], ask: Callable[[A], Awaitable[T]]) -> T:
    """What the engine answers once the model is found; each is asked again as a generation would be."""
    with service._in_flight.call():
        retries = Retries(service._settings.max_retries)
        found = await retried(service, find, retries)
        return await retried(service, lambda: ask(found), retries)


async def _able_model(
    service: LLMService, model: str | None, ability: str, inputs: Sequence[tuple[str, ...]], param: str
) -> ModelInfo | None:
    """The model behind a name, or behind none, if it can do this with each of these inputs."""
    info = await service.resolve_model(model)
    able = service.capabilities if info is None or info.capabilities is None else info.capabilities
    if ability not in able:
        which = f"{service.name}'s model {info.id!r}" if info is not None else service.name
        raise UnsupportedFeatureError(f"{which} does not support {ability}.", param="model")
    if info is not None:
        context = await service._context_of(info)
        for texts in inputs:
            check_length(texts, context, f"{service.name}'s model {info.id!r}", param)
    return info
