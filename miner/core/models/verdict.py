"""Whether a model fits into the memory that is free, with the numbers that say so and the way out if not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from miner.core._typing import override
from miner.core.models.fit import Estimate, estimate, largest_context
from miner.core.models.gguf import GGUFHeader
from miner.core.models.layers import PAD
from miner.core.models.memory import Memory

__all__ = ["Load", "Verdict", "judge", "readable"]

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Load:
    """How a model is to be loaded, in the words of `estimate`."""

    ctx_size: int
    parallel: int = 1
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    batch_size: int = 512
    mmproj_bytes: int = 0
    n_gpu_layers: int | None = 0
    """Negative: all; None: as many as the engine finds room for, if it can use a GPU at all."""
    flash_attn: bool = True
    checkpoints: int = 32

    @override
    def __str__(self) -> str:
        return f"{self.parallel} {'slot' if self.parallel == 1 else 'slots'} of {self.ctx_size} tokens"

    def estimate(self, header: GGUFHeader, ctx_size: int | None = None) -> Estimate:
        """What this takes, or would take with another context."""
        return estimate(
            header,
            ctx_size=ctx_size or self.ctx_size,
            parallel=self.parallel,
            cache_type_k=self.cache_type_k,
            cache_type_v=self.cache_type_v,
            batch_size=self.batch_size,
            mmproj_bytes=self.mmproj_bytes,
            n_gpu_layers=self.n_gpu_layers or 0,
            flash_attn=self.flash_attn,
            checkpoints=self.checkpoints,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, with its numbers in bytes."""

    load: Load
    estimate: Estimate
    memory: Memory
    fits: bool | None
    """None: nobody can say. The system does not tell what is free, or it depends on a GPU that cannot be seen."""
    largest_context: int | None
    """Tokens of a slot that would fit with as many slots, at most what the model was trained for; 0: none would."""

    @property
    def reason(self) -> str:
        """One sentence with the numbers."""
        needs = f"{readable(self.estimate.ram)} of memory for {self.load}"
        if self.estimate.gpu:
            needs += f" and {readable(self.estimate.gpu)} of GPU memory"
        free = "an unknown amount is free"
        if self.memory.available is not None:
            free = f"{readable(self.memory.available)} is free"
        if self.estimate.gpu:
            free += f" and {readable(sum(self.memory.gpu_available))} on the GPUs"
        return f"The model needs {needs}; {free}."

    @property
    def hint(self) -> str:
        """What to do where it does not fit."""
        if self.largest_context:
            return (
                f"The largest context that fits is {self.largest_context} tokens a slot: set LLAMACPP_CTX_SIZE to it."
            )
        if self.load.parallel > 1:
            return "No context fits with so many slots: set LLAMACPP_PARALLEL to 1, or use a smaller model."
        return "No context fits: use a smaller model or a stronger quantisation."

    def rows(self) -> list[tuple[str, str]]:
        """The numbers as a table of two columns."""
        parts = self.estimate
        rows = [
            ("weights", parts.weights),
            ("repacked weights", parts.repacked),
            ("KV cache", parts.kv_cache),
            ("compute buffers", parts.compute),
            ("projector", parts.projector),
            ("process and vocabulary", parts.overhead),
            ("resident", parts.total - parts.gpu),
            ("on the GPUs", parts.gpu),
            ("checkpoints, at most", parts.checkpoints),
            ("needed", parts.ram),
        ]
        always = ("weights", "KV cache", "compute buffers", "process and vocabulary", "needed")
        table = [(name, readable(size)) for name, size in rows if size or name in always]
        if self.memory.available is not None:
            table.append(("free memory", readable(self.memory.available)))
        table += [(f"free on GPU {number}", readable(size)) for number, size in enumerate(self.memory.gpu_available)]
        return table


def judge(header: GGUFHeader, load: Load, memory: Memory) -> Verdict:
    """Hold what the load takes against what is free.

    Raises:
        ValueError: a cache type does not exist.
    """
    # Layers that llama.cpp puts on GPUs by itself, or on one of a make that we cannot ask, may make it fit after all.
    gpu_may_help = bool(memory.gpu_available) if load.n_gpu_layers is None else bool(load.n_gpu_layers)
    if gpu_may_help and not memory.gpu_available:
        load = replace(load, n_gpu_layers=None)
    trained = header.context_length or load.ctx_size

    def fits(ctx_size: int) -> bool:
        needed = load.estimate(header, ctx_size)
        free = memory.available if memory.available is not None else needed.ram
        return needed.ram <= free and needed.gpu <= sum(memory.gpu_available)

    known = memory.available is not None
    verdict = fits(load.ctx_size) if known else None
    gpu_may_help = gpu_may_help and load.n_gpu_layers is None
    return Verdict(
        load=load,
        estimate=load.estimate(header),
        memory=memory,
        fits=None if gpu_may_help and verdict is False else verdict,
        largest_context=largest_context(fits, limit=max(trained, min(load.ctx_size, PAD))) if known else None,
    )


def readable(size: int) -> str:
    """Bytes in the unit that suits, with three digits."""
    value, unit = float(size), UNITS[0]
    for unit in UNITS:
        if value < 1000 or unit == UNITS[-1]:
            break
        value /= 1024
    digits = 0 if unit == "B" or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"
