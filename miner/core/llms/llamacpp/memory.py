"""Whether an engine fits into memory: checked against the budget of all engines when its model is requested, and
against the free memory when it starts, once for each start however many requests wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from miner.core._typing import override
from miner.core.engine.launchers import Launcher, LlamaCppPythonLauncher
from miner.core.engine.process import EngineProcess
from miner.core.engine.spec import EngineAddress, EngineSpec
from miner.core.llms.llamacpp.models import LocalModel, load_of
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.available import Memory, available_memory
from miner.core.models.memory.capacity import ENOUGH, Capacity
from miner.core.models.memory.estimate import Load
from miner.core.models.memory.verdict import Verdict, judge, readable
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
    return budget_of(available_memory(gpus=settings.llamacpp_n_gpu_layers != 0), settings)


def budget_of(free: Memory, settings: MinerConfig) -> Memory:
    """The memory for all engines together where so much is free before any is loaded."""
    budget = settings.llamacpp_memory_budget
    if budget is None and free.available is not None:
        budget = int(free.available * _SHARE_OF_FREE_MEMORY)
    return replace(free, available=budget, total=budget)


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
    return replace(now, available=max(left, 0), total=budget.available)


def required_memory(spec: EngineSpec, header: GGUFHeader, budget: Memory, launcher: Launcher) -> EngineMemory:
    """The memory that an engine takes. Blocks: not for an event loop.

    Raises:
        EngineStartError: more than the budget for all engines; says how much, and the largest context that would do.
    """
    verdict = _check(spec, header, budget, launcher)
    if verdict.placement.gpu and not launcher.may_offload(spec.n_gpu_layers):
        without = judge(header, replace(_load(spec, launcher), n_gpu_layers=0), budget)
        if without.fits:
            return EngineMemory(without.placement.ram)
    return EngineMemory(verdict.placement.ram, () if budget.unified else verdict.placement.gpus)


def log_capacity(model: LocalModel, capacity: Capacity, need: EngineMemory, budget: Memory) -> None:
    """Log slots and context of an engine that is to be loaded, and why; as a warning where they are fewer than agents
    need and the model could do.
    """
    load = Load(capacity.ctx_size, capacity.parallel)
    bound = "" if budget.available is None else f" of the {readable(budget.available)} for all engines"
    cards = "".join(f", {readable(size)} on GPU {number}" for number, size in enumerate(need.gpus) if size)
    text = f"{model.engine_alias}: {load} ({capacity.why}); takes {readable(need.ram)}{bound}{cards}."
    if not capacity.short:
        logger.info("%s", text)
        return
    logger.warning(
        "%s It was trained for %s tokens; agents need about %d. Use a smaller model, or halve the cache with "
        "LLAMACPP_CACHE_TYPE_K=q8_0 and LLAMACPP_CACHE_TYPE_V=q8_0.", text, model.header.context_length, ENOUGH,
    )  # fmt: skip


class MemoryCheckedProcess(EngineProcess):
    """An engine process that starts only where the free memory suffices."""

    def __init__(self, spec: EngineSpec, launcher: Launcher, header: GGUFHeader, *, start_timeout: float) -> None:
        super().__init__(spec, launcher, start_timeout=start_timeout)
        self._header = header

    @override
    async def ensure_ready(self) -> EngineAddress:
        if self.state == "stopped":
            # Evicted engines have exited: the free memory is what this one gets.
            await asyncio.to_thread(self._check_free_memory)
        return await super().ensure_ready()

    def _check_free_memory(self) -> None:
        memory = available_memory(gpus=self.spec.n_gpu_layers != 0)
        _check(self.spec, self._header, memory, self.launcher)


def _check(spec: EngineSpec, header: GGUFHeader, memory: Memory, launcher: Launcher) -> Verdict:
    verdict = judge(header, _load(spec, launcher), memory)
    if verdict.fits is False:
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
