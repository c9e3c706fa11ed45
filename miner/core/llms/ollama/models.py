"""What Ollama says of its models: lists, abilities, vectors."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import ModelInfo

__all__ = [
    "FEATURES",
    "decode_any",
    "decode_embeddings",
    "decode_show",
    "decode_tags",
    "info_of_show",
    "info_of_tag",
]

FEATURES = frozenset(
    """chat tools json_object json_schema reasoning logprobs seed embeddings images stop top_k min_p repeat_penalty
    presence_penalty frequency_penalty parallel_tool_calls response_format timeout keep_alive raw extra""".split()
)
"""What Ollama can do at all."""
_OF_MODEL = {"tools": "tools", "thinking": "reasoning", "vision": "images", "embedding": "embeddings"}
"""Ollama's word for a model's ability, and ours."""


class _Details(msgspec.Struct):
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: int | None = None


class _Tag(msgspec.Struct):
    name: str
    size: int | None = None
    digest: str | None = None
    details: _Details = msgspec.field(default_factory=_Details)
    remote_host: str | None = None


class _Tags(msgspec.Struct):
    models: list[_Tag] = []


class _Show(msgspec.Struct):
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


def info_of_tag(tag: _Tag) -> ModelInfo:
    """What the list of models tells of one. It does not say what the model can do."""
    return ModelInfo(
        id=tag.name,
        aliases=[tag.name.removesuffix(":latest")] if tag.name.endswith(":latest") else [],
        context_length=tag.details.context_length,
        size=tag.size,
        quantization=tag.details.quantization_level,
        architecture=tag.details.family,
        digest=tag.digest,
    )


def info_of_show(name: str, told: _Show) -> ModelInfo:
    """What `/api/show` tells of a model."""
    architecture = told.model_info.get("general.architecture")
    abilities = {_OF_MODEL[word] for word in told.capabilities if word in _OF_MODEL}
    able = (FEATURES - set(_OF_MODEL.values())) | abilities
    if "completion" not in told.capabilities and told.capabilities:
        able = frozenset(abilities | {"timeout", "keep_alive", "extra"})
    return ModelInfo(
        id=name,
        context_length=told.model_info.get(f"{architecture}.context_length"),
        dimensions=told.model_info.get(f"{architecture}.embedding_length"),
        parameters=told.model_info.get("general.parameter_count"),
        quantization=told.details.quantization_level,
        architecture=architecture,
        capabilities=frozenset(able),
    )
