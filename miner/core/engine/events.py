"""What happens to engines, for whoever watches: a console, a fleet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from miner.errors import MinerError

logger = logging.getLogger("miner.engine")

EngineEventState = Literal["loading", "ready", "evicting", "stopping", "stopped", "sleeping", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """One change of an engine."""

    model: str
    """The engine's name."""
    state: EngineEventState
    """sleeping: its process waits without GPU memory; evicting: it gets no new requests and stops when those in flight
    are done; failed: it crashed, or did not start; refused: it cannot be loaded, for `reason`."""
    reason: str | None = None
    seconds: float | None = None
    """How long the load took."""
    memory: int | None = None
    """Bytes of main memory that it counts for, or has, once it is ready."""
    at: float = field(default_factory=time.time)
    """Seconds since 1970."""


class EngineEvents:
    """Passes events on to its listeners, on the event loop that serves."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[EngineEvent], None]] = []

    def listen(self, listener: Callable[[EngineEvent], None]) -> Callable[[], None]:
        """Call `listener` for each event from now on; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def load_failed_unheard(self, model: str, error: MinerError) -> None:
        """Tell the log why a load has failed for which nobody waits any more. Who waits gets the error, and says it."""
        logger.error("%s could not be loaded, and nobody waits for it: %s", model, " ".join(str(error).split()))

    def emit(self, event: EngineEvent) -> None:
        """Tell the log and the listeners."""
        if event.state == "ready":
            logger.info("%s is loaded (%.1f s).", event.model, event.seconds or 0.0)
        elif event.reason is not None and event.state in ("evicting", "stopping"):
            logger.info("%s is unloaded: %s.", event.model, event.reason)
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:  # one that watches must not break those that work
                logger.exception("A listener for engine events failed.")
