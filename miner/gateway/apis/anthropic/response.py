"""The parts of Anthropic's messages, streamed or not: content blocks, stop reasons and usage."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import FinishReason, LLMResponse, TokenUsage

_STOP_REASONS: dict[FinishReason | None, str] = {
    "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal",
    # Anthropic has no reason for these two. The model did not mean to end, and only "max_tokens" says that.
    "repetition": "max_tokens", "unknown": "max_tokens",
}  # fmt: skip


def content_blocks(response: LLMResponse) -> list[dict[str, Any]]:
    """`content` of a message."""
    blocks: list[dict[str, Any]] = []
    if response.reasoning:
        blocks.append({"type": "thinking", "thinking": response.reasoning, "signature": ""})
    if response.content:
        blocks.append({"type": "text", "text": response.content})
    for tool_call in response.tool_calls or ():
        function = tool_call["function"]
        try:
            arguments = msgspec.json.decode(function["arguments"] or "{}")
        except (msgspec.DecodeError, RecursionError):
            continue  # cut short: stop_reason is "max_tokens"
        blocks.append({"type": "tool_use", "id": tool_call["id"], "name": function["name"], "input": arguments})
    return blocks


def stop_reason(reason: FinishReason | None, *, exhausted: bool, sequence: str | None) -> str:
    """`stop_reason` of a message.

    Args:
        exhausted: whether the context was full.
        sequence: the stop sequence that ended it, if one did.
    """
    if sequence is not None:
        return "stop_sequence"
    if reason == "length" and exhausted:
        return "model_context_window_exceeded"
    return _STOP_REASONS.get(reason, "end_turn")


def usage_object(usage: TokenUsage | None) -> dict[str, Any]:
    """`usage` of a message, where tokens from the cache are not among `input_tokens`. Anthropic's clients require the
    object: where the engine sent no usage, its counts are null.
    """
    if usage is None:
        return {"input_tokens": None, "output_tokens": None}
    cached = usage.cached_tokens
    body: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - (cached or 0),
        "output_tokens": usage.completion_tokens,
    }
    if cached is not None:
        body["cache_creation_input_tokens"] = 0
        body["cache_read_input_tokens"] = cached
    if usage.reasoning_tokens is not None:
        body["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return body
