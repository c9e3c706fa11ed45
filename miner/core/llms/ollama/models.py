"""Ollama's responses about models: lists, capabilities, embeddings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from miner.core.wire import ModelInfo

FEATURES = frozenset(
    """chat tools json_object json_schema reasoning logprobs seed embeddings images stop top_k min_p repeat_penalty
    presence_penalty frequency_penalty parallel_tool_calls response_format timeout keep_alive raw suffix
    context
    extra""".split()
)
"""What Ollama supports; a model may support less."""
_MODEL_CAPABILITIES = {
    "tools": "tools", "thinking": "reasoning", "vision": "images", "embedding": "embeddings", "insert": "suffix",
}  # fmt: skip
"""Ollama's name of a model's capability -> ours."""


class _Details(msgspec.Struct):
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: int | None = None


class _Tag(msgspec.Struct):
    name: str
    modified_at: str | None = None
    size: int | None = None
    digest: str | None = None
    details: _Details = msgspec.field(default_factory=_Details)
    remote_host: str | None = None


class _Tags(msgspec.Struct):
    models: list[_Tag] = []


class _Show(msgspec.Struct):
    modified_at: str | None = None
    details: _Details = msgspec.field(default_factory=_Details)
    model_info: dict[str, Any] = {}
    capabilities: list[str] = []
    remote_model: str | None = None
    remote_host: str | None = None


class _Embeddings(msgspec.Struct):
    embeddings: list[list[float]] = []
    prompt_eval_count: int = 0


decode_tags = msgspec.json.Decoder(_Tags).decode
decode_show = msgspec.json.Decoder(_Show).decode
decode_any = msgspec.json.Decoder(dict[str, Any]).decode
decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


def tag_of(entry: dict[str, Any]) -> _Tag:
    """An entry of `/api/ps`, which has the fields of one of `/api/tags`.

    Raises:
        msgspec.ValidationError: it has not.
    """
    return msgspec.convert(entry, _Tag)


def info_of_tag(tag: _Tag) -> ModelInfo:
    """Map an entry of `/api/tags`, which does not name capabilities."""
    return ModelInfo(
        id=tag.name,
        aliases=[tag.name.removesuffix(":latest")] if tag.name.endswith(":latest") else [],
        context_length=tag.details.context_length,
        trained_context_length=tag.details.context_length,
        size=tag.size,
        quantization=tag.details.quantization_level,
        architecture=tag.details.family,
        created=_seconds(tag.modified_at),
        digest=tag.digest,
    )


def _seconds(stamp: str | None) -> int | None:
    """Seconds since 1970; None for no date, and for Go's zero time, which is of the year 1."""
    try:
        seconds = int(msgspec.convert(stamp, datetime).timestamp()) if stamp else 0
    except (msgspec.ValidationError, OverflowError):
        return None
    return seconds if seconds > 0 else None


def info_of_show(name: str, show: _Show) -> ModelInfo:
    """Map a response of `/api/show`."""
    architecture = show.model_info.get("general.architecture")
    supported = {_MODEL_CAPABILITIES[word] for word in show.capabilities if word in _MODEL_CAPABILITIES}
    capabilities = (FEATURES - set(_MODEL_CAPABILITIES.values())) | supported
    if "completion" not in show.capabilities and show.capabilities:
        capabilities = frozenset(supported | {"timeout", "keep_alive", "extra"})
    return ModelInfo(
        id=name,
        context_length=show.model_info.get(f"{architecture}.context_length"),
        trained_context_length=show.model_info.get(f"{architecture}.context_length"),
        dimensions=show.model_info.get(f"{architecture}.embedding_length"),
        parameters=show.model_info.get("general.parameter_count"),
        quantization=show.details.quantization_level,
        architecture=architecture,
        capabilities=frozenset(capabilities),
        created=_seconds(show.modified_at),
    )
