"""What an engine takes of the memory, and what all engines together may take."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import TYPE_CHECKING

from miner.core.engine.headroom import RunningEngine
from miner.core.engine.launchers import Launcher, LlamaCppPythonLauncher
from miner.core.engine.spec import EngineSpec
from miner.core.llms.llamacpp.engine_load import load_of
from miner.core.llms.llamacpp.models import LocalModel
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.available import Memory, available_memory, gpu_is_likely
from miner.core.models.memory.capacity import ENOUGH, Capacity
from miner.core.models.memory.estimate import Load
from miner.core.models.memory.gpus import gpu_memory_of
from miner.core.models.memory.processes import held_memory, with_descendants
from miner.core.models.memory.verdict import Verdict, judge, placed, readable
from miner.errors import EngineStartError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

logger = logging.getLogger("miner.llamacpp")

_SHARE_OF_FREE_MEMORY = 0.8


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes that an engine takes."""

    ram: int
    gpus: tuple[int, ...] = ()
    """On each GPU."""


def memory_budget(settings: MinerConfig) -> Memory:
    """Memory for all engines together: LLAMACPP_MEMORY_BUDGET, else four fifths of the memory that is free now; of each
    GPU what is free now. None: unknown, so nothing is refused.
    """
    return budget_of(measured_memory(settings, ()), settings)


def measured_memory(settings: MinerConfig, running: Sequence[RunningEngine]) -> Memory:
    """What is free now, and what these engines take of it: what there would be without them. Blocks."""
    free = available_memory(gpus=settings.llamacpp_n_gpu_layers != 0)
    if free.available is None or not running:
        return free
    taken: Sequence[int] = ()
    if any(any(engine.gpu_need) for engine in running):
        taken = gpu_memory_of({pid for engine in running for pid in with_descendants(engine.pid)})
    if len(taken) != len(free.gpu_available) or not any(taken):  # the driver does not say it: what they count for
        taken = [
            sum(engine.gpu_need[card] for engine in running if card < len(engine.gpu_need))
            for card in range(len(free.gpu_available))
        ]
    on_gpus = map(add, free.gpu_available, taken)
    held = held_memory([engine.pid for engine in running])
    most = free.total if free.total is not None else free.available + held
    return replace(
        free, available=min(free.available + held, most), gpu_available=tuple(map(min, on_gpus, free.gpu_total))
    )


def budget_of(free: Memory, settings: MinerConfig, gpu_memory: Sequence[int] = ()) -> Memory:
    """The memory for all engines together where so much is free without them.

    Args:
        gpu_memory: at most so much of each GPU; cards beyond it have no limit.

    Returns its totals as if no other program took memory.
    """

    def limit(cards: Sequence[int]) -> tuple[int, ...]:
        return tuple(min([size, *gpu_memory[card : card + 1]]) for card, size in enumerate(cards))

    available = total = settings.llamacpp_memory_budget
    if total is None and free.available is not None:
        available = int(free.available * _SHARE_OF_FREE_MEMORY)
        total = available if free.total is None else int(free.total * _SHARE_OF_FREE_MEMORY)
    return replace(
        free, available=available, total=total, gpu_available=limit(free.gpu_available), gpu_total=limit(free.gpu_total)
    )


def memory_left(settings: MinerConfig, budget: Memory, reserved: EngineMemory, *, gpus: bool) -> Memory:
    """Memory for another engine beside those that are loaded: what they leave of the budget for all of them, and no
    more than is free now.

    Args:
        reserved: what the loaded engines take.
        gpus: whether it may use GPUs.
    """
    now = available_memory(gpus=gpus)
    if now.available is None or budget.available is None:
        return now
    left = budget.available - reserved.ram
    if settings.llamacpp_memory_budget is None:
        left = min(left, int(now.available * _SHARE_OF_FREE_MEMORY))
    return replace(now, available=max(left, 0), total=budget.total)


def required_memory(spec: EngineSpec, header: GGUFHeader, budget: Memory, launcher: Launcher) -> EngineMemory:
    """The memory that an engine takes. Blocks: not for an event loop.

    Raises:
        EngineStartError: more than the budget for all engines could ever be; says how much, and the largest context
            that would do. What only other programs keep out now is refused when it is to be loaded.
    """
    verdict = _check(spec, header, budget, launcher)
    if verdict.placement.gpu and not launcher.may_offload(spec.n_gpu_layers):
        without = judge(header, replace(_load(spec, launcher), n_gpu_layers=0), budget)
        if without.fits:
            return EngineMemory(without.placement.ram)
    return EngineMemory(verdict.placement.ram, () if budget.unified else verdict.placement.gpus)


def log_capacity(
    model: LocalModel, capacity: Capacity, need: EngineMemory, budget: Memory, *, in_table: bool
) -> None:  # fmt: skip
    """Log slots and context of an engine that is to be loaded, and why; as a warning where they are fewer than agents
    need and the model could do.

    Args:
        in_table: the model is one of `miner.toml`, which has keys for what is otherwise set by variables.
    """
    load = Load(capacity.ctx_size, capacity.parallel)
    bound = "" if budget.available is None else f" of the {readable(budget.available)} for all engines"
    cards = "".join(f", {readable(size)} on GPU {number}" for number, size in enumerate(need.gpus) if size)
    text = f"{model.engine_alias}: {load} ({capacity.why}); takes {readable(need.ram)}{bound}{cards}."
    if not capacity.short:
        logger.info("%s", text)
        return
    keys = "cache_type_k", "cache_type_v"
    if not in_table:
        keys = "LLAMACPP_CACHE_TYPE_K", "LLAMACPP_CACHE_TYPE_V"
    logger.warning(
        "%s It was trained for %s tokens; agents need about %d. Use a smaller model, or halve the cache with %s and %s "
        "of q8_0.", text, model.header.context_length, ENOUGH, *keys,
    )  # fmt: skip


def all_on_gpu(spec: EngineSpec, header: GGUFHeader, memory: Memory, launcher: Launcher) -> bool:
    """Whether all layers are on GPUs, as far as it can be told: processors have little to compute then. Blocks: not for
    an event loop.
    """
    layers, wanted = (header.block_count or 0) + 1, spec.n_gpu_layers
    if not launcher.may_offload(wanted):
        return False
    if memory.gpu_available:
        placement = placed(header, _load(spec, launcher), memory)
        return placement.layers >= layers and placement.experts is None
    # One whose memory cannot be queried.
    return gpu_is_likely() and (wanted is None or wanted < 0 or wanted >= layers)


def _check(spec: EngineSpec, header: GGUFHeader, budget: Memory, launcher: Launcher) -> Verdict:
    load = _load(spec, launcher)
    verdict = judge(header, load, budget)
    if verdict.fits is False:
        most = replace(budget, available=budget.total, gpu_available=budget.gpu_total)
        if judge(header, load, most).fits is False:
            raise EngineStartError(
                f"{spec.alias!r} does not fit into memory. {verdict.reason}",
                backend="llamacpp",
                retryable=False,
                operator_hint=verdict.hint,
            )
    return verdict


def _load(spec: EngineSpec, launcher: Launcher) -> Load:
    load = load_of(spec)
    if spec.n_gpu_layers is None and isinstance(launcher, LlamaCppPythonLauncher):
        return replace(load, n_gpu_layers=0)  # without a number its bindings use no GPU
    return load
