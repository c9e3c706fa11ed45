"""The bodies of Anthropic's messages, as structs: an unknown field or kind of block is refused by its place."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "AnthropicCountBody", "AnthropicMessage", "AnthropicMessagesBody", "AnthropicTool", "Base64Source", "Block",
    "DocumentBlock", "ImageBlock", "RedactedBlock", "TextBlock", "TextSource", "ThinkingBlock", "ToolResultBlock",
    "ToolUseBlock", "URLSource",
]  # fmt: skip


class _Block(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    cache_control: dict[str, Any] | None = None
    """Engines here cache prompts by themselves."""


class TextBlock(_Block, tag="text"):
    """Text."""

    text: str
    citations: Any = None


class Base64Source(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="base64"):
    """The bytes themselves."""

    media_type: str
    data: str


class URLSource(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="url"):
    """An address."""

    url: str


class TextSource(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A plain text."""

    data: str
    media_type: str = "text/plain"


class ImageBlock(_Block, tag="image"):
    """An image."""

    source: Base64Source | URLSource


class DocumentBlock(_Block, tag="document"):
    """A document; only plain text is read."""

    source: TextSource | Base64Source | URLSource
    title: str | None = None
    context: str | None = None
    citations: Any = None


class ThinkingBlock(_Block, tag="thinking"):
    """Thoughts of an earlier turn."""

    thinking: str
    signature: str = ""


class RedactedBlock(_Block, tag="redacted_thinking"):
    """Thoughts that only who wrote them can read."""

    data: str


class ToolUseBlock(_Block, tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None
    toolset_name: str | None = None


class ToolResultBlock(_Block, tag="tool_result"):
    """What a call gave."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    is_error: bool | None = None


Block = TextBlock | ImageBlock | DocumentBlock | ThinkingBlock | RedactedBlock | ToolUseBlock | ToolResultBlock


class AnthropicMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool of the client's own."""

    name: str
    type: str | None = None
    """None or "custom": the others are Anthropic's own tools."""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[Any] | None = None


class Thinking(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether the model thinks first."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How hard the model tries, and the form of its text."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: dict[str, Any] | None = None


class AnthropicToolChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which tools must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class AnthropicCountBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
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


class AnthropicMessagesBody(AnthropicCountBody, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/messages`."""

    max_tokens: int
    stream: bool = False
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None
    """Steers Anthropic's own books."""
    service_tier: str | None = None
    container: Any = None
    diagnostics: Any = None
    inference_geo: str | None = None
