"""Errors in llama.cpp's form."""

from __future__ import annotations

from typing import Any

import msgspec

from miner.gateway.apis.openai.errors import openai_error
from miner.gateway.errors import Failure

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    501: "not_supported_error", 503: "unavailable_error",
}  # fmt: skip


def llamacpp_error(failure: Failure) -> bytes:
    """`{"error": {"code", "message", "type"}}`; a prompt that is too long also has both numbers."""
    kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "server_error")
    error: dict[str, Any] = {"code": failure.status, "message": failure.message, "type": kind}
    if failure.code == "context_length_exceeded":
        error["type"] = "exceed_context_size_error"
        error |= {"n_prompt_tokens": failure.prompt_tokens, "n_ctx": failure.context_length}
    return msgspec.json.encode({"error": error})


def chat_error(failure: Failure) -> bytes:
    """OpenAI's form, with the type of a prompt that is too long by which clients of llama.cpp know it."""
    body = openai_error(failure)
    if failure.code == "context_length_exceeded":
        error = msgspec.json.decode(body)
        error["error"]["type"] = "exceed_context_size_error"
        return msgspec.json.encode(error)
    return body


def error_event(failure: Failure) -> bytes:
    """The same as the last event of a stream."""
    return b"data: " + llamacpp_error(failure) + b"\n\n"
