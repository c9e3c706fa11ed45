"""Where transport errors and HTTP statuses become errors of miner, for calls and streams alike."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from miner.core.http.connection import LocallyClosedError
from miner.core.http.framing import FramingError
from miner.core.http.http1 import ServerDisconnectedError
from miner.core.http.transport_errors import ConnectError, InvalidAddressError
from miner.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
    MinerError,
    ServiceClosedError,
    StreamInterruptedError,
)

__all__ = ["ErrorBody", "Upstream", "map_errors", "parse_error_body", "retry_after_seconds", "status_error"]

_TEXT_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Upstream:
    """Whose fault it would be, and what to do then. Every error of the transport speaks with these words."""

    backend: str
    base_url: str = field(repr=False)
    """May carry a user's name and password: `shown_url` does not."""
    timeout_setting: str = "the timeout"
    read_timeout: float = 300.0
    unreachable_hint: str | None = None
    """What to do when nobody answers."""
    key_setting: str | None = None
    address_setting: str = "the address"
    on_connection_lost: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    """Called when the server may have been restarted: a connection was refused or broken off, or a kept one closed."""

    @property
    def shown_url(self) -> str:
        """The address without user name and password, and without a query, which may hold a key."""
        address, query = re.match(r"([^?#]*)(.*)", self.base_url, re.DOTALL).groups()  # type: ignore[union-attr]
        if "@" in query:  # a password that holds the mark: nobody can tell where the host begins
            return "***"
        try:
            parts = urlsplit(address)
        except ValueError:  # no address at all: shown from behind where a password could be
            return str(address.rpartition("@")[2])
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def details(self, status: int | None = None) -> dict[str, Any]:
        """The fields that every BackendError carries."""
        return {"backend": self.backend, "base_url": self.shown_url, "status": status}

    def closed_error(self) -> ServiceClosedError:
        """For what was in flight when its client was closed."""
        return ServiceClosedError(
            f"The service was closed while {self.backend} at {self.shown_url} worked on the request.", **self.details()
        )

    def timeout_hint(self) -> str:
        """What to do when the engine is silent for too long."""
        return f"Raise {self.timeout_setting} if it needs longer, or ask for less."

    def address_hint(self) -> str:
        """What to do when something else answers."""
        return f"Is {self.address_setting} that of the engine's API?"


class map_errors:
    """Context manager: turns what the transport raises into errors of miner.

    Programming errors and cancellation pass through untouched. `receiving` is set once an answer has begun: from then
    on a lost connection is a StreamInterruptedError. `total`: seconds for the whole exchange, where that is the bound.
    `read_only`: the request asks for facts alone; an engine that is lost without a response has not died of it.
    """

    __slots__ = ("read_only", "receiving", "total", "upstream")

    def __init__(
        self, upstream: Upstream, *, receiving: bool = False, total: float | None = None, read_only: bool = False
    ) -> None:
        self.upstream = upstream
        self.receiving = receiving
        self.total = total
        self.read_only = read_only

    def __enter__(self) -> map_errors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or isinstance(error, (MinerError, asyncio.CancelledError)):
            return
        mapped = _map(error, self.upstream, receiving=self.receiving, total=self.total)
        if mapped is not None:
            if isinstance(error, (ConnectError, ConnectionError)):
                self.upstream.on_connection_lost()
            mapped.engine_died = type(error) is ServerDisconnectedError and not self.read_only
            raise mapped from error


def _map(error: BaseException, upstream: Upstream, *, receiving: bool, total: float | None) -> BackendError | None:
    """The error of miner for one of the transport, None where it is none of its errors."""
    where = f"{upstream.backend} at {upstream.shown_url}"
    if isinstance(error, LocallyClosedError):
        return upstream.closed_error()
    if isinstance(error, ConnectError):
        told = "does not accept the connection" if str(error) == "timed out" else "cannot be reached"
        return BackendUnavailableError(
            f"{where} {told}: {error}.",
            hint=error.hint or upstream.unreachable_hint,
            retryable=error.retryable,
            **upstream.details(),
        )
    if isinstance(error, TimeoutError) and total is not None:
        return BackendTimeoutError(
            f"{where} did not answer within {total:g} s.",
            hint="It may be overloaded or hung: see its log.",
            **upstream.details(),
        )
    if isinstance(error, TimeoutError):
        return BackendTimeoutError(
            f"{where} was silent for more than {upstream.read_timeout:g} s.",
            hint=upstream.timeout_hint(),
            **upstream.details(),
        )
    if isinstance(error, ConnectionError):
        if receiving:
            return StreamInterruptedError(
                f"{where} broke off in the middle of its answer: {_reason(error)}.",
                hint="What had arrived is in the error's `partial`; the engine's log says why it stopped.",
                **upstream.details(),
            )
        return BackendUnavailableError(
            f"{where} closed the connection without an answer: {_reason(error)}.",
            hint="The engine may have died: see its log.",
            **upstream.details(),
        )
    if isinstance(error, InvalidAddressError):
        return BackendUnavailableError(
            f"{upstream.shown_url!r} is not a usable address: {error}.",
            hint=upstream.unreachable_hint,
            retryable=False,
            **upstream.details(),
        )
    if isinstance(error, (FramingError, msgspec.MsgspecError, UnicodeDecodeError)):
        return BackendProtocolError(
            f"{where} sent something that is not its protocol: {_reason(error)}.",
            hint=upstream.address_hint(),
            **upstream.details(),
        )
    return None


def _reason(error: BaseException) -> str:
    """The cause in a few words, without Python's decoration."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")


@dataclass(slots=True)
class ErrorBody:
    """An engine's error answer, whatever its shape."""

    message: str
    type: str | None = None
    param: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    """All fields of the innermost error object."""
    json: bool = True
    """Whether the body was JSON at all."""


def parse_error_body(body: bytes | str | dict[str, Any]) -> ErrorBody:
    """Read an error in any of the engines' shapes: an object under `error`, a string there that may itself hold JSON
    (Ollama passes its runner's errors on so), `detail`, or plain text.
    """
    value: Any = body
    if isinstance(body, (bytes, str)):
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # nested without end: garbage
            text = body.decode(errors="replace") if isinstance(body, bytes) else body
            return ErrorBody(_short(text), json=False)
    for _ in range(4):  # bounded: nesting deeper than this is no engine's
        if isinstance(value, dict) and "error" in value:
            value = value["error"]
        elif isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = msgspec.json.decode(value)
            except (msgspec.DecodeError, RecursionError):
                break
        else:
            break
    if not isinstance(value, dict):
        return ErrorBody(_short(str(value)))
    message = value.get("message") or value.get("detail") or value
    kind, param = value.get("type"), value.get("param")
    return ErrorBody(
        _short(str(message)),
        type=kind if isinstance(kind, str) else None,
        param=param if isinstance(param, str) else None,
        fields=value,
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError):
        return None


def status_error(status: int, body: ErrorBody, upstream: Upstream, *, retry_after: float | None = None) -> MinerError:
    """The error for an HTTP status, where the engine's own rules said nothing more exact."""
    where = f"{upstream.backend} at {upstream.shown_url}"
    said = f": {body.message}" if body.message else ""
    details = upstream.details(status)
    if status in (401, 403):
        setting = upstream.key_setting
        hint = f"Set {setting} to a key that the server knows." if setting else "Does it expect another Host header?"
        refused = "our key" if setting else "us"
        return AuthenticationError(f"{where} refused {refused} (HTTP {status}){said}.", hint=hint, **details)
    if status == 429:
        return BackendOverloadedError(
            f"{where} has too many requests (HTTP 429){said}.",
            hint="Try again later.",
            retry_after=retry_after,
            **details,
        )
    if status in (408, 504):
        return BackendTimeoutError(
            f"{where} ran out of time (HTTP {status}){said}.", hint=upstream.timeout_hint(), **details
        )
    if status in (502, 503):
        return BackendUnavailableError(
            f"{where} cannot serve now (HTTP {status}){said}.",
            hint="Try again later.",
            retry_after=retry_after,
            **details,
        )
    if status == 404:
        return BackendProtocolError(
            f"{where} does not have that path (HTTP 404){said}.",
            hint=upstream.address_hint(),
            **details,
        )
    if status in (400, 413, 422):
        return InvalidRequestError(f"{upstream.backend} refused the request{said}", param=body.param)
    return BackendError(f"{where} failed (HTTP {status}){said}.", hint="The engine's log says more.", **details)
