"""Typed requests, responses and chunks between entries and backends.

Shapes follow OpenAI's chat API where it has the concept. Durations are seconds, sizes are bytes, lengths are tokens.
Everything here is data.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from miner.core._typing import override

__all__ = [
    "OPTIONS",
    "UNLIMITED",
    "ChatRequest",
    "Embedding",
    "EmbeddingResponse",
    "EngineStatus",
    "FinishReason",
    "Health",
    "ImagePart",
    "ImageURL",
    "LLMChunk",
    "LLMResponse",
    "Message",
    "ModelInfo",
    "OutputFormat",
    "Preset",
    "Progress",
    "RerankResponse",
    "RerankResult",
    "Resolution",
    "TextPart",
    "Timeout",
    "Timings",
    "Token",
    "TokenLogprob",
    "TokenUsage",
    "ToolCall",
    "ToolChoice",
]

UNLIMITED: Final = -1
"""The `max_tokens` of a response that only the model, a stop string or the end of the context ends."""

ToolCall = dict[str, Any]
"""`{"id": ..., "type": "function", "function": {"name": ..., "arguments": "<JSON text>"}}`; in chunks also `index`."""
ToolChoice = Literal["auto", "none", "required"] | dict[str, Any]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "repetition", "cancelled", "unknown"]
"""Why a response ended: OpenAI's reasons and three more. `repetition`: the engine stopped a model that repeated a token
(vLLM, Ollama). `cancelled`: the caller stopped it. `unknown`: the engine's reason is none of these; the log has it.
Only `stop` and `tool_calls` are a complete response.
"""


class TextPart(Struct, tag_field="type", tag="text", gc=False):
    """Text inside a message's content."""

    text: str


class ImageURL(Struct, omit_defaults=True, gc=False):
    """An image's URL: `data:`, or a remote one where MINER_ALLOW_REMOTE_IMAGES is set."""

    url: str
    detail: str | None = None


class ImagePart(Struct, tag_field="type", tag="image_url", gc=False):
    """An image inside a message's content."""

    image_url: ImageURL


class Message(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart] | None = None
    reasoning: str | None = None
    """The reasoning of an assistant message."""
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    """In a tool message: the id of its call."""
    name: str | None = None
    """In a tool message: the function's name."""

    def text(self) -> str:
        """Return the text parts of the content, joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""

    def images(self) -> list[ImagePart]:
        """Return the image parts of the content."""
        return [part for part in self.content if isinstance(part, ImagePart)] if isinstance(self.content, list) else []


class OutputFormat(Struct, kw_only=True):
    """The format that `response_format` requires of the content."""

    kind: Literal["json_object", "json_schema", "regex", "grammar"]
    schema: dict[str, Any] | None = None
    path: str = "response_format"
    """Path of the schema in the request, for errors."""
    name: str = "output"
    strict: bool | None = None
    pattern: str | None = None
    """The regular expression (kind regex) or the grammar (kind grammar: GBNF on llama.cpp, EBNF on vLLM)."""
    target: Any = None
    """The Python type of `LLMResponse.parsed`; None: plain JSON values."""


class Timeout(Struct, kw_only=True, frozen=True):
    """Timeouts of one request, in seconds; None: unbounded but for the backend's read timeout."""

    first: float | None = None
    """Until the first token."""
    between: float | None = None
    """Between two tokens."""
    total: float | None = None
    """For the call."""


class Resolution(Struct, kw_only=True):
    """What was resolved for a request; shared by the copies that `msgspec.structs.replace` makes."""

    model: ModelInfo | None = None
    """The model that the request's name stands for; None where the backend names no models."""
    ignored: list[str] = []
    """Parameters that are left out or changed, because the caller allowed that."""
    grammar_allowed: bool = False
    """Whether the backend may send a grammar in the place of a JSON Schema."""


class ChatRequest(Struct, kw_only=True, frozen=True):
    """One generation request, validated and complete: either `prompt` or `messages` is set, None means not set.

    It is never modified: a backend that needs another request makes one with `msgspec.structs.replace`, and what is
    resolved for the request is in `resolution`.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    max_tokens: int
    """UNLIMITED (-1): until the context ends."""
    temperature: float
    top_p: float
    raw: bool = False
    """Send the prompt verbatim, without the chat template."""
    prompt_tokens: list[int] | None = None
    """The prompt as token ids; `prompt` is empty then, and `raw` is set."""
    suffix: str | None = None
    """The text after the gap that the model fills, `prompt` being the text before it; no chat template is used."""
    context: list[int] | None = None
    """Token ids of the conversation before this prompt; if it is not None, the response has those after it."""
    stop: list[str] = []
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    """Bias by token id, a string as in OpenAI's API."""
    logprobs: int | None = None
    """Number of alternatives for each token; 0: the sampled token only."""
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: OutputFormat | None = None
    reasoning: bool | str | None = None
    progress: bool = False
    echo: bool = False
    """Whether the prompt comes before the completion, with its log probabilities if those are requested; with `raw`."""
    continuous_usage: bool = False
    """Whether chunks carry the usage so far."""
    prompt_usage: bool = False
    """Have the first chunk with tokens carry the prompt's, where the engine counts them by then."""
    timeout: Timeout | None = None
    keep_alive: float | str | None = None
    extra: dict[str, Any] | None = None
    ignore_unsupported: bool | frozenset[str] = False
    """Leave out unsupported parameters instead of refusing the request: all, or those that are named."""
    defaulted: frozenset[str] = frozenset()
    """Parameters that the caller did not pass: their values are the settings' defaults. So may be
    `ignore_unsupported`."""
    resolution: Resolution = msgspec.field(default_factory=Resolution)

    @property
    def token_limit(self) -> float:
        """`max_tokens` as a number to compare with: infinite where only the context limits the response."""
        return math.inf if self.max_tokens == UNLIMITED else self.max_tokens

    def as_messages(self) -> list[Message]:
        """Return the conversation; a prompt is one user message."""
        return self.messages if self.messages is not None else [Message(role="user", content=self.prompt or "")]


OPTIONS: tuple[str, ...] = (
    "stop", "seed", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
    "logprobs", "response_format", "reasoning", "parallel_tool_calls", "timeout", "keep_alive", "raw", "progress",
    "suffix", "context", "continuous_usage", "echo", "extra",
)  # fmt: skip
"""Names of the options of a generation, besides `unsupported`."""


class TokenUsage(Struct, omit_defaults=True, gc=False):
    """Tokens of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int | None = None
    """Prompt tokens found in the KV cache, if the engine reports them."""
    reasoning_tokens: int | None = None
    """Completion tokens spent on reasoning, if the engine reports them."""

    def plus(self, other: TokenUsage) -> TokenUsage:
        """The sum of two usages."""
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            _sum(self.cached_tokens, other.cached_tokens),
            _sum(self.reasoning_tokens, other.reasoning_tokens),
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


class TokenLogprob(Struct, omit_defaults=True):
    """One generated token with its log probability."""

    token: str
    logprob: float
    """NaN for the first token of a prompt that is echoed: nothing comes before it."""
    bytes: list[int] | None = None
    alternatives: list[TokenLogprob] = []


class Timings(Struct, omit_defaults=True, gc=False):
    """Where the time went, in seconds; None if unknown."""

    queue: float | None = None
    load: float | None = None
    time_to_first_token: float | None = None
    prefill: float | None = None
    decode: float | None = None
    total: float | None = None


class Progress(Struct, gc=False):
    """Progress of a request before its first token."""

    done: int
    total: int
    stage: Literal["queue", "load", "prefill"] = "prefill"
    """The unit of `done` and `total`: requests ahead in the queue, bytes loaded, or prompt tokens."""


class LLMChunk(Struct, omit_defaults=True, gc=False):
    """A piece of a streamed response; None where absent."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    """Deltas: `index` is in each; `id`, `type` and `function.name` come once, `function.arguments` in pieces."""
    finish_reason: FinishReason | None = None
    usage: TokenUsage | None = None
    """Of the complete response."""
    logprobs: list[TokenLogprob] | None = None
    progress: Progress | None = None
    timings: Timings | None = None
    context_exhausted: bool = False
    stop_sequence: str | None = None
    """With finish_reason `stop`: the stop string that ended the response."""
    usage_so_far: TokenUsage | None = None
    """With `continuous_usage`: of the response up to this chunk."""
    prompt_usage: TokenUsage | None = None
    """With the first tokens, where the request wants it and the engine tells: the prompt's tokens."""
    context: list[int] | None = None
    """With the finish reason, where the request has a `context`: its token ids, the prompt's and the response's."""


class LLMResponse(Struct, kw_only=True, omit_defaults=True):
    """A complete response. `str(response)` is its content."""

    content: str = ""
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    """The stop string that ended the response; None: it ended otherwise."""
    usage: TokenUsage | None = None
    """None where the engine sent none."""
    model: str | None = None
    logprobs: list[TokenLogprob] | None = None
    parsed: Any = None
    """The content as the type or JSON value that `response_format` requires."""
    context_exhausted: bool = False
    """Generation ended because the context was full."""
    context: list[int] | None = None
    """Token ids of the request's `context`, the prompt and the response."""
    ignored: list[str] = []
    """Parameters that were left out or changed, because the caller allowed that."""
    timings: Timings = msgspec.field(default_factory=Timings)
    backend: str | None = None
    """Name of the backend that served the request."""
    cost: float | None = None
    """What its tokens cost, where `miner.toml` has a price for the model and the engine has counted them."""

    @override
    def __str__(self) -> str:
        return self.content


class Embedding(Struct, gc=False):
    """The vector of one text."""

    index: int
    embedding: list[float]


class EmbeddingResponse(Struct, kw_only=True):
    """Embeddings in the order of the texts."""

    data: list[Embedding]
    model: str | None = None
    usage: TokenUsage | None = None
    """None where the engine sent none."""
    cost: float | None = None
    """As `LLMResponse.cost`."""

    @property
    def embeddings(self) -> list[list[float]]:
        """The vectors alone."""
        return [item.embedding for item in self.data]

    @property
    def dimensions(self) -> int:
        """Length of each vector."""
        return len(self.data[0].embedding) if self.data else 0


class RerankResult(Struct, omit_defaults=True, gc=False):
    """The relevance of one document to a query."""

    index: int
    """Its place among the request's documents."""
    relevance_score: float
    """Higher is more relevant; the scale is the model's own."""
    document: str | None = None
    """Its text."""


class RerankResponse(Struct, kw_only=True):
    """Documents by relevance to a query, most relevant first."""

    results: list[RerankResult]
    model: str | None = None
    usage: TokenUsage | None = None
    """None where the engine sent none."""
    cost: float | None = None
    """As `LLMResponse.cost`."""


class Token(Struct, omit_defaults=True, gc=False):
    """One token of a text."""

    id: int
    piece: str | None = None
    """Its text; None where the engine does not say."""
    bytes: list[int] | None = None
    """Its bytes, where they are no UTF-8 text by themselves: `piece` has U+FFFD for them."""


class Preset(Struct, kw_only=True, omit_defaults=True):
    """What a created model brings along for its requests."""

    system: str = ""
    messages: list[Message] = []
    """Messages before those of each request."""
    parameters: dict[str, Any] = {}
    """Parameters of a ChatRequest, for requests that do not set them."""


class ModelInfo(Struct, kw_only=True, omit_defaults=True):
    """One model that a backend can serve."""

    id: str
    aliases: list[str] = []
    """Other names that requests may use."""
    context_length: int | None = None
    """Tokens of one request, prompt and completion together."""
    trained_context_length: int | None = None
    """Tokens that it was trained for, where they are known."""
    capabilities: frozenset[str] | None = None
    """Words of CAPABILITIES; None if the backend finds out only on use."""
    loaded: bool | None = None
    size: int | None = None
    """Bytes on disk."""
    parameters: int | None = None
    quantization: str | None = None
    architecture: str | None = None
    dimensions: int | None = None
    """Length of its embedding vectors."""
    created: int | None = None
    """Seconds since 1970: the date of its file, else when the server first listed it; None: unknown."""
    digest: str | None = None
    owned_by: str | None = None
    """`owned_by` of an OpenAI-compatible server."""
    description: str | None = None
    """What the operator says of it."""
    preset: Preset | None = None
    """What the backend adds to each request for it."""
    default: bool | None = None
    """Whether its server takes it for requests that name none; None: the server does not say."""


class EngineStatus(Struct, kw_only=True, omit_defaults=True):
    """One engine process of ours."""

    model: str
    state: Literal["stopped", "starting", "ready", "sleeping", "stopping", "failed"]
    pid: int | None = None
    memory: int | None = None
    """Resident bytes."""
    need: int | None = None
    """Bytes of main memory that it is expected to take."""
    gpu_memory: int | None = None
    """Bytes on all GPUs that it is expected to take."""
    slots: int | None = None
    """Requests that it works on at once; None: it does not say."""
    slots_busy: int = 0
    queued: int = 0
    pinned: bool = False
    """Whether it is never evicted, nor unloaded when it is idle."""
    expires_at: float | None = None
    """When it is unloaded if no other request comes, in seconds since 1970; None: not for that."""
    restarts: int = 0
    reason: str | None = None
    """Why it is not ready, if something went wrong."""
    retry_after: float | None = None
    """Seconds until an engine that failed too often is started again, by the next request."""
    kv_cache: str | None = None
    """What of its prompts is kept while it is not loaded, or why nothing is; None: nothing yet."""


class Health(Struct, kw_only=True, omit_defaults=True):
    """Whether a backend can serve requests."""

    state: Literal["ready", "loading", "unavailable", "failed"]
    reason: str | None = None
    hint: str | None = None
    models: list[str] = []
    latency: float | None = None
    """Seconds that the check took."""
    engines: list[EngineStatus] = []
    retry_after: float | None = None
    """Seconds after which it may be ready, if known."""

    def __bool__(self) -> bool:
        return self.state == "ready"
