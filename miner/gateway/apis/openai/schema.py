"""The request bodies of OpenAI's API, as structs: an unknown field is refused by its name."""

from __future__ import annotations

from typing import Any

import msgspec


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Additions to a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """OpenAI's padding against traffic analysis: accepted without effect."""
    continuous_usage_stats: bool | None = None


class CommonParams(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The parameters that completions and responses share, and those that local engines add."""

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None

    top_k: int | None = None
    """0 or -1: off."""
    min_p: float | None = None
    repeat_penalty: float | None = None
    keep_alive: float | str | None = None
    """How long the model stays loaded after the request, where the engine supports that."""
    timeout: float | None = None
    """Seconds for the entire request."""
    unsupported: str | None = None
    """`ignore`: drop what the backend does not support and list it in `x-miner-ignored-params`; `error`: refuse it."""


class SamplingParams(CommonParams, kw_only=True, forbid_unknown_fields=True):
    """The parameters that both kinds of completions share."""

    max_tokens: int | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    repetition_penalty: float | None = None
    """Alias of repeat_penalty."""
    structured_outputs: dict[str, Any] | None = None
    """vLLM's: one of json, json_object, regex, choice and grammar, in the place of response_format."""
    guided_json: Any = None
    """With the next three: the older names of these."""
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None

    grammar: str | None = None
    """With the next five: llama.cpp's. A GBNF grammar, in the place of response_format."""
    json_schema: Any = None
    n_predict: int | None = None
    """Alias of max_tokens."""
    n_probs: int | None = None
    """Alternatives of each token: log probabilities."""
    return_progress: bool | None = None
    """Whether a stream reports how much of the prompt is computed (`prompt_progress`)."""
    timings_per_token: bool | None = None
    """Whether the response has `timings`."""


class ChatCompletionRequest(SamplingParams, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    """The newer name of max_tokens."""
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the chat template: `enable_thinking` is the reasoning, others go to engines that take them."""

    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    service_tier: str | None = None
    store: bool | None = None
    modalities: list[str] | None = None
    prediction: Any = None
    verbosity: str | None = None

    audio: Any = None
    function_call: Any = None
    functions: Any = None
    web_search_options: Any = None
    moderation: Any = None


class CompletionRequest(SamplingParams, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/completions`."""

    prompt: str | list[Any]
    """A string, an array of strings, token ids of the model, or an array of token arrays; each gives `n` choices."""
    logprobs: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    """The text after the gap that the model fills."""


class EmbeddingRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/embeddings`."""

    input: str | list[Any]
    """A string, an array of strings, token ids of the model, or an array of token arrays."""
    model: str | None = None
    encoding_format: str | None = None
    """float or base64 (of little-endian 32-bit floats)."""
    dimensions: int | None = None
    """Vectors are cut to so many, and scaled to unit length again."""
    user: str | None = None


class RerankRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/rerank`."""

    query: str
    documents: list[str | dict[str, Any]]
    """Strings, or objects with `text`."""
    model: str | None = None
    top_n: int | None = None
    return_documents: bool = True
