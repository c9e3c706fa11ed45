"""Errors that only a gateway has, and what a client gets to read of any error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from miner.errors import BackendError, MinerError, ModelNotFoundError, RequestError
from miner.gateway.redaction import redacted

__all__ = [
    "ClientGoneError", "Failure", "InternalServerError", "RefusedError", "callers_hint", "failure_of", "public",
    "retry_after_header", "shortened",
]  # fmt: skip


class RefusedError(MinerError):
    """The gateway itself says no: no key, too many requests, no such path."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        operator_hint: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, operator_hint=operator_hint)
        self.status = status
        self.refusal = code
        """A short name that programs can compare."""
        self.param = param
        self.retry_after = retry_after
        self.headers = dict(headers or {})


class InternalServerError(RefusedError):
    """Something raised an exception that nobody foresaw: its cause, which the log has and the client does not."""

    def __init__(self) -> None:
        super().__init__(500, "internal_error", "Internal server error.")


class ClientGoneError(ConnectionResetError):
    """Nobody is there to write to, or nobody reads."""


@dataclass(slots=True)
class Failure:
    """An error as a client gets it; each dialect gives it its own shape."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    """For dialects that tell it in the body too."""

    def __post_init__(self) -> None:
        # A file's name or a backend's words may hold what is no text; JSON cannot.
        self.message = self.message.encode(errors="replace").decode()


_LONGEST = 4096
"""Characters of a message: some quote what the client sent."""


def shortened(text: str) -> str:
    """The text, or its two ends."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}...{text[-half:]}"


def public(text: str) -> str:
    """The text without addresses and paths of the operator's network and machine."""
    return redacted(shortened(text))


_OPERATORS = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|(?<![\w-])--[a-z]|\bpip install\b")
"""Settings, options of commands, packages: what only whoever runs the server can use."""
_CLAUSE = re.compile(r"(, or |; |\. )")


def callers_hint(hint: str) -> str:
    """What a caller can do of what a hint says: "Shorten the prompt, or raise LLAMACPP_CTX_SIZE." is half theirs."""
    parts = _CLAUSE.split(hint.removesuffix("."))
    kept = ""
    for place in range(0, len(parts), 2):
        if not _OPERATORS.search(parts[place]):
            kept += (parts[place - 1] if kept else "") + parts[place]
    return f"{kept[0].upper()}{kept[1:]}." if kept else ""


def _told(error: MinerError) -> str:
    """The message with what of its hint is the caller's."""
    if error.hint is None or _OPERATORS.search(error.hint) is None:
        return shortened(" ".join(filter(None, (error.message, error.hint))))
    return f"{error.message} {callers_hint(error.hint)}".rstrip()


def retry_after_header(seconds: float) -> str:
    """The header's value: whole seconds, never fewer than it takes."""
    return str(max(1, math.ceil(seconds)))


def failure_of(error: MinerError, request_id: str = "") -> Failure:
    """What a client reads of an error. Hints for whoever runs the server stay in its log (`fault_log.py`)."""
    headers: dict[str, str] = {}
    if isinstance(error, RefusedError):
        if error.retry_after is not None:
            headers["Retry-After"] = retry_after_header(error.retry_after)
        return Failure(error.status, error.refusal, _told(error), error.param, {**headers, **error.headers}, request_id)
    if isinstance(error, BackendError):
        if error.http_status in (429, 503):
            headers["Retry-After"] = retry_after_header(error.retry_after or 1.0)
        return Failure(error.http_status, error.code, public(error.message), None, headers, request_id)
    if isinstance(error, RequestError):
        text = error.message if isinstance(error, ModelNotFoundError) else _told(error)
        return Failure(error.http_status, error.code, public(text), error.param, headers, request_id)
    text = "The server is not set up correctly; its log says more."
    return Failure(500, "internal_error", text, None, headers, request_id)
