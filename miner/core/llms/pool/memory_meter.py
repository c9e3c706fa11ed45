"""MemoryMeter: what all engines together may take as of now, and who else takes much."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from miner.core.engine.headroom import FRESH_SECONDS, Headroom, RunningEngine
from miner.core.engine.limits import PoolLimits
from miner.core.models.memory.available import Memory
from miner.core.models.memory.gpus import gpu_processes
from miner.core.models.memory.processes import largest_processes
from miner.core.models.memory.verdict import readable


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What an engine host needs of the settings."""

    measure: Callable[[Sequence[RunningEngine]], Memory]
    """What is free, and what these engines take already. Blocks."""
    budget: Callable[[Memory], Memory]
    """The memory that engines may take where there is so much for them."""
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
        self._most = Headroom()

    def configure(self, settings: HostSettings) -> None:
        """Apply other settings; what was measured stays valid. Does not wait for a measurement."""
        self._settings, self._most = settings, Headroom()

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
            gpus = () if budget.unified else budget.gpu_available
            others: list[str] = []
            if ram < max(self._most.ram or 0, budget.available or 0):
                pids = [engine.pid for engine in running]
                found = largest_processes(free.total or 0, without=pids)
                others += [f"{each.name} (pid {each.pid}) with {readable(each.size)}" for each in found]
            if any(now < most for now, most in zip(gpus, self._most.gpus, strict=False)):
                others += self._on_gpus(running)
            room = Headroom(ram, gpus, tuple(others))
            cards = len(gpus) == len(self._most.gpus)
            self._most = replace(
                room, ram=max(ram, self._most.ram or 0),
                gpus=tuple(map(max, gpus, self._most.gpus)) if cards else gpus,
            )  # fmt: skip
            return room

    def _measure(self, running: Sequence[RunningEngine]) -> Memory:
        if self._free is None or time.monotonic() - self._measured_at > FRESH_SECONDS:
            self._free = self._settings.measure(running)
            self._measured_at = time.monotonic()
        return self._free

    @staticmethod
    def _on_gpus(running: Sequence[RunningEngine]) -> list[str]:
        ours = {engine.pid for engine in running}
        return [
            f"{each.name} (pid {each.pid}) with {readable(each.size)} on a GPU"
            for each in gpu_processes()
            if each.pid not in ours
        ][:3]
