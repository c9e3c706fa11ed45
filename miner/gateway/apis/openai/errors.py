"""Errors in OpenAI's form."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.gateway.errors import Failure

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 413: "invalid_request_error", 429: "rate_limit_error",
}  # fmt: skip


def openai_error(failure: Failure) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "server_error")
    error: dict[str, Any] = {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}
    if failure.context_length is not None:  # as llama.cpp's server has them
        error |= {"n_prompt_tokens": failure.prompt_tokens, "n_ctx": failure.context_length}
    return msgspec.json.encode({"error": error})


def error_event(failure: Failure) -> bytes:
    """The same as an event of a stream. No `[DONE]` follows it."""
    return b"data: " + openai_error(failure) + b"\n\n"
