"""How many threads an engine gets that computes on processors.

With OpenMP: one for each core, whatever else runs: threads that wait give their core away. Without it they spin, so
each engine has a share of the cores: all that may be loaded together never have more threads than there are cores. At
least one: a single thread waits for nobody. Threads that the operator sets are what he sets; where they are too many
together, engines take turns (`gang.py`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from miner.core.engine.procstat import physical_cores
from miner.core.engine.rules import GroupRule

logger = logging.getLogger("miner.engine")


@dataclass(frozen=True, slots=True)
class CpuEngine:
    """An engine that may be started, computes on processors, and was built without OpenMP."""

    threads: int | None = None
    """What the operator has set."""
    size: int = 0
    """Bytes of main memory that it takes at least."""
    groups: tuple[GroupRule, ...] = ()
    """Those of the configuration's groups to which it belongs."""


class EngineThreads(NamedTuple):
    """The threads of one run of an engine."""

    threads: int
    spins: bool = False
    """Whether they compute on processors, without OpenMP."""
    binds: bool = False
    """Whether they compute on processors, with OpenMP, and are one for each core."""


def usable_cores(limit: int | None = None) -> int:
    """Cores for engines: those of this process, and no more than the limit."""
    return min(physical_cores(), limit or sys.maxsize)


def loaded_together(engines: Sequence[CpuEngine], *, max_loaded: int | None = None, memory: int | None = None) -> int:
    """How many of these engines may be loaded at the same time, at most.

    Args:
        max_loaded: how many engines may be, of whatever kind.
        memory: bytes of main memory for all together.
    """
    exclusive = {group for engine in engines for group in engine.groups if group.exclusive}
    # Beside a member of an exclusive group only its other members may be loaded.
    sets = [[engine for engine in engines if group in engine.groups] for group in exclusive]
    sets.append([engine for engine in engines if not exclusive.intersection(engine.groups)])
    most = 0
    for each in sets:
        in_groups = dict.fromkeys((engine.groups[0] if engine.groups else None for engine in each), 0)
        for engine in each:  # in several groups: it counts for the first
            in_groups[engine.groups[0] if engine.groups else None] += 1
        count = sum(
            number if group is None or group.max_loaded is None else min(number, group.max_loaded)
            for group, number in in_groups.items()
        )
        if memory is not None:
            count = min(count, _fitting(sorted(engine.size for engine in each), memory))
        most = max(most, count)
    return min(most, max_loaded or most)


def thread_share(
    cores: int, engines: Sequence[CpuEngine], *, max_loaded: int | None = None, memory: int | None = None
) -> int:
    """Threads of each engine for which the operator has set none: with those that he has set, all that may be loaded
    together have no more than there are cores; at least 1.
    """
    own = [engine for engine in engines if engine.threads is None]
    fixed = sorted((engine.threads for engine in engines if engine.threads is not None), reverse=True)
    together = loaded_together(engines, max_loaded=max_loaded, memory=memory)
    sharing = loaded_together(own, max_loaded=max_loaded, memory=memory)
    shares = ((cores - sum(fixed[: max(together - number, 0)])) // number for number in range(1, sharing + 1))
    return max(1, min(shares, default=cores))


def most_threads(
    engines: Sequence[CpuEngine], share: int, *, max_loaded: int | None = None, memory: int | None = None
) -> int:
    """Threads of all engines that may be loaded together, at most, where each for which none are set has `share`."""
    threads = sorted((engine.threads or share for engine in engines), reverse=True)
    return sum(threads[: loaded_together(engines, max_loaded=max_loaded, memory=memory)])


class Cores:
    """The cores for all engines of a host.

    Args:
        limit: the operator's; None: those of this process.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.sharing: Callable[[int], int] | None = None
        """Threads of an engine without OpenMP, by the number of cores; None: nothing says which engines may compute at
        once, and each gets all cores. May block."""

    @property
    def count(self) -> int:
        """How many there are."""
        return usable_cores(self.limit)

    def share(self) -> int:
        """Threads of an engine without OpenMP that is started now, where the operator has set none. Blocks."""
        cores = self.count
        return cores if self.sharing is None else min(cores, self.sharing(cores))


def _fitting(sizes: Sequence[int], memory: int) -> int:
    count = total = 0
    for size in sizes:
        total += size
        if total > memory:
            break
        count += 1
    return count
