"""What goes between an entry and a backend: typed requests, responses and chunks.

Shapes follow OpenAI's chat API where it has the concept. Durations are seconds, sizes are bytes, lengths are tokens.
Everything here is data: this module imports nothing of miner but `override`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from miner.core._typing import override

__all__ = [
    "OPTIONS",
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
    "Progress",
    "RerankResponse",
    "RerankResult",
    "Resolution",
    "TextPart",
    "Timeout",
    "Timings",
    "TokenLogprob",
    "TokenUsage",
    "ToolCall",
    "ToolChoice",
]

ToolCall = dict[str, Any]
"""`{"id": ..., "type": "function", "function": {"name": ..., "arguments": "<JSON text>"}}`; in chunks also `index`."""
ToolChoice = Literal["auto", "none", "required"] | dict[str, Any]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "repetition", "cancelled", "unknown"]
"""Why a reply ended, in OpenAI's words and three more. `repetition`: the engine gave up on a model that wrote the same
token over and over (vLLM, Ollama). `cancelled`: the caller stopped it. `unknown`: the engine gave a reason that is none
of these; the log has its word. Only `stop` and `tool_calls` are ends that the model meant.
"""


class TextPart(Struct, tag_field="type", tag="text", gc=False):
    """Text inside a message's content."""

    text: str


class ImageURL(Struct, omit_defaults=True, gc=False):
    """Where an image is: a `data:` URL, or a remote one where the settings allow it."""

    url: str
    detail: str | None = None


class ImagePart(Struct, tag_field="type", tag="image_url", gc=False):
    """An image inside a message's content."""

    image_url: ImageURL


class Message(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart] | None = None
    reasoning: str | None = None
    """The thoughts that came with an assistant's turn."""
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    """On a tool's turn: the id of the call that it answers."""
    name: str | None = None
    """On a tool's turn: the name of the function."""

    def text(self) -> str:
        """The text of the content, parts joined, images left out."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""

    def images(self) -> list[ImagePart]:
        """The image parts of the content."""
        return [part for part in self.content if isinstance(part, ImagePart)] if isinstance(self.content, list) else []


class OutputFormat(Struct, kw_only=True):
    """What the reply must look like."""

    kind: Literal["json_object", "json_schema", "regex", "grammar"]
    schema: dict[str, Any] | None = None
    path: str = "response_format"
    """Where the schema stands in what the caller gave."""
    name: str = "output"
    strict: bool | None = None
    pattern: str | None = None
    """The regular expression (kind regex) or the grammar's text (kind grammar; GBNF on llama.cpp, EBNF on vLLM)."""
    target: Any = None
    """The Python type that `LLMResponse.parsed` is made into; None: plain JSON values."""


class Timeout(Struct, kw_only=True, frozen=True):
    """Bounds of one request, each in seconds, each optional."""

    first: float | None = None
    """Until the first token."""
    between: float | None = None
    """Between two tokens."""
    total: float | None = None
    """For the whole call."""


class Resolution(Struct, kw_only=True):
    """What is found out about a request on its way. The copies that `msgspec.structs.replace` makes of one share it."""

    model: ModelInfo | None = None
    """The model that the request's name stands for; None where the backend names no models."""
    ignored: list[str] = []
    """Parameters that are not honoured as they were sent, because the caller allowed that."""
    grammar_allowed: bool = False
    """Whether the backend may send a grammar in the place of a JSON Schema."""


class ChatRequest(Struct, kw_only=True, frozen=True):
    """One generation request, validated and complete: either `prompt` or `messages` is set, None means not set.

    It is not changed on its way: a backend that needs another one makes it with `msgspec.structs.replace`, and what is
    found out about it goes into `resolution`.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    max_tokens: int
    temperature: float
    top_p: float
    raw: bool = False
    """Send the prompt verbatim, past the chat template."""
    prompt_tokens: list[int] | None = None
    """The prompt as token ids of the model; `prompt` is empty then, and `raw` is set."""
    stop: list[str] = []
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    """Token id (as text, as OpenAI has it) to bias."""
    logprobs: int | None = None
    """Alternatives for each token; 0: the chosen token only."""
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: OutputFormat | None = None
    reasoning: bool | str | None = None
    progress: bool = False
    timeout: Timeout | None = None
    keep_alive: float | str | None = None
    extra: dict[str, Any] | None = None
    ignore_unsupported: bool = False
    """Drop what cannot be honoured, instead of refusing the request."""
    resolution: Resolution = msgspec.field(default_factory=Resolution)

    def as_messages(self) -> list[Message]:
        """The conversation; a bare prompt is one user turn."""
        return self.messages if self.messages is not None else [Message(role="user", content=self.prompt or "")]


OPTIONS: tuple[str, ...] = (
    "stop", "seed", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
    "logprobs", "response_format", "reasoning", "parallel_tool_calls", "timeout", "keep_alive", "raw", "progress",
    "extra",
)  # fmt: skip
"""Names of the options of a generation; `unsupported` steers what happens to those that a backend lacks."""


class TokenUsage(Struct, omit_defaults=True, gc=False):
    """Tokens of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int | None = None
    """Prompt tokens that were taken from the KV cache, where the engine tells."""
    reasoning_tokens: int | None = None
    """Completion tokens spent on thoughts, where the engine tells."""


class TokenLogprob(Struct, omit_defaults=True):
    """One generated token with its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    alternatives: list[TokenLogprob] = []


class Timings(Struct, omit_defaults=True, gc=False):
    """Where the time went, in seconds; None where nobody knows."""

    queue: float | None = None
    load: float | None = None
    time_to_first_token: float | None = None
    prefill: float | None = None
    decode: float | None = None
    total: float | None = None


class Progress(Struct, gc=False):
    """How far the engine is in reading the prompt."""

    done: int
    total: int
    stage: Literal["queue", "load", "prefill"] = "prefill"
    """What `done` of `total` counts: requests ahead in the queue, bytes loaded, or prompt tokens."""


class LLMChunk(Struct, omit_defaults=True, gc=False):
    """A piece of a streamed reply; None where absent."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    """Deltas: each has `index`; `id`, `type` and `function.name` come once, `function.arguments` in pieces."""
    finish_reason: FinishReason | None = None
    usage: TokenUsage | None = None
    logprobs: list[TokenLogprob] | None = None
    progress: Progress | None = None
    timings: Timings | None = None
    context_exhausted: bool = False
    stop_sequence: str | None = None
    """With finish_reason `stop`: the one of the request's stop strings that ended the reply."""


class LLMResponse(Struct, kw_only=True, omit_defaults=True):
    """A whole reply. `str(response)` is its content."""

    content: str = ""
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    """The one of the request's stop strings that ended the reply; None: it ended otherwise."""
    usage: TokenUsage | None = None
    """None where the engine sent none."""
    model: str | None = None
    logprobs: list[TokenLogprob] | None = None
    parsed: Any = None
    """The content as the type or JSON value that `response_format` asked for."""
    context_exhausted: bool = False
    """Generation ended because the context was full."""
    ignored: list[str] = []
    """Parameters that were not honoured because the caller allowed that."""
    timings: Timings = msgspec.field(default_factory=Timings)
    backend: str | None = None
    """Name of the backend that answered."""

    @override
    def __str__(self) -> str:
        return self.content


class Embedding(Struct, gc=False):
    """The vector of one text."""

    index: int
    embedding: list[float]


class EmbeddingResponse(Struct, kw_only=True):
    """Vectors in the order of the texts."""

    data: list[Embedding]
    model: str | None = None
    usage: TokenUsage | None = None
    """None where the engine sent none."""

    @property
    def embeddings(self) -> list[list[float]]:
        """The bare vectors."""
        return [item.embedding for item in self.data]

    @property
    def dimensions(self) -> int:
        """Length of each vector."""
        return len(self.data[0].embedding) if self.data else 0


class RerankResult(Struct, omit_defaults=True, gc=False):
    """How well one document answers a query."""

    index: int
    """Its place among the documents that were given."""
    relevance_score: float
    """The higher the better; scales differ from model to model."""
    document: str | None = None
    """Its text."""


class RerankResponse(Struct, kw_only=True):
    """Documents by how well they answer a query, the best first."""

    results: list[RerankResult]
    model: str | None = None
    usage: TokenUsage | None = None
    """None where the engine sent none."""


class ModelInfo(Struct, kw_only=True, omit_defaults=True):
    """One model that a backend can serve."""

    id: str
    aliases: list[str] = []
    """Other names under which it can be asked for."""
    context_length: int | None = None
    """Tokens of one request, prompt and reply together."""
    capabilities: frozenset[str] | None = None
    """What this model can do; None where the backend cannot tell before it is asked."""
    loaded: bool | None = None
    size: int | None = None
    """Bytes on disk."""
    parameters: int | None = None
    quantization: str | None = None
    architecture: str | None = None
    dimensions: int | None = None
    """Length of its embedding vectors."""
    created: int | None = None
    """Seconds since 1970."""
    digest: str | None = None
    owned_by: str | None = None
    """What serves it, in an OpenAI-compatible server's own word."""


class EngineStatus(Struct, kw_only=True, omit_defaults=True):
    """One engine process of ours."""

    model: str
    state: Literal["stopped", "starting", "ready", "stopping", "failed"]
    pid: int | None = None
    memory: int | None = None
    """Resident bytes."""
    slots: int = 0
    slots_busy: int = 0
    queued: int = 0
    restarts: int = 0
    reason: str | None = None
    """Why it is not ready, where something went wrong."""
    retry_after: float | None = None
    """Seconds until one that failed too often is tried again, with the next request."""


class Health(Struct, kw_only=True, omit_defaults=True):
    """Whether a backend can serve."""

    state: Literal["ready", "loading", "unavailable", "failed"]
    reason: str | None = None
    hint: str | None = None
    models: list[str] = []
    latency: float | None = None
    """Seconds that the check took."""
    engines: list[EngineStatus] = []
    retry_after: float | None = None
    """Seconds after which it may be ready, where that is known."""

    def __bool__(self) -> bool:
        return self.state == "ready"
