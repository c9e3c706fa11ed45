"""What all engines together may take as of now: measured before a load, since other programs take memory, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member, State

FRESH_SECONDS = 1.0
"""How old a measurement may be when a load begins by it."""


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """What a measurement needs to know of an engine that has a process."""

    pid: int
    gpu_need: tuple[int, ...]
    """Bytes that it counts for on each GPU."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """Bytes that all engines together may take: what is free, and what they take already."""

    ram: int | None = None
    """None: unknown, or no limit."""
    gpus: tuple[int, ...] = ()
    most_ram: int | None = None
    """What it would be if no other program took memory; None: as `ram`."""
    most_gpus: tuple[int, ...] = ()
    others: tuple[str, ...] = ()
    """Who else takes much of it, in words."""

    def now(self, limits: PoolLimits) -> PoolLimits:
        """The limits with this memory."""
        if self.ram is None:
            return limits
        return replace(limits, memory_budget=max(self.ram, 1), gpu_budget=self.gpus, others=self.others)

    def at_most(self, limits: PoolLimits) -> PoolLimits:
        """The limits with all memory that there would be without other programs."""
        if self.ram is None:
            return limits
        most, gpus = max(self.ram, self.most_ram or 0, 1), self.gpus
        if len(self.most_gpus) == len(gpus):
            gpus = tuple(map(max, gpus, self.most_gpus))
        return replace(limits, memory_budget=most, gpu_budget=gpus)


Measure = Callable[[Sequence[RunningEngine]], Headroom]
"""Measures the headroom. Blocks."""


def running_engines(members: Iterable[Member]) -> list[RunningEngine]:
    """The engines that have a process, those that sleep too: these hold main memory, but none of a GPU."""
    return [
        RunningEngine(member.engine.pid, () if member.state is State.UNLOADED else member.gpu_need)
        for member in members
        if member.engine.pid is not None
    ]


class HeadroomMeter:
    """Measures off the loop, and keeps the last result.

    Args:
        on_done: called on the loop after each measurement.
    """

    def __init__(self, measure: Measure, loop: asyncio.AbstractEventLoop, on_done: Callable[[], None]) -> None:
        self._measure = measure
        self._loop = loop
        self._on_done = on_done
        self._task: asyncio.Task[None] | None = None
        self._began = float("-inf")
        self._last = Headroom()

    def is_fresh(self, now: float, members: Iterable[Member]) -> bool:
        """Whether a load may begin by the last result; else a measurement has been started."""
        if self._task is None and now - self._began <= FRESH_SECONDS:
            return True
        if self._task is None:
            self._began = now
            self._task = self._loop.create_task(self._run(running_engines(members)))
        return False

    async def _run(self, engines: Sequence[RunningEngine]) -> None:
        try:
            last = await asyncio.to_thread(self._measure, engines)
        except asyncio.CancelledError:
            self._task = None
            raise
        except BaseException:
            self._done()  # go on with what is known
            raise
        self._last = last
        self._done()

    def _done(self) -> None:
        # What other programs take does not change by what our engines did meanwhile: the result is as of now.
        self._began, self._task = self._loop.time(), None
        self._on_done()

    def limits_now(self, limits: PoolLimits) -> PoolLimits:
        """The limits with the last result in place of the memory that there was once."""
        return self._last.now(limits)

    def limits_at_most(self, limits: PoolLimits) -> PoolLimits:
        """The same as if no other program took memory."""
        return self._last.at_most(limits)

    def forget(self) -> None:
        """Measure again before the next load: the limits have changed."""
        self._began = float("-inf")

    def cancel(self) -> None:
        """End a measurement that is under way."""
        if self._task is not None:
            self._task.cancel()
