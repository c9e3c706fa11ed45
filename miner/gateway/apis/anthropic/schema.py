"""The request bodies of Anthropic's API, as structs: an unknown field or type of block is refused by its place."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec


class _Block(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    cache_control: dict[str, Any] | None = None
    """Ignored: engines here cache prompts by themselves."""


class TextBlock(_Block, tag="text"):
    """A text block."""

    text: str
    citations: Any = None


class Base64Source(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="base64"):
    """Base64 data of an image or document."""

    media_type: str
    data: str


class URLSource(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="url"):
    """The URL of an image or document."""

    url: str


class TextSource(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """The plain text of a document."""

    data: str
    media_type: str = "text/plain"


class ImageBlock(_Block, tag="image"):
    """An image block."""

    source: Base64Source | URLSource


class DocumentBlock(_Block, tag="document"):
    """A document; only plain text is supported."""

    source: TextSource | Base64Source | URLSource
    title: str | None = None
    context: str | None = None
    citations: Any = None


class ThinkingBlock(_Block, tag="thinking"):
    """Reasoning of an earlier message."""

    thinking: str
    signature: str = ""


class RedactedBlock(_Block, tag="redacted_thinking"):
    """Reasoning that only Anthropic can decrypt."""

    data: str


class ToolUseBlock(_Block, tag="tool_use"):
    """A tool call."""

    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None
    toolset_name: str | None = None


class ToolResultBlock(_Block, tag="tool_result"):
    """The result of a tool call."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | ForeignBlock] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


class ForeignBlock(_Block, tag="miner_foreign_block"):
    """A block of a type or with a source that is not known here, as `blocks.decode_request` wraps it."""

    block: dict[str, Any]


Block = (
    TextBlock | ImageBlock | DocumentBlock | ThinkingBlock | RedactedBlock | ToolUseBlock | ToolResultBlock
    | ForeignBlock
)  # fmt: skip
KNOWN_BLOCKS = frozenset(str(kind.__struct_config__.tag) for kind in get_args(Block))
KNOWN_SOURCES = {"image": ("base64", "url"), "document": ("base64", "url", "text")}


class AnthropicMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One message: a string or content blocks."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block] | None = None
    """Only a system message may have none: it sets something for Anthropic's own server then."""


class AnthropicTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A custom tool."""

    name: str
    type: str | None = None
    """None or "custom"; other types are Anthropic's own tools."""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[Any] | None = None


class Thinking(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether the model reasons first."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Reasoning effort, and the format of the text."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: dict[str, Any] | None = None


class AnthropicToolChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which tools must be called, if any."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class AnthropicCountTokensRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/messages/count_tokens`."""

    model: str
    messages: list[AnthropicMessage]
    system: str | list[TextBlock] | None = None
    tools: list[dict[str, Any]] | None = None
    """Each an AnthropicTool; Anthropic's own have fields of their own."""
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None
    speed: str | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None
    mcp_servers: list[Any] | None = None
    fallbacks: Any = None
    fallback_credit_token: Any = None
    compaction: Any = None
    billing_policy: Any = None
    betas: Any = None
    thread: Any = None
    output_format: dict[str, Any] | None = None
    """The earlier name of `output_config.format`."""


class AnthropicMessagesRequest(AnthropicCountTokensRequest, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/messages`."""

    max_tokens: int
    stream: bool = False
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None
    """For Anthropic's own records: accepted silently."""
    service_tier: str | None = None
    container: Any = None
    diagnostics: Any = None
    inference_geo: str | None = None
