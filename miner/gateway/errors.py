"""The errors of the gateway itself, and the public form of any error."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from miner.errors import (
    BackendError,
    ContextLengthError,
    EngineStoppedError,
    MinerError,
    ModelNotFoundError,
    RequestError,
    ServiceClosedError,
    StreamInterruptedError,
)


class RefusedError(MinerError):
    """The gateway itself refuses the request: no key, too many requests, no such path."""

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
    """An unexpected exception was raised: its cause, which the log has and the client does not."""

    def __init__(self) -> None:
        super().__init__(500, "internal_error", "Internal server error.")


def cause_of(error: MinerError) -> BaseException:
    """The unexpected exception behind an InternalServerError; any other error itself."""
    return (error.__cause__ if isinstance(error, InternalServerError) else None) or error


class ClientGoneError(ConnectionResetError):
    """The client has closed the connection, or does not read."""


class ErrorBoundary:
    """Turns whatever leaves the block into an InternalServerError, with the exception as its cause.

    Errors of miner, a disconnected client, and cancellation of this task pass unchanged. A CancelledError that
    was not requested of this task, SystemExit, GeneratorExit and such come from the code of a backend or of a hook: in
    the task of a request they would end a connection without a response, or the server. Not for blocks with a
    `yield` in them.
    """

    __slots__ = ("_cancelling", "_task")

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, (MinerError, ClientGoneError)):
            return
        if isinstance(error, GeneratorExit) and _current_task() is not self._task:
            return  # the task was dropped, and its coroutine is closed
        if isinstance(error, asyncio.CancelledError) and self._task.cancelling() > self._cancelling:
            return
        raise InternalServerError from error


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs any more
        return None


@dataclass(slots=True)
class Failure:
    """An error as a client gets it; each dialect writes it in its own format."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    """Id of the request, for dialects that send it in the body too."""
    prompt_tokens: int | None = None
    """Tokens of a prompt that is too long, where they are known."""
    context_length: int | None = None
    """Tokens that would have fitted."""
    model: str | None = None
    """The model that was not found."""

    def __post_init__(self) -> None:
        # A file's name or an engine's message may hold lone surrogates; JSON cannot.
        self.message = self.message.encode(errors="replace").decode()


_LONGEST = 4096
"""Characters of a message: some quote the request."""


def shortened(text: str) -> str:
    """The text, or its beginning and end."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}...{text[-half:]}"


_ADDRESS = re.compile(r"(?: at)? (?:https?|unix)://[^\s,;'\"]+")
_ROOTS = (
    r"Applications|Library|System|Users|Volumes|app|bin|boot|cache|content|data|dev|docker|etc|export|gpfs|home|kaggle|"
    r"lib|lib64|lustre|media|mnt|nas|nfs|nix|opt|private|proc|root|run|sbin|scratch|sdcard|snap|srv|storage|sys|tmp|"
    r"usr|var|vol|volume\d*|work|workspaces?"
)
_SUFFIXES = (
    "bin|cfg|conf|env|ggml|gguf|h5|ini|jinja|json|jsonl|log|mmproj|"
    "onnx|pem|py|pt|pth|safetensors|so|sock|toml|txt|ya?ml"
)
_PART = r"[\w.@+~%=-]+"
_PATH = re.compile(
    rf"(?<![\w/.:#%?&=~-])(?:"
    rf"/(?:{_ROOTS})(?:/{_PART})+/?"  # below a directory that machines have
    rf"|~/(?:{_PART}/)*{_PART}"
    rf"|(?!/(?:api|v1|admin)/)/(?:{_PART}/)+{_PART}\.(?:{_SUFFIXES})\b"  # a file, wherever it is
    rf"|[A-Za-z]:[\\/](?:[^\\/:*?\"'<>|\s]+[\\/])*[^\\/:*?\"'<>|\s]+"
    rf")"
)
_QUOTED = re.compile(rf"(?<=(['\"`]))(?:/(?:{_ROOTS})/|~/|[A-Za-z]:[\\/])[^'\"`\n]+(?=\1)")
"""A quoted path with spaces in it."""


def redact(text: str) -> str:
    """The text without addresses and file paths. Routes (`/api/chat`) and places in JSON (`#/properties/a`) are the
    client's own, and stay.
    """
    return _PATH.sub("<path>", _QUOTED.sub("<path>", _ADDRESS.sub("", text)))


def public(text: str) -> str:
    """The text as any client may read it: redacted, and not too long."""
    return redact(shortened(text))


def retry_after_header(seconds: float) -> str:
    """The header's value: seconds, rounded up."""
    return str(max(1, math.ceil(seconds)))


def overflow_words(prompt_tokens: int | None, context_length: int | None) -> str:
    """The words of Anthropic and of OpenAI about a prompt that is too long, by which clients know that they have to
    shorten the conversation (Claude Code, Cline, opencode, LangChain, litellm).
    """
    if context_length is None:
        return "prompt is too long: it exceeds this model's maximum context length."
    tokens = str(prompt_tokens)
    if prompt_tokens is None or prompt_tokens <= context_length:
        tokens = f"at least {context_length + 1}"
    return (
        f"prompt is too long: {tokens} tokens > {context_length} maximum. "
        f"This model's maximum context length is {context_length} tokens."
    )


_LIBRARY_HINTS = (ModelNotFoundError, ServiceClosedError, StreamInterruptedError)
"""Errors whose hints are for callers of the library: they list models that the client's key may not allow, or refer to
Python objects.
"""


def failure_of(error: MinerError, request_id: str = "", *, admin: bool = False) -> Failure:
    """The public form of an error: its message and hint, redacted. Its operator hint is for admins and the log
    (`log_error`) only.
    """
    headers: dict[str, str] = {}
    hint = None if isinstance(error, _LIBRARY_HINTS) else error.hint
    message = error.message
    if hint and message[-1:].isalnum():  # Ollama's own words have no stop
        message += "."
    text = shortened(" ".join(filter(None, (message, hint))))
    operator_hint = f" {error.operator_hint}" if admin and error.operator_hint else ""
    if isinstance(error, RefusedError):
        if error.retry_after is not None:
            headers["Retry-After"] = retry_after_header(error.retry_after)
        headers.update(error.headers)
        return Failure(error.status, error.refusal, text + operator_hint, error.param, headers, request_id)
    text = redact(text)
    if isinstance(error, BackendError):
        if isinstance(error, EngineStoppedError):
            headers["X-Should-Retry"] = "false"  # clients of OpenAI and Anthropic would start the engine again unasked
        elif error.http_status in (429, 503):
            headers["Retry-After"] = retry_after_header(error.retry_after or 1.0)
        return Failure(error.http_status, error.code, text + operator_hint, None, headers, request_id)
    if isinstance(error, ContextLengthError):
        if error.context_length is not None or "prompt is too long" not in text.lower():
            text = f"{overflow_words(error.prompt_tokens, error.context_length)} {text}"
        text += operator_hint
        return Failure(
            error.http_status, error.code, text, error.param, headers, request_id, error.prompt_tokens,
            error.context_length,
        )  # fmt: skip
    if isinstance(error, RequestError):
        failure = Failure(error.http_status, error.code, text + operator_hint, error.param, headers, request_id)
        if isinstance(error, ModelNotFoundError):
            failure.model = error.model
        return failure
    text = "The server is misconfigured; its log has the details."
    return Failure(500, "internal_error", text + operator_hint, None, headers, request_id)
