"""What an engine is started from (AnySpec, EngineSpec), its address, and its interface for the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from miner.config.llamacpp import CACHE_TYPES, FLASH_ATTENTION, POOLING_TYPES, FlagValue
from miner.core._typing import override
from miner.core.engine.diagnosis import FROM_OUTSIDE, Reason, check_model_file, explain
from miner.core.engine.logtail import EngineLog
from miner.core.engine.speculation import check_speculation
from miner.errors import ConfigError, EngineCrashedError, EngineStartError

EngineState = Literal["stopped", "starting", "ready", "sleeping", "stopping", "failed"]

_MOST_THREADS = 512  # ggml's own bound; far above the cores of the machine it takes minutes to load a small model


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One llama.cpp server: a model and its launch options. None: llama.cpp's default, unless documented otherwise.

    Raises:
        ConfigError: a value is out of range; names the value and what is allowed.
    """

    model_path: Path
    alias: str
    """The name that the engine reports for the model."""
    ctx_size: int
    """Tokens of each slot, prompt and reply together; llama.cpp rounds up to a multiple of 256."""
    parallel: int
    """Slots: requests that are computed concurrently."""
    threads: int | None = None
    """None: one per physical core that this process may use."""
    n_gpu_layers: int | None = None
    flash_attn: str | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    batch_size: int = 512
    """Tokens per batch: a cancelled prefill ends with its batch. With `pooling` also the longest text that can be
    embedded: use the context size there."""
    pooling: str | None = None
    """Set: the engine also serves embeddings (`rank`: reranking), at no cost for text."""
    mmproj: Path | None = None
    """The model's vision projector."""
    chat_template: str | None = None
    """A Jinja template that replaces the model's."""
    lora: tuple[tuple[Path, float], ...] = ()
    """LoRA adapters, each with its scale, that apply to every request."""
    cpu_moe: bool = False
    """Keep the experts of all layers in main memory."""
    n_cpu_moe: int | None = None
    """The same for the first so many layers."""
    spec_type: str | None = None
    """Kinds of speculation (`--spec-type`), comma-separated."""
    spec_draft_model: Path | None = None
    spec_draft_n_max: int | None = None
    """Most tokens that are guessed ahead, of whatever kind."""
    spec_draft_n_min: int | None = None
    spec_draft_p_min: float | None = None
    spec_draft_ngl: int | None = None
    """Layers of the draft model on GPUs; negative: all."""
    flags: tuple[tuple[str, FlagValue], ...] = ()
    """Other options of llama-server, by their first names (`flags.check.checked`)."""
    files: tuple[tuple[str, int, int, int], ...] = ()
    """Path, bytes, modification time and inode of the files of model, projector and adapters: a replaced file is
    another engine."""
    draft_files: tuple[tuple[str, int, int, int], ...] = ()
    """The same of the draft model, in the order of its parts."""
    cache_ram_mib: int = 0
    """MiB of main memory for cached prompts, besides the cache of each slot."""

    def __post_init__(self) -> None:
        if not self.alias:
            raise ConfigError("An engine's alias is empty.", hint="Give the model a name.")
        for name, least in (("ctx_size", 1), ("parallel", 1), ("batch_size", 1), ("cache_ram_mib", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be {least} or more.")
        if self.threads is not None and not 1 <= self.threads <= _MOST_THREADS:
            raise ConfigError(
                f"threads={self.threads}: must be 1 to {_MOST_THREADS}.", operator_hint="Set LLAMACPP_THREADS."
            )
        _one_of("flash_attn", "LLAMACPP_FLASH_ATTN", self.flash_attn, FLASH_ATTENTION)
        _one_of("cache_type_k", "LLAMACPP_CACHE_TYPE_K", self.cache_type_k, CACHE_TYPES)
        _one_of("cache_type_v", "LLAMACPP_CACHE_TYPE_V", self.cache_type_v, CACHE_TYPES)
        _one_of("pooling", None, self.pooling, POOLING_TYPES)
        check_speculation(
            self.spec_types, has_draft=self.spec_draft_model is not None, n_max=self.spec_draft_n_max,
            n_min=self.spec_draft_n_min, p_min=self.spec_draft_p_min, n_gpu_layers=self.spec_draft_ngl,
        )  # fmt: skip

    @property
    def mmproj_bytes(self) -> int:
        """Size of the projector's file."""
        if self.mmproj is None:
            return 0
        known = next((size for path, size, *_ in self.files if path == str(self.mmproj)), None)
        return self.mmproj.stat().st_size if known is None else known

    @property
    def spec_types(self) -> tuple[str, ...]:
        """The kinds of speculation; a draft model alone is used as such."""
        if self.spec_type is None:
            return ("draft-simple",) if self.spec_draft_model is not None else ()
        return tuple(self.spec_type.split(","))

    @property
    def lora_bytes(self) -> int:
        """Size of the adapters' files."""
        sizes = {path: size for path, size, *_ in self.files}
        return sum(sizes.get(str(path), 0) for path, _ in self.lora)

    def flag(self, name: str) -> FlagValue | None:
        """The value of a flag; None if it is not set."""
        return dict(self.flags).get(name)

    @property
    def embeds(self) -> bool:
        """Whether the engine serves embeddings."""
        return self.pooling not in (None, "rank")

    @property
    def ranks(self) -> bool:
        """Whether the engine serves reranking."""
        return self.pooling == "rank"

    @property
    def slots(self) -> int:
        """The same as `parallel`: it is started with them."""
        return self.parallel

    backend: ClassVar[str] = "llamacpp"
    smaller_hint: ClassVar[str] = "lower LLAMACPP_CTX_SIZE or LLAMACPP_PARALLEL"
    start_timeout_setting: ClassVar[str] = "LLAMACPP_START_TIMEOUT"
    log_lines: ClassVar[int] = 40

    @property
    def title(self) -> str:
        """What messages call the engine, after "The"."""
        return f"llama.cpp engine for {self.alias}"

    @property
    def origin(self) -> str | None:
        """The model's file."""
        return str(self.model_path)

    def problem(self) -> Reason | None:
        """What is wrong with the model's file."""
        return check_model_file(self.model_path)

    def fingerprint(self) -> tuple[float, int] | None:
        """Time and size of the model's file."""
        try:
            found = self.model_path.stat()
        except OSError:
            return None
        return found.st_mtime, found.st_size

    def stalled(self, lines: Sequence[str]) -> Reason | None:
        """Nothing: the log says what it does."""
        return None

    def explain(self, lines: Sequence[str], status: int | None, *, served: bool) -> Reason:
        """Why llama.cpp failed."""
        return FROM_OUTSIDE if served and status == 0 else explain(lines, status)


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Address of one run of an engine; another run has another address."""

    base_url: str
    """Without /v1 and trailing slash."""
    unix_socket: Path | None = None
    """The socket to connect to instead of the URL's host."""
    api_key: str | None = field(default=None, repr=False)
    run: int = 0
    """Tells runs at the same port apart."""


class AnySpec(Protocol):
    """What the pool needs to know of an engine: hashable, and equal specs are the same engine."""

    @property
    def alias(self) -> str:
        """The name in messages and tables."""

    @property
    def slots(self) -> int | None:
        """Requests that it works on at once; None: nobody says, and `parallel` is only a bound."""

    @property
    def parallel(self) -> int:
        """Requests that it computes at once."""

    @property
    def backend(self) -> str:
        """The backend that errors name."""

    @property
    def smaller_hint(self) -> str:
        """How it takes less memory."""

    @override
    def __hash__(self) -> int: ...


class ProcessSpec(AnySpec, Protocol):
    """What an `EngineProcess` needs to know besides."""

    @property
    def title(self) -> str:
        """What messages call the engine, after "The"."""

    @property
    def origin(self) -> str | None:
        """What a failed start names besides: the file."""

    @property
    def start_timeout_setting(self) -> str:
        """The setting that limits a start without progress."""

    @property
    def log_lines(self) -> int:
        """How many of its last log lines are needed to find out why it failed."""

    def problem(self) -> Reason | None:
        """Why it cannot be started, judged by files; None: nothing is wrong."""

    def fingerprint(self) -> Any:
        """Changes when the file that failed is replaced."""

    def stalled(self, lines: Sequence[str]) -> Reason | None:
        """What a start that is given up lacks, by the lines that the child printed itself; None: nothing is known."""

    def explain(self, lines: Sequence[str], status: int | None, *, served: bool) -> Reason:
        """Why it failed, by its last log lines and its exit status.

        Args:
            served: whether it was ready before.
        """


class EngineSource(Protocol):
    """Makes the engines of specs."""

    def make(self, spec: Any) -> Engine:
        """The engine of a spec, not started."""

    def memory_of(self, spec: Any) -> tuple[int | None, tuple[int, ...]]:
        """Bytes of main memory, None: unknown before it runs, and on each GPU that it takes. Its errors reach the
        caller of `lease`.
        """


class Engine(Protocol):
    """Interface of an engine for the pool; implemented by `EngineProcess`."""

    @property
    def state(self) -> EngineState:
        """The engine's current state."""

    @property
    def pid(self) -> int | None:
        """The process id; None if no process runs."""

    @property
    def memory(self) -> int | None:
        """Resident memory in bytes; None if unknown."""

    @property
    def gpu_memory(self) -> tuple[int, ...]:
        """Bytes that it was seen to take on each GPU; empty: not measured."""

    @property
    def spinning_threads(self) -> int:
        """Threads with which it computes on processors, without OpenMP: they spin while they wait. 0: none."""

    @property
    def restarts(self) -> int:
        """Restarts after a crash."""

    @property
    def log_tail(self) -> Sequence[str]:
        """The last lines of its log, as errors show them."""

    def log(self) -> EngineLog:
        """All complete lines of its log that are kept."""

    @property
    def kv_cache(self) -> str | None:
        """What of its prompts outlives a stop, or why nothing does; None: nothing yet."""

    @property
    def can_sleep(self) -> bool:
        """Whether it can sleep now instead of being stopped."""

    async def sleep(self) -> None:
        """Free all GPU memory, and serve nothing, until `ensure_ready`; raises EngineStartError if it does not."""

    async def ensure_ready(self) -> EngineAddress:
        """Start it or wake it up if needed, after a pause if it crashed; raises EngineStartError."""

    async def before_stop(self) -> None:
        """Called before it is stopped for a while (evicted, or idle for too long), and cancelled if that takes long."""

    @property
    def stop_seconds(self) -> float:
        """How long `stop` takes at most."""

    async def stop(self) -> None:
        """Stop the process; returns when its memory is free."""

    def fail(self, reason: str, operator_hint: str | None = None) -> None:
        """Kill a process that does not work; counts as a crash for that reason. Returns at once."""

    def suspend(self) -> None:
        """Suspend the process if it is ready, until `resume`; a few seconds at most. It is no crash."""

    def resume(self) -> None:
        """Let a suspended process go on."""

    @property
    def can_bind(self) -> bool:
        """Whether it computes on processors with OpenMP, and a thread for each core."""

    def bind(self) -> None:
        """Begin to bind the threads that compute to one core each."""

    def release(self) -> None:
        """Undo `bind`."""

    def kill(self) -> None:
        """Kill the process, with or without a running loop, on which it does not wait."""

    def cooldown_error(self) -> EngineStartError | None:
        """The error of starts while it is `failed`, with `retry_after`; else None."""

    async def recheck_model_file(self) -> None:
        """Forget the crashes if the file that failed (the model, the program) was replaced since."""

    def reset(self) -> None:
        """Forget the crashes."""

    def crash_error(self, address: EngineAddress | None = None) -> EngineCrashedError | None:
        """Why the process, or the one at `address`, crashed; None if it did not."""

    async def wait_for_exit(self, address: EngineAddress | None = None) -> EngineCrashedError:
        """Wait until the process, or the one at `address`, has exited; return why."""


def _one_of(name: str, variable: str | None, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        hint = f"Set {variable}." if variable else None
        raise ConfigError(f"{name}={value!r}: must be one of {', '.join(allowed)}.", hint=hint)
