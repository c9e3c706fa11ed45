"""What Anthropic's resources share: errors, usage, reasons to stop."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.core.wire import FinishReason, TokenUsage
from miner.gateway.errors import Failure

__all__ = ["anthropic_error", "error_event", "stop_reason", "usage_object"]

_TYPES = {
    401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip
_REASONS: dict[FinishReason | None, str] = {
    "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal",
    # Anthropic has no word for these two. They are no end that the model meant, and "max_tokens" alone says that.
    "repetition": "max_tokens", "unknown": "max_tokens",
}  # fmt: skip


def anthropic_error(failure: Failure) -> bytes:
    """`{"type": "error", "error": {"type", "message", "details"}, "request_id"}`."""
    kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "api_error")
    message = failure.message
    if failure.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"  # what clients look for before they shorten it
    error = {"type": kind, "message": message, "details": {"error_code": failure.code}}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": failure.request_id})


def error_event(failure: Failure) -> bytes:
    """The same as an event of a stream. No `message_stop` follows it."""
    return b"event: error\ndata: " + anthropic_error(failure) + b"\n\n"


def stop_reason(reason: FinishReason | None, *, exhausted: bool, sequence: str | None) -> str:
    """Why a reply ended."""
    if sequence is not None:
        return "stop_sequence"
    if reason == "length" and exhausted:
        return "model_context_window_exceeded"
    return _REASONS.get(reason, "end_turn")


def usage_object(usage: TokenUsage | None) -> dict[str, Any]:
    """Anthropic's usage, where tokens from the cache are not among `input_tokens`. Its clients read the object without
    looking: where the engine sent no usage, the counts in it are null.
    """
    if usage is None:
        return {"input_tokens": None, "output_tokens": None}
    cached = usage.cached_tokens
    told: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - (cached or 0),
        "output_tokens": usage.completion_tokens,
    }
    if cached is not None:
        told["cache_creation_input_tokens"] = 0
        told["cache_read_input_tokens"] = cached
    if usage.reasoning_tokens is not None:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return told
