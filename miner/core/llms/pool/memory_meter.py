"""MemoryMeter: what all engines together may take as of now, and who else takes much."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from miner.core.engine.headroom import FRESH_SECONDS, Headroom, RunningEngine
from miner.core.engine.limits import PoolLimits
from miner.core.models.memory.available import Memory
from miner.core.models.memory.gpus import gpu_processes
from miner.core.models.memory.processes import largest_processes
from miner.core.models.memory.verdict import readable

_CROWDED = 0.9
"""The share of the memory for engines that is left to them, below which others are named."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What an engine host needs of the settings."""

    measure: Callable[[Sequence[RunningEngine]], Memory]
    """What is free, and what these engines take already. Blocks."""
    budget: Callable[[Memory], Memory]
    """The memory that engines may take where there is so much for them; its totals: if no other program took any."""
    limits: Callable[[Memory], PoolLimits]
    """The limits of the pool under a budget."""
    kv_cache: int | None = None
    """Bytes on disk for the prompts of engines that are stopped for a while, as `SlotStore` takes them."""
    cores: int | None = None
    """Processor cores for all engines; None: those of this process."""


class MemoryMeter:
    """Measures at most once a second, for whoever needs it. `budget` and `headroom` block: not for an event loop."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._free: Memory | None = None
        self._measured_at = 0.0

    def configure(self, settings: HostSettings) -> None:
        """Apply other settings; what was measured stays valid. Does not wait for a measurement."""
        self._settings = settings

    def budget(self, running: Sequence[RunningEngine]) -> Memory:
        """The memory that all engines together may take; a setting, where there is one, whatever is free."""
        with self._lock:
            return self._settings.budget(self._measure(running))

    def last_budget(self) -> Memory:
        """The same by the last measurement; blocks only before the first."""
        free = self._free
        if free is None:
            return self.budget(())
        return self._settings.budget(free)

    def headroom(self, running: Sequence[RunningEngine]) -> Headroom:
        """The same, and no more than there is."""
        with self._lock:
            free = self._measure(running)
            budget = self._settings.budget(free)
            if free.available is None:
                return Headroom()
            ram = free.available if budget.available is None else min(free.available, budget.available)
            total = min(each for each in (budget.total, free.total, 1 << 62) if each is not None)
            gpus = () if budget.unified else budget.gpu_available
            most = () if budget.unified else budget.gpu_total
            pids, others = [engine.pid for engine in running], list[str]()
            if ram < total * _CROWDED:
                found = largest_processes(free.total or 0, without=pids)
                others += [f"{each.name} (pid {each.pid}) with {readable(each.size)}" for each in found]
            if any(left < all_ * _CROWDED for left, all_ in zip(gpus, most, strict=False)):
                others += self._on_gpus(pids)
            return Headroom(ram, gpus, total, most, tuple(others))

    def _measure(self, running: Sequence[RunningEngine]) -> Memory:
        if self._free is None or time.monotonic() - self._measured_at > FRESH_SECONDS:
            self._free = self._settings.measure(running)
            self._measured_at = time.monotonic()
        return self._free

    @staticmethod
    def _on_gpus(ours: Sequence[int]) -> list[str]:
        found = [each for each in gpu_processes() if each.pid not in ours]
        return [f"{each.name} (pid {each.pid}) with {readable(each.size)} on a GPU" for each in found[:3]]
