"""Where an engine's failure becomes an error of miner, for responses and streams alike.

`map_errors` maps what the transport raises (no connection, a timeout, a connection lost, bytes that are no HTTP),
`status_error` an HTTP status, `redirect_error` a redirect. An engine's own rules for status and body come first:
`refine` of llm_vllm.py and llm_llamacpp.py (called by OpenAIServer._error), `ollama_error` of ollama/errors.py.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import msgspec

from miner.core.http.transport_errors import (
    ConnectError,
    FramingError,
    InvalidAddressError,
    LocallyClosedError,
    ServerDisconnectedError,
)
from miner.core.subjects import subject, within
from miner.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    EngineStoppedError,
    InvalidRequestError,
    MinerError,
    ServiceClosedError,
    StreamInterruptedError,
)

_TEXT_LIMIT = 500

E = TypeVar("E", bound=BackendError)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind a client: its name in errors, and its settings in hints."""

    backend: str
    base_url: str = field(repr=False)
    """May carry a user's name and password: `shown_url` does not."""
    timeout_setting: str = "the timeout"
    read_timeout: float = 300.0
    """Seconds that each read may wait for bytes."""
    unreachable_hint: str | None = None
    """What an operator can do when the server cannot be reached."""
    key_setting: str | None = None
    address_setting: str = "the address"
    on_connection_lost: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    """Called when the server may have restarted: it refused or broke a connection, or closed an idle one."""

    @property
    def shown_url(self) -> str:
        """The address without user name and password, and without a query, which may hold a key."""
        address, query = re.match(r"([^?#]*)(.*)", self.base_url, re.DOTALL).groups()  # type: ignore[union-attr]
        if "@" in query:  # part of a password that holds "?" or "#": where the host begins is unknown
            return "***"
        try:
            parts = urlsplit(address)
        except ValueError:  # not a URL: shown from behind where a password could be
            return str(address.rpartition("@")[2])
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def label(self) -> str:
        """Backend and address, as a sentence begins with them."""
        return f"{subject(self.backend)} at {self.shown_url}"

    def details(self, status: int | None = None) -> dict[str, Any]:
        """The fields that every BackendError carries."""
        return {"backend": self.backend, "base_url": self.shown_url, "status": status}

    def error(self, kind: type[E], text: str, *, status: int | None = None, **fields: Any) -> E:
        """An error of class `kind` about this server; the message is its label followed by `text`."""
        return kind(f"{self.label} {text}", **fields, **self.details(status))

    def closed_error(self) -> ServiceClosedError:
        """The error of requests that were in flight when their client was closed."""
        server = f"{within(self.backend)} at {self.shown_url}"
        return ServiceClosedError(f"The service was closed while {server} processed the request.", **self.details())

    def timeout_error(self, text: str, *, status: int | None = None) -> BackendTimeoutError:
        """The error for a request that the server did not finish in time."""
        return self.error(
            BackendTimeoutError, text, status=status, hint="Send a shorter prompt or lower max_tokens.",
            operator_hint=f"Raise {self.timeout_setting} if the engine needs longer.",
        )  # fmt: skip

    def protocol_error(self, text: str, *, status: int | None = None) -> BackendProtocolError:
        """The error for a response that no such server sends: another program listens at the address."""
        hint = f"Check that {self.address_setting} is the address of the engine's API."
        return self.error(BackendProtocolError, text, status=status, operator_hint=hint)


class map_errors:
    """Context manager that converts errors of the transport to errors of miner.

    Programming errors and cancellation pass through unchanged.

    Args:
        total: total timeout in seconds, if that is the limit of the request.
        read_only: the request does not generate: an engine that is lost without a response has not crashed on it.

    Attributes:
        response_started: set once a response has begun; from then on a lost connection is a StreamInterruptedError.
    """

    __slots__ = ("read_only", "response_started", "total", "upstream")

    def __init__(
        self, upstream: Upstream, *, response_started: bool = False, total: float | None = None, read_only: bool = False
    ) -> None:
        self.upstream = upstream
        self.response_started = response_started
        self.total = total
        self.read_only = read_only

    def __enter__(self) -> map_errors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or isinstance(error, (MinerError, asyncio.CancelledError)):
            return
        mapped = self._map(error)
        if mapped is not None:
            if isinstance(error, ConnectionError):
                self.upstream.on_connection_lost()
            mapped.engine_died = type(error) is ServerDisconnectedError and not self.read_only
            raise mapped from error

    def _map(self, error: BaseException) -> BackendError | None:
        """The error of miner; None if it is not a transport error."""
        upstream = self.upstream
        if isinstance(error, LocallyClosedError):
            return upstream.closed_error()
        if isinstance(error, ConnectError):
            problem = "does not accept the connection" if str(error) == "timed out" else "cannot be reached"
            hint = error.hint or upstream.unreachable_hint
            return upstream.error(
                BackendUnavailableError, f"{problem}: {error}.", operator_hint=hint, retryable=error.retryable
            )
        if isinstance(error, TimeoutError) and self.total is not None:
            hint = "The engine may be overloaded or hung: see its log."
            return upstream.error(BackendTimeoutError, f"did not respond within {self.total:g} s.", operator_hint=hint)
        if isinstance(error, TimeoutError):
            return upstream.timeout_error(f"sent nothing for {upstream.read_timeout:g} s (read timeout).")
        if isinstance(error, ConnectionError) and self.response_started:
            return interrupted(f"{upstream.label} sent an incomplete response: {_reason(error)}.", upstream)
        if isinstance(error, ConnectionError):
            return upstream.error(
                BackendUnavailableError, f"sent no response: {_reason(error)}.",
                operator_hint="The engine may have crashed: see its log.",
            )  # fmt: skip
        if isinstance(error, InvalidAddressError):
            return BackendUnavailableError(
                f"{upstream.shown_url!r} is not a valid address: {error}.",
                operator_hint=f"Correct {upstream.address_setting}: http://host:port, with a port up to 65535.",
                retryable=False, **upstream.details(),
            )  # fmt: skip
        if isinstance(error, (FramingError, msgspec.MsgspecError, UnicodeDecodeError)):
            return upstream.protocol_error(f"sent an invalid response: {_reason(error)}.")
        return None


def interrupted(message: str, upstream: Upstream, status: int | None = None) -> StreamInterruptedError:
    """The error for a response that ended before it was complete."""
    return StreamInterruptedError(
        message,
        hint=StreamInterruptedError.PARTIAL_HINT,
        operator_hint="The engine's log says why it stopped.",
        **upstream.details(status),
    )


def _reason(error: BaseException) -> str:
    """The cause in a few words, without Python's decoration."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")


@dataclass(slots=True)
class ErrorBody:
    """An engine's error response, whatever its shape."""

    message: str
    type: str | None = None
    param: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    """All fields of the innermost error object."""
    json: bool = True
    """Whether the body was JSON at all."""


def parse_error_body(body: bytes | str | dict[str, Any]) -> ErrorBody:
    """Parse an error in any of the engines' shapes: an object under `error`, a string there that may itself hold JSON
    (as Ollama passes on its runner's errors), `detail`, or plain text.
    """
    value: Any = body
    if isinstance(body, (bytes, str)):
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # nested too deeply
            text = body.decode(errors="replace") if isinstance(body, bytes) else body
            return ErrorBody(_short(text), json=False)
    for _ in range(4):  # no engine nests deeper than this
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
    """Return the seconds of a Retry-After header, which is a number or a date; None without a valid one."""
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
    """The error for an HTTP status, if the backend's own rules have nothing more specific."""
    problem = f"(HTTP {status}): {body.message.rstrip('.')}." if body.message else f"(HTTP {status})."
    match status:
        case 400 | 413 | 422:
            reason = f": {body.message}" if body.message else "."
            return InvalidRequestError(f"{subject(upstream.backend)} refused the request{reason}", param=body.param)
        case 401 | 403 if upstream.key_setting:
            hint = f"Set {upstream.key_setting} to a key that the server accepts."
            return upstream.error(
                AuthenticationError, f"refused the API key {problem}", status=status, operator_hint=hint
            )
        case 401 | 403:
            hint = "It may expect another Host header."
            return upstream.error(AuthenticationError, f"refused access {problem}", status=status, operator_hint=hint)
        case 404:
            return upstream.protocol_error(f"does not have this route {problem}", status=status)
        case 408 | 504:
            return upstream.timeout_error(f"timed out {problem}", status=status)
        case 503 if body.fields.get("code") == EngineStoppedError.code:  # a gateway of miner
            hint = "It was stopped there on purpose: nothing is sent again by itself."
            return upstream.error(EngineStoppedError, f"ended the request {problem}", status=status, hint=hint)
        case 429 | 502 | 503:
            kind, state = (
                (BackendOverloadedError, "has too many requests") if status == 429
                else (BackendUnavailableError, "is unavailable")
            )  # fmt: skip
            return upstream.error(
                kind, f"{state} {problem}", status=status, hint="Try again later.", retry_after=retry_after
            )
    return upstream.error(BackendError, f"failed {problem}", status=status, operator_hint="The engine's log says more.")


def redirect_error(status: int, location: str | None, upstream: Upstream) -> BackendProtocolError:
    """The error for a status from 300 to 399, which is never followed: a POST would become a GET, and a key would go
    along. No engine's API redirects: another program listens at the address.

    Args:
        location: the response's header. The error shows only its host: the rest may hold secrets.
    """
    return upstream.error(
        BackendProtocolError, f"redirects to {_redirect_host(location)} (HTTP {status}), which is not followed.",
        status=status, operator_hint=f"Set {upstream.address_setting} to the server's own address.",
    )  # fmt: skip


def _redirect_host(location: str | None) -> str:
    try:
        parts = urlsplit(location or "")
    except ValueError:
        return "an invalid URL"
    host = parts.netloc.rpartition("@")[2]
    if not host:
        return "another path"
    shown = f"{parts.scheme}://{host}" if parts.scheme in ("http", "https") else host
    return shown if shown.isprintable() and len(shown) <= 260 else "an invalid URL"
