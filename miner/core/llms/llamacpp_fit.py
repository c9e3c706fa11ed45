"""No engine is started that cannot fit: asked against the budget when a model is named, and against the memory that is
free when its engine starts, once for each start however many wait for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from miner.core._typing import override
from miner.core.engine.process import EngineProcess
from miner.core.llms.llamacpp_models import load_of
from miner.core.models.gguf import GGUFHeader
from miner.core.models.memory import Memory, available_memory
from miner.core.models.verdict import judge
from miner.errors import EngineStartError

if TYPE_CHECKING:
    from miner.core.engine.launchers import Launcher
    from miner.core.engine.spec import Address, EngineSpec

__all__ = ["FittedProcess", "memory_within"]


def memory_within(spec: EngineSpec, header: GGUFHeader, budget: int | None) -> int:
    """Bytes that the engine takes. A budget of None: nobody knows what there is, so nothing is refused.

    Raises:
        EngineStartError: more than the budget for all engines; says how much, and the largest context that would do.
    """
    _refuse_misfit(spec, header, Memory(available=budget, total=budget))
    return load_of(spec).estimate(header).ram


class FittedProcess(EngineProcess):
    """An engine that is not started where the free memory does not suffice."""

    def __init__(self, spec: EngineSpec, launcher: Launcher, header: GGUFHeader, *, start_timeout: float) -> None:
        super().__init__(spec, launcher, start_timeout=start_timeout)
        self._header = header

    @override
    async def ensure_ready(self) -> Address:
        if self.state == "stopped":
            # Idle engines that had to give way are gone by now: what is free is what this one gets.
            memory = await asyncio.to_thread(available_memory, gpus=self.spec.n_gpu_layers != 0)
            _refuse_misfit(self.spec, self._header, memory)
        return await super().ensure_ready()


def _refuse_misfit(spec: EngineSpec, header: GGUFHeader, memory: Memory) -> None:
    verdict = judge(header, load_of(spec), memory)
    if verdict.fits is False:
        raise EngineStartError(
            f"{spec.alias!r} does not fit into memory. {verdict.reason}",
            backend="llamacpp",
            retryable=False,
            hint=verdict.hint,
        )
