"""Whether a model fits into free memory, with the numbers, and the largest context that would fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.available import Memory
from miner.core.models.memory.estimate import Estimate, Load, estimate, largest_context
from miner.core.models.memory.kv_cache import PAD
from miner.core.models.memory.placement import LayerSizes, Placement, layer_sizes, place

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a load fits, with the numbers in bytes."""

    load: Load
    estimate: Estimate
    memory: Memory
    placement: Placement
    """Placement of its parts."""
    fits: bool | None
    """None: unknown, since the system does not report free memory, or since it depends on a GPU that is not visible."""
    largest_context: int | None
    """Tokens of a slot that would fit with as many slots, at most what the model was trained for; 0: none would."""

    @property
    def reason(self) -> str:
        """One sentence with the numbers."""
        needs = f"{readable(self.placement.ram)} of memory for {self.load}"
        if self.placement.gpu:
            needs += f" and {' and '.join(map(readable, self.placement.gpus))} of GPU memory"
        free = "an unknown amount is free"
        if self.memory.available is not None:
            free = f"{readable(self.memory.available)} is free"
        if self.placement.gpu:
            each = [readable(size) for size in self.memory.gpu_available]
            free += f" and {' and '.join(each) or 'nothing'} on the GPUs"
        return f"The model needs {needs}; {free}."

    @property
    def hint(self) -> str:
        """Advice for the operator if it does not fit."""
        if self.largest_context:
            return (
                f"The largest context that fits is {self.largest_context} tokens a slot: set LLAMACPP_CTX_SIZE to it."
            )
        if self.load.n_gpu_layers is not None and self.load.n_gpu_layers != 0 and self._gpu_is_short:
            return "No context fits on the GPUs: set LLAMACPP_N_GPU_LAYERS lower, or unset it to take what fits."
        if self.load.parallel > 1:
            return "No context fits with so many slots: set LLAMACPP_PARALLEL to 1, or use a smaller model."
        return "No context fits: use a smaller model or a stronger quantization."

    @property
    def _gpu_is_short(self) -> bool:
        free = self.memory.gpu_available
        return not self.memory.unified and any(
            needed > left for needed, left in zip(self.placement.gpus, free, strict=False)
        )

    def rows(self) -> list[tuple[str, str]]:
        """The numbers as a table of two columns."""
        parts = self.estimate
        rows = [
            ("weights", parts.weights),
            ("repacked weights", parts.repacked),
            ("KV cache", parts.kv_cache),
            ("compute buffers", parts.compute),
            ("projector", parts.projector),
            ("adapters", parts.adapters),
            ("draft model", parts.draft),
            ("process and vocabulary", parts.overhead),
            ("resident", parts.total - parts.gpu),
            *((f"on GPU {number}", size) for number, size in enumerate(self.placement.gpus)),
            ("checkpoints, at most", parts.checkpoints),
            ("prompt cache, at most", parts.prompt_cache),
            ("needed", self.placement.ram),
        ]
        always = ("weights", "KV cache", "compute buffers", "process and vocabulary", "needed")
        table = [(name, readable(size)) for name, size in rows if size or name in always]
        if self.memory.available is not None:
            table.append(("free memory", readable(self.memory.available)))
        kinds = self.memory.gpu_kind
        for number, size in enumerate(self.memory.gpu_available):
            kind = f" ({kinds[number]})" if number < len(kinds) else ""
            table.append((f"free on GPU {number}{kind}", readable(size)))
        return table


def placed(header: GGUFHeader, load: Load, memory: Memory, sizes: LayerSizes | None = None) -> Placement:
    """The placement of a load, by the free memory of each GPU.

    Raises:
        ValueError: a cache type does not exist.
    """
    where = place(sizes or layer_sizes(header, load.cpu_tensors), estimate(header, load), load, memory.gpu_available)
    if memory.unified:  # it is the same memory
        return replace(where, ram=where.ram + where.gpu)
    return where


def judge(header: GGUFHeader, load: Load, memory: Memory) -> Verdict:
    """Compare the memory of the load with the free memory: of the machine, and of each GPU.

    Raises:
        ValueError: a cache type does not exist.
    """
    # Layers on a GPU whose free memory cannot be queried may make it fit after all.
    unseen = bool(load.n_gpu_layers) and not memory.gpu_available
    sizes = layer_sizes(header, load.cpu_tensors)
    trained = header.context_length or load.ctx_size

    def fits(ctx_size: int) -> bool:
        where = placed(header, replace(load, ctx_size=ctx_size), memory, sizes)
        if memory.available is not None and where.ram > memory.available:
            return False
        return memory.unified or all(
            needed <= free for needed, free in zip(where.gpus, memory.gpu_available, strict=True)
        )

    known = memory.available is not None
    verdict = fits(load.ctx_size) if known else None
    where = placed(header, load, memory, sizes)
    parts = estimate(header, load)
    if where.gpu:
        parts = replace(parts, repacked=0, gpu=where.gpu)
    return Verdict(
        load=load,
        estimate=parts,
        memory=memory,
        placement=where,
        fits=None if unseen and verdict is False else verdict,
        largest_context=largest_context(fits, limit=max(trained, min(load.ctx_size, PAD))) if known else None,
    )


def readable(size: int) -> str:
    """Bytes in a suitable unit, with three digits."""
    value, unit = float(size), UNITS[0]
    for unit in UNITS:
        if value < 1000 or unit == UNITS[-1]:
            break
        value /= 1024
    digits = 0 if unit == "B" or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"
