"""The request bodies of llama.cpp's own routes, for the OpenAPI document: their main fields.

The engine checks them all, and knows many more (tools/server/README.md of llama.cpp).
"""

from __future__ import annotations

from typing import Any

import msgspec


class NativeCompletionRequest(msgspec.Struct, kw_only=True):
    """The body of `/completion`."""

    prompt: Any
    """A string, token ids, an array of both, or an array of prompts."""
    model: str | None = None
    n_predict: int | None = None
    stream: bool | None = None
    temperature: float | None = None
    seed: int | None = None
    n_probs: int | None = None
    grammar: str | None = None
    json_schema: Any = None
    id_slot: int | None = None
    cache_prompt: bool | None = None
    return_progress: bool | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None


class InfillRequest(msgspec.Struct, kw_only=True):
    """The body of `/infill`, which takes the fields of `/completion` too."""

    input_prefix: str
    input_suffix: str
    prompt: str | None = None
    """Text at the gap's beginning."""
    input_extra: list[dict[str, Any]] | None = None
    """Other files: objects with `filename` and `text`."""
    model: str | None = None
    n_predict: int | None = None
    stream: bool | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of `/tokenize`."""

    content: str
    model: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of `/detokenize`."""

    tokens: list[int]
    model: str | None = None


class ApplyTemplateRequest(msgspec.Struct, kw_only=True):
    """The body of `/apply-template`."""

    messages: list[dict[str, Any]]
    model: str | None = None
    tools: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class NativeEmbeddingRequest(msgspec.Struct, kw_only=True):
    """The body of `/embedding`."""

    content: Any = None
    """A string, an array of strings, or token ids."""
    input: Any = None
    """The same."""
    model: str | None = None
    embd_normalize: int | None = None


class NativeRerankRequest(msgspec.Struct, kw_only=True):
    """The body of `/rerank`."""

    query: str
    documents: list[str] | None = None
    texts: list[str] | None = None
    """The same, in the form of Hugging Face's text-embeddings-inference."""
    model: str | None = None
    top_n: int | None = None
