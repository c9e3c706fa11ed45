"""What engine to run, and where it answers. Plain data; equal specs share an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from miner.config.llamacpp import CACHE_TYPES, FLASH_ATTENTION, POOLING_TYPES
from miner.errors import ConfigError, EngineCrashedError, EngineStartError

__all__ = [
    "Engine",
    "EngineAddress",
    "EngineInfo",
    "EngineSpec",
    "EngineState",
]

EngineState = Literal["stopped", "starting", "ready", "stopping", "failed"]

_MOST_THREADS = 512  # ggml's own bound; far above the cores of the machine it takes minutes to load a small model


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One llama.cpp server: a model and how it is run. None leaves the choice to llama.cpp, or to us where said so.

    Raises:
        ConfigError: a value is out of range; names the value and what is allowed.
    """

    model_path: Path
    alias: str
    """The name that the engine reports for the model."""
    ctx_size: int
    """Tokens of each slot, prompt and reply together; llama.cpp rounds up to a multiple of 256."""
    parallel: int
    """Slots: requests that are computed at the same time."""
    threads: int | None = None
    """None: one for each physical core that this process may use."""
    n_gpu_layers: int | None = None
    flash_attn: str | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    batch_size: int = 512
    """Tokens computed in one go, which is how soon a cancelled prefill ends. With `pooling` it is also the
    longest text that can be embedded: take the context size there."""
    pooling: str | None = None
    """Set: the engine answers embeddings (`rank`: reranking) besides text, at no cost for the text."""
    mmproj: Path | None = None
    """The vision projector that belongs to the model."""
    chat_template: str | None = None
    """Jinja text that replaces the model's own template."""
    files: tuple[tuple[str, int, int, int], ...] = ()
    """Path, bytes, modification time and inode of the model's files and its projector's: a file that was replaced is
    another engine."""
    cache_ram_mib: int = 0
    """MiB of host memory that may keep prompts which lost their slot, beside the cache that each slot has."""

    def __post_init__(self) -> None:
        if not self.alias:
            raise ConfigError("An engine's alias is empty.", hint="Give the model a name.")
        _at_least("ctx_size", self.ctx_size, 1)
        _at_least("parallel", self.parallel, 1)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("cache_ram_mib", self.cache_ram_mib, 0)
        if self.threads is not None and not 1 <= self.threads <= _MOST_THREADS:
            raise ConfigError(
                f"threads={self.threads}: must be 1 to {_MOST_THREADS}.", operator_hint="Set LLAMACPP_THREADS."
            )
        _one_of("flash_attn", "LLAMACPP_FLASH_ATTN", self.flash_attn, FLASH_ATTENTION)
        _one_of("cache_type_k", "LLAMACPP_CACHE_TYPE_K", self.cache_type_k, CACHE_TYPES)
        _one_of("cache_type_v", "LLAMACPP_CACHE_TYPE_V", self.cache_type_v, CACHE_TYPES)
        _one_of("pooling", None, self.pooling, POOLING_TYPES)

    @property
    def mmproj_bytes(self) -> int:
        """Size of the projector's file."""
        if self.mmproj is None:
            return 0
        known = next((size for path, size, *_ in self.files if path == str(self.mmproj)), None)
        return self.mmproj.stat().st_size if known is None else known

    @property
    def embeds(self) -> bool:
        """Whether the engine answers embeddings."""
        return self.pooling not in (None, "rank")

    @property
    def ranks(self) -> bool:
        """Whether the engine answers reranking."""
        return self.pooling == "rank"


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where one start of an engine answers; another start has another address."""

    base_url: str
    """Without /v1, and without a slash at the end."""
    unix_socket: Path | None = None
    """The socket to connect to instead of the URL's host."""
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine said of itself when it was ready; None where it does not tell."""

    build: str | None = None
    n_ctx: int | None = None
    """Tokens of each slot, as the engine made it."""
    slots: int | None = None


class Engine(Protocol):
    """What the pool asks of an engine; `EngineProcess` is one."""

    @property
    def state(self) -> EngineState:
        """What it does now."""

    @property
    def pid(self) -> int | None:
        """The process id; None if no process runs."""

    @property
    def memory(self) -> int | None:
        """Resident memory in bytes; None if unknown."""

    @property
    def restarts(self) -> int:
        """Restarts after a crash."""

    @property
    def log_tail(self) -> Sequence[str]:
        """The last lines of its log."""

    async def ensure_ready(self) -> EngineAddress:
        """Start, if need be after a pause; raises EngineStartError."""

    async def stop(self) -> None:
        """End the process; returns when its memory is free."""

    def fail(self, reason: str, operator_hint: str | None = None) -> None:
        """End a process that does not work, as a crash for that reason; returns at once."""

    def kill(self) -> None:
        """End the process at once, with or without a loop, on which it does not wait."""

    def cooldown_error(self) -> EngineStartError | None:
        """Why it is not started now, although asked for, and for how long; given while it is `failed`."""

    async def recheck_model_file(self) -> None:
        """Forget past failures if they were those of another model file."""

    def reset(self) -> None:
        """Forget past failures."""

    def crash_error(self, address: EngineAddress | None = None) -> EngineCrashedError | None:
        """Why the process, or the one that answered at `address`, is gone, if it went by itself."""

    async def wait_for_exit(self, address: EngineAddress | None = None) -> EngineCrashedError:
        """Wait until the process, or the one that answers at `address`, is gone."""


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}={value}: must be {least} or more.")


def _one_of(name: str, variable: str | None, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        hint = f"Set {variable}." if variable else None
        raise ConfigError(f"{name}={value!r}: must be one of {', '.join(allowed)}.", hint=hint)
