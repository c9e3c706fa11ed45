"""The parts of Anthropic's messages, streamed or not: content blocks, stop reasons and usage.

Every field of the official types is there, null where it says nothing: typed clients require them.
"""

from __future__ import annotations

import re
from typing import Any

from miner.core.llms.contract.tools import arguments_object
from miner.core.wire import FinishReason, LLMResponse, TokenUsage
from miner.gateway.apis.anthropic.partial_json import complete_members
from miner.gateway.apis.anthropic.signature import carrying_signature, signature_of
from miner.gateway.dialect import Head

_STOP_REASONS: dict[FinishReason | None, str] = {
    "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal",
    # Anthropic has no reason for these two. The model did not mean to end, and only "max_tokens" says that.
    "repetition": "max_tokens", "unknown": "max_tokens",
}  # fmt: skip
_REFUSAL = dict.fromkeys(
    ("category", "explanation", "fallback_credit_token", "fallback_has_prefill_claim", "recommended_model")
)
_NOT_IN_IDS = re.compile("[^A-Za-z0-9_-]")


def context_edits(wanted: bool) -> dict[str, Any] | None:
    """`context_management` of a response, null if the request has none: nothing is cleared here."""
    return {"applied_edits": []} if wanted else None


def message_object(head: Head, content: list[dict[str, Any]], usage: dict[str, Any], *, edits: bool) -> dict[str, Any]:
    """A `message` that is not finished; `stop_fields` has the rest.

    Args:
        edits: whether the request has `context_management`.
    """
    return {
        "id": f"msg_{head.id}",
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "container": None,
        "context_management": context_edits(edits),
        "diagnostics": None,
        "stop_details": None,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def stop_fields(reason: FinishReason | None, *, exhausted: bool, sequence: str | None) -> dict[str, Any]:
    """Why a message ended.

    Args:
        exhausted: whether the context was full.
        sequence: the stop sequence that ended it, if one did.
    """
    kind = _stop_reason(reason, exhausted=exhausted, sequence=sequence)
    return {
        "stop_reason": kind,
        "stop_sequence": sequence,
        "stop_details": {"type": "refusal", **_REFUSAL} if kind == "refusal" else None,
    }


def _stop_reason(reason: FinishReason | None, *, exhausted: bool, sequence: str | None) -> str:
    if sequence is not None:
        return "stop_sequence"
    if reason == "length" and exhausted:
        return "model_context_window_exceeded"
    return _STOP_REASONS.get(reason, "end_turn")


def content_blocks(response: LLMResponse, *, shows_thinking: bool) -> list[dict[str, Any]]:
    """`content` of a message.

    Args:
        shows_thinking: whether the client wants to read the reasoning, or its signature alone.
    """
    blocks: list[dict[str, Any]] = []
    if response.reasoning:
        sign = signature_of if shows_thinking else carrying_signature
        blocks.append(thinking_block(response.reasoning if shows_thinking else "", sign(response.reasoning)))
    if response.content:
        blocks.append(text_block(response.content))
    for tool_call in response.tool_calls or ():
        function = tool_call["function"]
        if response.finish_reason == "length":
            # Cut short by max_tokens, it has what is complete, as the official clients read a stream that is cut.
            arguments = complete_members(function["arguments"] or "{}")
        else:
            arguments = arguments_object(tool_call)
        blocks.append(tool_use_block(tool_call["id"], function["name"], arguments))
    return blocks


def text_block(text: str) -> dict[str, Any]:
    """A block of text."""
    # Nullable by the official types, but the Vercel AI SDK takes a list alone.
    return {"type": "text", "text": text, "citations": []}


def thinking_block(thinking: str, signature: str) -> dict[str, Any]:
    """A block of reasoning."""
    return {"type": "thinking", "thinking": thinking, "signature": signature}


def tool_use_block(call_id: str | None, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A block with a tool call. Ids have only letters, digits, `_` and `-`, as Anthropic's clients expect."""
    return {
        "type": "tool_use", "id": _NOT_IN_IDS.sub("_", call_id or ""), "name": name, "input": arguments,
        "caller": {"type": "direct"},
    }  # fmt: skip


def usage_object(usage: TokenUsage | None) -> dict[str, Any]:
    """`usage` of a message, where tokens from the cache are not among `input_tokens`. Where the engine sent none, the
    counts are 0: the official types require integers.
    """
    usage = usage or TokenUsage()
    return {
        **_counts(usage),
        # Engines cache prompts by themselves, for as long as there is room: nothing is written for a price.
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "inference_geo": None,
        "iterations": None,
        "service_tier": "standard",
        "speed": None,
    }


def delta_usage(usage: TokenUsage | None) -> dict[str, Any]:
    """`usage` of the event `message_delta`: the counts of the whole message. Where the engine sent none, those of
    `message_start` stand.
    """
    if usage is None:
        unknown = dict.fromkeys(("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"))
        return {**_counts(TokenUsage()), **unknown, "iterations": None}
    return {**_counts(usage), "iterations": None}


def _counts(usage: TokenUsage) -> dict[str, Any]:
    cached, reasoning = usage.cached_tokens, usage.reasoning_tokens
    return {
        "input_tokens": max(0, usage.prompt_tokens - (cached or 0)),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached or 0,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": None if reasoning is None else {"thinking_tokens": reasoning},
        "server_tool_use": None,
    }
