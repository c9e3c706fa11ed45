"""The body of OpenAI's `/v1/responses`, as a struct."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.gateway.apis.openai.schema import CommonParams


class TextConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The format of the text."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How much the model reasons first."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ResponseRequest(CommonParams, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/responses`, `/v1/responses/input_tokens` and `/v1/responses/compact`."""

    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None

    store: bool | None = None
    previous_response_id: str | None = None
    background: bool | None = None

    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    client_metadata: Any = None
    service_tier: str | None = None
    truncation: str | None = None
    max_tool_calls: int | None = None

    access_programs: Any = None
    background_options: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    moderation: Any = None
    personality: Any = None
    prompt: Any = None
