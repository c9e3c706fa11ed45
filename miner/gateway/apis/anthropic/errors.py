"""Errors in Anthropic's form."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from miner.gateway.errors import Failure

ID_HEADER = "Request-Id"
"""The header in which Anthropic's clients look for the id of a request."""

_TYPES = {
    401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip

_IN_RESULT = re.compile(r"^(messages\[\d+\]\.content\[\d+\])(?=\.content\[\d+\]\.(?:image|document))")
_RESULT = r"\1.tool_result"
"""The place of an image or a document, as Anthropic's errors begin with it: Claude Code searches them for it, replaces
the block by a note, and goes on. With any other message it ends.
"""


def anthropic_error(failure: Failure) -> bytes:
    """`{"type": "error", "error": {"type", "message", "details"}, "request_id"}`."""
    kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "api_error")
    details: dict[str, Any] = {"error_code": failure.code}
    if failure.param == "thread" and failure.status == 400:
        # Anthropic's tool runners look for it, and go on without a thread.
        details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    message, param = failure.message, failure.param or ""
    if param.startswith("messages[") and param not in message:
        message = f"{_IN_RESULT.sub(_RESULT, param)}: {message}"
    error = {"type": kind, "message": message, "details": details}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": failure.request_id})


def error_event(failure: Failure) -> bytes:
    """The same as an event of a stream. No `message_stop` follows it."""
    return b"event: error\ndata: " + anthropic_error(failure) + b"\n\n"
