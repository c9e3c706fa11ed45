"""Everything that miner raises on purpose.

::

    MinerError
      ConfigError                     a setting is wrong; the command line exits with 2
      RequestError                    an invalid request; retrying changes nothing
        InvalidRequestError           400  a parameter is malformed or out of range
        UnsupportedFeatureError       400  the backend or the model does not support the request
        ModelNotFoundError            404  no such model; carries the available ones
        ContextLengthError            400  the prompt does not fit; carries both numbers
      BackendError                    the engine's side
        BackendUnavailableError       503  cannot be reached, or is temporarily unavailable
          ServiceClosedError          503  the service was closed while the call ran; not retried
        BackendTimeoutError           504  read timeout
          CallTimeoutError            504  the call's own `timeout`, for all of it; no other backend is tried
        BackendOverloadedError        429  the queue is full; carries retry_after in seconds
        AuthenticationError           502  the engine refused our key (not the caller's key)
        BackendProtocolError          502  invalid response
          OutputValidationError       422  the response violates the requested format; carries the response
        StreamInterruptedError        502  the stream ended early; `partial` has what had arrived
        EngineStartError              503  an engine of ours did not start
        EngineStoppedError            503  an engine of ours was stopped on request, while the call waited for it
        EngineCrashedError            503  an engine of ours crashed; carries exit status and last log lines

Every error survives pickling and says what failed and where. What to do next is in two fields: `hint` is for
the caller, `operator_hint` for the operator of the server (settings, options, packages, paths): the log, the command
line and administrators see it, other clients do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from miner.core._typing import override

__all__ = [
    "AuthenticationError",
    "BackendError",
    "BackendOverloadedError",
    "BackendProtocolError",
    "BackendTimeoutError",
    "BackendUnavailableError",
    "CallTimeoutError",
    "ConfigError",
    "ContextLengthError",
    "EngineCrashedError",
    "EngineStartError",
    "EngineStoppedError",
    "InvalidRequestError",
    "MinerError",
    "ModelNotFoundError",
    "OutputValidationError",
    "RequestError",
    "ServiceClosedError",
    "StreamInterruptedError",
    "UnsupportedFeatureError",
]


def _restore(cls: type[MinerError], state: dict[str, Any]) -> MinerError:
    """Rebuild a pickled error without calling its constructor, whose arguments differ by class."""
    error = cls.__new__(cls, state["message"])
    error.__dict__.update(state)
    return error


class MinerError(Exception):
    """Base of all errors of miner. `str(error)` is the message followed by both hints."""

    http_status: ClassVar[int] = 500
    """HTTP status of the gateway's response."""
    code: ClassVar[str] = "internal_error"
    """A short name that programs can compare."""
    hint: str | None = None
    """What the caller can do."""
    operator_hint: str | None = None
    """What the operator can do; never shown to clients without the admin right."""

    def __init__(self, message: str, *, hint: str | None = None, operator_hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.operator_hint = operator_hint

    @property
    def hints(self) -> str | None:
        """Both hints, for the operator."""
        return " ".join(filter(None, (self.hint, self.operator_hint))) or None

    @property
    def hints_for_people(self) -> str | None:
        """Both hints, for who sits at a terminal: nothing there is an attribute of an object."""
        return self.operator_hint if self.hint == StreamInterruptedError.PARTIAL_HINT else self.hints

    @override
    def __str__(self) -> str:
        return " ".join(filter(None, (self.message, self.hint, self.operator_hint)))

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.__dict__)


class ConfigError(MinerError):
    """A setting is wrong: the message names the variable, its value and what is allowed."""

    code = "config_error"


class RequestError(MinerError):
    """The request cannot be served as it stands, by this backend or at all."""

    http_status = 400
    code = "invalid_request"

    def __init__(
        self, message: str, *, param: str | None = None, hint: str | None = None, operator_hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint, operator_hint=operator_hint)
        self.param = param
        """The invalid parameter, by the name that the caller used."""


class InvalidRequestError(RequestError):
    """A parameter is missing, malformed or out of range."""


class UnsupportedFeatureError(RequestError):
    """The backend or the model cannot honour `param`."""

    code = "unsupported_feature"


class ModelNotFoundError(RequestError):
    """No model of that name."""

    http_status = 404
    code = "model_not_found"

    def __init__(
        self,
        message: str,
        *,
        model: str | None = None,
        available: Sequence[str] = (),
        hint: str | None = None,
        operator_hint: str | None = None,
    ) -> None:
        super().__init__(message, param="model", hint=hint, operator_hint=operator_hint)
        self.model = model
        self.available = list(available)
        """Names that would work."""


class ContextLengthError(RequestError):
    """The prompt alone is longer than the context."""

    code = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        *,
        prompt_tokens: int | None = None,
        context_length: int | None = None,
        param: str | None = "messages",
        hint: str | None = None,
        operator_hint: str | None = None,
    ) -> None:
        super().__init__(message, param=param, hint=hint, operator_hint=operator_hint)
        self.prompt_tokens = prompt_tokens
        """Tokens of the prompt; vLLM counts only up to one more than fit."""
        self.context_length = context_length
        """Tokens that fit."""


class BackendError(MinerError):
    """The engine, or the way to it, failed."""

    http_status = 502
    code = "backend_error"
    retryable_by_default: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        backend: str | None = None,
        base_url: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        engine_died: bool = False,
        hint: str | None = None,
        operator_hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, operator_hint=operator_hint)
        self.backend = backend
        self.base_url = base_url
        self.status = status
        """HTTP status of the engine's response, if there was one."""
        self.retryable = self.retryable_by_default if retryable is None else retryable
        """Whether the same request may succeed later."""
        self.retry_after = retry_after
        """Seconds after which it may: from `Retry-After` or our own queue."""
        self.engine_died = engine_died
        """Whether an engine may have crashed on the request, which is then retried once at most."""
        self.partial: Any = None
        """The part of the reply that had arrived, as an LLMResponse; None if none had."""


class BackendUnavailableError(BackendError):
    """The server cannot be reached, or reports that it is unavailable."""

    http_status = 503
    code = "backend_unavailable"
    retryable_by_default = True


class ServiceClosedError(BackendUnavailableError):
    """The service was closed (`aclose`) while the call ran. The call is not retried."""

    code = "service_closed"
    retryable_by_default = False


class BackendTimeoutError(BackendError):
    """The engine sent nothing for longer than the timeout."""

    http_status = 504
    code = "backend_timeout"


class CallTimeoutError(BackendTimeoutError):
    """The call took longer than the caller wanted to wait for all of it: `timeout.total`."""


class BackendOverloadedError(BackendError):
    """A queue is full, ours or the engine's."""

    http_status = 429
    code = "overloaded"
    retryable_by_default = True


class AuthenticationError(BackendError):
    """The engine refused our key."""

    code = "backend_authentication"


class BackendProtocolError(BackendError):
    """The engine's response violates the protocol."""

    code = "backend_protocol"


class OutputValidationError(BackendProtocolError):
    """The response violates the requested format, or was cut off before it could match. 422, which clients do not
    retry: the same request would cost the same tokens again.
    """

    http_status = 422
    code = "invalid_output"

    def __init__(self, message: str, *, response: Any = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.response = response
        """The LLMResponse as received."""


class StreamInterruptedError(BackendError):
    """The stream ended before its finish reason or `[DONE]`."""

    code = "stream_interrupted"
    PARTIAL_HINT: ClassVar[str] = "What had arrived is in the error's `partial`."
    """Its hint, which is for callers in Python alone."""


class EngineStartError(BackendError):
    """An engine process of ours did not become ready."""

    http_status = 503
    code = "engine_start"

    def __init__(self, message: str, *, log_tail: Sequence[str] = (), **details: Any) -> None:
        super().__init__(message, **details)
        self.log_tail = list(log_tail)
        """The last lines that the engine printed."""


class EngineStoppedError(BackendError):
    """Somebody stopped an engine process of ours while the call waited for it. The call is not retried, which would
    start the engine again: that is for the caller.
    """

    http_status = 503
    code = "engine_stopped"
    retryable_by_default = True


class EngineCrashedError(BackendError):
    """An engine process of ours crashed while it served."""

    http_status = 503
    code = "engine_crashed"
    retryable_by_default = True

    def __init__(
        self,
        message: str,
        *,
        exit_status: int | None = None,
        log_tail: Sequence[str] = (),
        **details: Any,
    ) -> None:
        super().__init__(message, **{"engine_died": True, **details})
        self.exit_status = exit_status
        """The process's exit status; negative: the signal that killed it."""
        self.log_tail = list(log_tail)
        """The last lines that the engine printed."""
