"""Which errors of a backend another one may do better at, and which error is raised if none served a call."""

from __future__ import annotations

from miner.errors import (
    BackendError,
    BackendProtocolError,
    EngineCrashedError,
    MinerError,
    OutputValidationError,
    RequestError,
    ServiceClosedError,
    StreamInterruptedError,
)


def is_unavailable(error: BackendError) -> bool:
    """Whether another backend may do better: not where the engine's response was bad or broke off, nor where the
    service was closed.
    """
    if isinstance(error, EngineCrashedError) and isinstance(error.__cause__, StreamInterruptedError):
        return False
    return not isinstance(
        error, (BackendProtocolError, OutputValidationError, ServiceClosedError, StreamInterruptedError)
    )


def worst(failed: BackendError | None, refused: RequestError | None) -> MinerError:
    """The error to raise if no backend served the call: that of an unavailable one first, which might have supported
    it.
    """
    error = failed or refused
    assert error is not None
    return error
