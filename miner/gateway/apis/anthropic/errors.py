"""Errors in Anthropic's form."""

from __future__ import annotations

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


def anthropic_error(failure: Failure) -> bytes:
    """`{"type": "error", "error": {"type", "message", "details"}, "request_id"}`."""
    kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "api_error")
    details: dict[str, Any] = {"error_code": failure.code}
    if failure.param == "thread" and failure.status == 400:
        # Anthropic's tool runners look for it, and go on without a thread.
        details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    error = {"type": kind, "message": failure.message, "details": details}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": failure.request_id})


def error_event(failure: Failure) -> bytes:
    """The same as an event of a stream. No `message_stop` follows it."""
    return b"event: error\ndata: " + anthropic_error(failure) + b"\n\n"
