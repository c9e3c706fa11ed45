"""The limits of an engine pool."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import ConfigError

__all__ = ["PoolLimits"]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of a pool; seconds and bytes. None: no bound."""

    max_queue: int = 1024
    """Requests beyond the engines' slots, all models together."""
    queue_timeout: float = 300.0
    """A request waits this long at most, for a slot, for room and for the load."""
    memory_budget: int | None = None
    """Bytes of the machine's memory for all engines together, by the pool's `memory_of`."""
    gpu_budget: tuple[int, ...] = ()
    """Bytes on each GPU for all engines together, by the pool's `gpu_memory_of`."""
    max_loaded: int | None = None
    """Engines at a time."""
    idle_timeout: float | None = None
    """An engine without a request for this long is unloaded."""
    fairness_wait: float = 10.0
    """While others wait, a loaded model goes on for this long."""
    linger: float = 1.0
    """While others wait, an idle engine is kept for this long at most, in case its client's next request follows."""
    start_timeout: float = 1800.0
    """Last bound of a load, pauses between restarts included; the engine has a stricter one on silence."""
    stop_timeout: float = 30.0
    """An engine that has not stopped by then is killed."""

    def __post_init__(self) -> None:
        for name, least in (("max_queue", 0), ("max_loaded", 1), ("memory_budget", 1), ("idle_timeout", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be {least} or more.")
        for name in ("queue_timeout", "fairness_wait", "linger", "start_timeout", "stop_timeout"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}; it must be a number of seconds, 0 or more.")
