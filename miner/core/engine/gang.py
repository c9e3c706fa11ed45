"""Gang scheduling of engines without OpenMP: never more of their threads run than there are cores.

The threads of an engine meet at hundreds of barriers for each token. Where those of two engines share the cores, a
thread waits at its barrier for one that does not run, spinning, and both engines crawl. `threads.py` gives each a share
of the cores where it knows the engines. Where their threads are too many all the same, because the operator has set
them or the configuration has changed, those that compute at once take turns: time slices in which some run, as many as
have cores for all their threads, and the others are suspended (SIGSTOP, SIGCONT). Idle engines are left alone, and so
is one that computes while the others are idle.

Engines with OpenMP are never suspended; while several compute, their threads are bound to cores (`affinity.py`).

Cores are shared equally, between engines and over time: whoever has run least is next. An engine that begins to compute
after a pause goes first, so a short request beside a long one is not delayed by a slice.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Iterable

from miner.core.engine.affinity import CoreBinder
from miner.core.engine.spec import Engine

_SLICE = 0.1
"""Seconds for which engines run before others have their turn."""
_SHORTEST = 0.02
"""Seconds that a slice has at least, whoever arrives."""

logger = logging.getLogger("miner.engine")


class _Job:
    """An engine that computes."""

    def __init__(self, engine: Engine, threads: int, used: float, *, first: bool) -> None:
        self.engine = engine
        self.threads = threads
        self.used = used
        """Seconds that it has run so far; when it begins to compute, about what the others have."""
        self.first = first
        """Whether it need not wait for the end of the others' slice."""
        self.running = False
        """Whether it is its turn."""
        self.suspended = False

    def run(self) -> None:
        """Begin its turn, or go on."""
        self.running, self.first = True, False
        self.resume()

    def resume(self) -> None:
        if self.suspended:
            self.suspended = False
            self.engine.resume()

    def suspend(self) -> None:
        """End its turn."""
        self.running = False
        if not self.suspended:
            self.suspended = True
            self.engine.suspend()


class GangScheduler:
    """Suspends and resumes engines so that those which run have no more threads than there are cores.

    On one event loop. An engine with more threads than that runs alone, which is logged once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._binder = CoreBinder(loop)
        self._cores: int | None = None
        self._jobs: dict[Engine, _Job] = {}
        self._used: weakref.WeakKeyDictionary[Engine, float] = weakref.WeakKeyDictionary()
        """Of those that have computed earlier."""
        self._warned: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._floor = 0.0
        """What the one that has run least has run."""
        self._counted_at = 0.0
        self._slice_began = self._slice_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def update(self, computing: Iterable[Engine], cores: int | None) -> None:
        """Set the engines that have requests, and the cores for them.

        Args:
            computing: those without `spinning_threads` are never suspended.
            cores: None: none is.
        """
        computing = list(computing)
        self._binder.update(computing if cores is not None else ())
        wanted = {engine: threads for engine in computing if (threads := engine.spinning_threads) > 0}
        if wanted.keys() == self._jobs.keys() and cores == self._cores:
            return
        self._count()
        self._cores = cores
        for engine in [engine for engine in self._jobs if engine not in wanted]:
            job = self._jobs.pop(engine)
            self._used[engine] = job.used
            job.resume()
        floor = self._floor = min((job.used for job in self._jobs.values()), default=self._floor)
        for engine, threads in wanted.items():
            if engine not in self._jobs:
                self._warn(engine, threads)
                used = min(max(self._used.get(engine, 0.0), floor - _SLICE), floor + _SLICE)
                self._jobs[engine] = _Job(engine, threads, used, first=used < floor)
        self._choose()

    def close(self) -> None:
        """Resume all: they are being stopped."""
        self._binder.close()
        self.update((), self._cores)

    def _count(self) -> None:
        """Count the time since the last call for those that ran."""
        now = self._loop.time()
        for job in self._jobs.values():
            if job.running:
                job.used += now - self._counted_at
        self._counted_at = now

    def _choose(self) -> None:
        """Let those run whose turn it is, and set the timer."""
        jobs = sorted(self._jobs.values(), key=lambda job: job.used)
        threads = [job.threads for job in jobs]
        # Single threads wait for nobody.
        if len(jobs) < 2 or self._cores is None or sum(threads) <= self._cores or max(threads) == 1:
            self._set_timer(None)
            for job in jobs:
                job.run()
            return
        now = self._counted_at
        chosen = [job for job in jobs if job.running] if now < self._slice_ends else []
        wake_at = self._slice_ends
        if chosen and any(job.first for job in jobs):
            wake_at = min(wake_at, self._slice_began + _SHORTEST)
            if wake_at <= now:
                chosen = []
        if not chosen:
            self._slice_began, self._slice_ends = now, now + _SLICE
            wake_at = self._slice_ends
        free = self._cores - sum(job.threads for job in chosen)
        for job in jobs:
            if job not in chosen and (not chosen or job.threads <= free):
                chosen.append(job)
                free -= job.threads
        for job in jobs:  # before others are resumed: never more run than may
            if job not in chosen:
                job.suspend()
        for job in chosen:
            job.run()
        self._set_timer(wake_at)

    def _set_timer(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._timer_fired) if when is not None else None

    def _timer_fired(self) -> None:
        self._timer = None
        self._count()
        self._choose()

    def _warn(self, engine: Engine, threads: int) -> None:
        if self._cores is not None and threads > self._cores and engine not in self._warned:
            self._warned.add(engine)
            logger.warning(
                "An engine has %d threads for %d cores: they slow each other down. Unset LLAMACPP_THREADS, or its "
                "model's `threads`.", threads, self._cores,
            )  # fmt: skip
