"""Responses of `/models`, `/embeddings` and `/rerank` of an OpenAI-compatible server."""

from __future__ import annotations

import msgspec

from miner.core.wire import Embedding, EmbeddingResponse, ModelInfo, RerankResponse, RerankResult, TokenUsage
from miner.errors import BackendProtocolError


class _Meta(msgspec.Struct):
    """llama.cpp's extension."""

    n_ctx: int | None = None
    n_params: int | None = None
    n_embd: int | None = None
    size: int | None = None
    ftype: str | None = None


class _Model(msgspec.Struct):
    id: str
    aliases: list[str] = []
    root: str | None = None
    max_model_len: int | None = None
    created: int | None = None
    owned_by: str | None = None
    meta: _Meta | None = None


class _ModelList(msgspec.Struct):
    data: list[_Model]


class _Embeddings(msgspec.Struct):
    data: list[Embedding]
    usage: TokenUsage | None = None


class _Score(msgspec.Struct):
    index: int
    relevance_score: float


class _Scores(msgspec.Struct):
    results: list[_Score]
    usage: TokenUsage | None = None


def read_models(raw: bytes) -> tuple[list[ModelInfo], bool]:
    """Return the models of a `/models` response, and whether all are names of one model: vLLM lists a model once for
    each of its names, all with the same root.

    Raises:
        msgspec.DecodeError: it is not a list of models.
    """
    models = msgspec.json.decode(raw, type=_ModelList).data
    return [_info(model) for model in models], len({model.root or model.id for model in models}) == 1


def _info(model: _Model) -> ModelInfo:
    meta = model.meta or _Meta()
    return ModelInfo(
        id=model.id,
        aliases=[alias for alias in model.aliases if alias != model.id],
        context_length=model.max_model_len or meta.n_ctx,
        created=model.created,
        owned_by=model.owned_by,
        size=meta.size,
        parameters=meta.n_params,
        quantization=meta.ftype,
        dimensions=meta.n_embd,
        loaded=True,
    )


def read_embeddings(raw: bytes, texts: list[str], model: str | None, backend: str) -> EmbeddingResponse:
    """Return the embeddings of an `/embeddings` response, in the order of the texts.

    Raises:
        BackendProtocolError: it is malformed, or does not hold one for each text.
    """
    try:
        response = msgspec.json.decode(raw, type=_Embeddings)
    except msgspec.DecodeError as error:
        raise BackendProtocolError(f"{backend} sent no embeddings: {error}.", backend=backend) from error
    embeddings = sorted(response.data, key=lambda item: item.index)
    if [item.index for item in embeddings] != list(range(len(texts))):
        raise BackendProtocolError(
            f"{backend} sent {len(embeddings)} embeddings for {len(texts)} texts.", backend=backend
        )
    return EmbeddingResponse(data=embeddings, model=model, usage=response.usage)


def read_scores(raw: bytes, model: str | None, backend: str) -> RerankResponse:
    """Return the scores of a `/rerank` response, as in Jina's API.

    Raises:
        BackendProtocolError: it is malformed.
    """
    try:
        response = msgspec.json.decode(raw, type=_Scores)
    except msgspec.DecodeError as error:
        raise BackendProtocolError(f"{backend} sent no scores: {error}.", backend=backend) from error
    results = [RerankResult(item.index, item.relevance_score) for item in response.results]
    return RerankResponse(results=results, model=model, usage=response.usage)
