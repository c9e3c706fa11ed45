"""Errors that only a gateway has, and what a client gets to read of any error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from miner.errors import BackendError, MinerError, ModelNotFoundError, RequestError

__all__ = ["Failure", "RefusedError", "failure_of"]


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
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.refusal = code
        """A short name that programs can compare."""
        self.param = param
        self.retry_after = retry_after
        self.headers = dict(headers or {})


@dataclass(slots=True)
class Failure:
    """An error as a client gets it; each dialect gives it its own shape."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


_ADDRESS = re.compile(r"(?: at)? (?:https?|unix)://[^\s,;'\"]+")
_PATH = re.compile(r"(?<![\w/.:-])/(?:[\w.@+-]+/)+[\w.@+-]+")


def _public(text: str) -> str:
    """The text without addresses and paths of the operator's network and machine."""
    return _PATH.sub("<path>", _ADDRESS.sub("", text))


def failure_of(error: MinerError) -> Failure:
    """What a client reads of an error. Hints for the operator stay in the log."""
    headers: dict[str, str] = {}
    if isinstance(error, RefusedError):
        if error.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after)))
        return Failure(error.status, error.refusal, str(error), error.param, {**headers, **error.headers})
    if isinstance(error, BackendError):
        if error.http_status in (429, 503):
            headers["Retry-After"] = str(max(1, round(error.retry_after or 1)))
        return Failure(error.http_status, error.code, _public(error.message), None, headers)
    if isinstance(error, RequestError):
        text = error.message if isinstance(error, ModelNotFoundError) else str(error)
        return Failure(error.http_status, error.code, _public(text), error.param, headers)
    return Failure(500, "internal_error", "The server is not set up rightly; its log says more.", None, headers)
