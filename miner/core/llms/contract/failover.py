"""Which errors of a backend another one may do better at, and which error is raised if none served a call."""

from __future__ import annotations

import logging
import time

from miner.errors import (
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    CallTimeoutError,
    EngineCrashedError,
    MinerError,
    OutputValidationError,
    RequestError,
    ServiceClosedError,
    StreamInterruptedError,
)

logger = logging.getLogger("miner.fallback")


def is_unavailable(error: BackendError) -> bool:
    """Whether another backend may do better: not where the engine's response was bad or broke off, nor where the
    service was closed or the time of the caller is over.
    """
    if isinstance(error, EngineCrashedError) and isinstance(error.__cause__, StreamInterruptedError):
        return False
    return not isinstance(
        error,
        (BackendProtocolError, CallTimeoutError, OutputValidationError, ServiceClosedError, StreamInterruptedError),
    )


def worst(failed: BackendError | None, refused: RequestError | None) -> MinerError:
    """The error to raise if no backend served the call: that of an unavailable one first, which might have supported
    it.
    """
    error = failed or refused
    assert error is not None
    return error


class Cooldowns:
    """Who has failed lately, and is tried after the others."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return self._until.get(name, 0.0) > time.monotonic()

    def start(self, name: str, error: BackendError, seconds: float) -> None:
        """One is unavailable: others are tried before it for so many seconds."""
        if isinstance(error, BackendOverloadedError) and error.status is None:
            return  # its queue refused this client: others still get their slots
        self._until[name] = time.monotonic() + seconds
        logger.warning("%s In cooldown for %g s; using the next one.", error.message, seconds)
