"""Whether an engine fits into memory: checked against the budget of all engines when its model is requested, and
against the free memory when it starts, once for each start however many requests wait for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from miner.core._typing import override
from miner.core.engine.launchers import Launcher, LlamaCppPythonLauncher
from miner.core.engine.process import EngineProcess
from miner.core.engine.spec import EngineAddress, EngineSpec
from miner.core.llms.llamacpp.models import load_of
from miner.core.models.gguf.header import GGUFHeader
from miner.core.models.memory.available import Memory, available_memory
from miner.core.models.memory.estimate import Load
from miner.core.models.memory.verdict import Verdict, judge
from miner.errors import EngineStartError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig

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
    memory = available_memory(gpus=settings.llamacpp_n_gpu_layers != 0)
    budget = settings.llamacpp_memory_budget
    if budget is None and memory.available is not None:
        budget = int(memory.available * _SHARE_OF_FREE_MEMORY)
    return replace(memory, available=budget, total=budget)


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
