"""The limits of an engine pool."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Limits of an engine pool, in seconds and bytes. None: no limit."""

    max_queue: int = 1024
    """Requests beyond the engines' slots, all models together."""
    queue_timeout: float = 300.0
    """Maximum wait of a request for a slot, for memory and for the load."""
    memory_budget: int | None = None
    """Bytes of main memory for all engines together, as the pool's `memory_of` counts them."""
    gpu_budget: tuple[int, ...] = ()
    """Bytes on each GPU for all engines together, as the pool's `gpu_memory_of` counts them."""
    max_loaded: int | None = None
    """Engines loaded at once."""
    cores: int | None = None
    """Processor cores: engines without OpenMP never compute with more threads together."""
    idle_timeout: float | None = None
    """An engine without requests for this long is unloaded."""
    fairness_wait: float = 10.0
    """While other models wait, a busy engine keeps serving for this long: its time slice."""
    idle_grace: float = 1.0
    """While other models wait, an idle engine is kept for this long at most."""
    start_timeout: float = 1800.0
    """Maximum duration of a load, with all pauses between restarts."""
    prepare_timeout: float = 10.0
    """An engine that is evicted, or unloaded for idleness, may prepare its stop for this long at most."""
    stop_timeout: float = 30.0
    """An engine that has not stopped after this long is killed."""
    others: tuple[str, ...] = ()
    """Other programs that take memory which engines could have, for messages."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_queue", 0),
            ("max_loaded", 1),
            ("cores", 1),
            ("memory_budget", 1),
            ("idle_timeout", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be {least} or more.")
        for name in (
            "queue_timeout", "fairness_wait", "idle_grace", "start_timeout", "prepare_timeout", "stop_timeout",
        ):  # fmt: skip
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}; it must be a number of seconds, 0 or more.")
