"""Responses of `/models`, `/embeddings`, `/rerank` and `/tokenize` of an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from miner.core.llms.contract.capabilities import CAPABILITIES
from miner.core.wire import Embedding, EmbeddingResponse, ModelInfo, RerankResponse, RerankResult, Token, TokenUsage
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
    capabilities: Any = None
    """A gateway of miner says them; what others have under this name is in words of their own."""
    loaded: Any = None
    """False where a gateway of miner has yet to load it; other servers list what they have loaded."""
    default: Any = None
    """True where a gateway of miner takes it for requests that name none."""
    meta: _Meta | None = None


class _Piece(msgspec.Struct):
    id: int
    piece: str | list[int]


class _Tokens(msgspec.Struct):
    tokens: list[int | _Piece]
    token_strs: list[str] | None = None
    """vLLM's."""


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


def once_each(models: Sequence[ModelInfo]) -> list[ModelInfo]:
    """Without those that are another name of one before: a gateway of miner lists each name of a model."""
    aliases: set[str] = set()
    kept = []
    for model in models:
        if model.id not in aliases:
            kept.append(model)
            aliases.update(model.aliases)
    return kept


def _info(model: _Model) -> ModelInfo:
    meta = model.meta or _Meta()
    return ModelInfo(
        id=model.id,
        aliases=[alias for alias in model.aliases if alias != model.id],
        context_length=model.max_model_len or meta.n_ctx,
        capabilities=_capabilities(model.capabilities),
        created=model.created,
        owned_by=model.owned_by,
        size=meta.size,
        parameters=meta.n_params,
        quantization=meta.ftype,
        dimensions=meta.n_embd,
        loaded=model.loaded is not False,
        default=True if model.default is True else None,
    )


def _capabilities(listed: Any) -> frozenset[str] | None:
    """Those that a gateway of miner lists; None: another server's, or none."""
    if not isinstance(listed, list) or not listed or not all(isinstance(word, str) for word in listed):
        return None
    return frozenset(listed) if CAPABILITIES.issuperset(listed) else None


def read_tokens(raw: bytes, backend: str) -> list[Token]:
    """Return the tokens of a `/tokenize` response, llama.cpp's or vLLM's.

    Raises:
        BackendProtocolError: it is malformed.
    """
    try:
        response = msgspec.json.decode(raw, type=_Tokens)
    except msgspec.DecodeError as error:
        raise BackendProtocolError(f"{backend} sent no tokens: {error}.", backend=backend) from error
    texts = response.token_strs or []
    if texts and len(texts) == len(response.tokens):
        return [
            Token(token.id if isinstance(token, _Piece) else token, text)
            for token, text in zip(response.tokens, texts, strict=True)
        ]
    return [_token(token) for token in response.tokens]


def _token(token: int | _Piece) -> Token:
    if isinstance(token, int):
        return Token(token)
    if isinstance(token.piece, str):
        return Token(token.id, token.piece)
    return Token(token.id, bytes(token.piece).decode(errors="replace"), token.piece)


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
