"""Which engines are loaded, who waits for them, and who has to go.

A request takes a `lease`: it waits in its model's queue, first come first served, until the engine is loaded and one of
its `parallel` slots is free. An engine never gets more requests than that. A model is loaded once, however many ask.

Where not all models fit, they take turns. Free room is taken at once; then idle engines go, the least recently used
first; a busy one goes on with its requests until `fairness_wait` after the others began to wait (and after its own turn
began), then it finishes what it has in flight and yields. So a mix of requests does not swap at each of them, and
nobody starves: the turns go round in a circle. `turns.py` has the rule in full, `scheduler.py` carries it out.

A pool belongs to one event loop. Used from another one, it starts again: the engines of the old one are killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from miner.core.engine.errors import closed
from miner.core.engine.limits import PoolLimits
from miner.core.engine.member import Member, State
from miner.core.engine.scheduler import Scheduler
from miner.core.engine.slot_queue import Lease
from miner.core.engine.spec import Engine, EngineSpec
from miner.core.wire import EngineStatus, Progress
from miner.errors import BackendTimeoutError

__all__ = ["EnginePool", "Lease", "PoolLimits"]


class EnginePool:
    """The engines of one service, under one set of limits."""

    def __init__(
        self,
        make: Callable[[EngineSpec], Engine],
        *,
        limits: PoolLimits,
        memory_of: Callable[[EngineSpec], int] | None = None,
        gpu_memory_of: Callable[[EngineSpec], tuple[int, ...]] | None = None,
    ) -> None:
        """
        Args:
            make: gives the engine of a spec, not started.
            limits: what bounds the pool.
            memory_of: bytes that a spec takes when loaded; needed where there is a memory budget. What it raises
                reaches the caller of `lease`.
        """
        if limits.memory_budget is not None and memory_of is None:
            raise ValueError("memory_budget needs memory_of: without it nobody knows what an engine takes.")
        self.limits = limits
        self._make = make
        self._memory_of = memory_of
        self._gpu_memory_of = gpu_memory_of
        self._pins: set[EngineSpec | str] = set()
        self._scheduler: Scheduler | None = None
        self._closed = False

    @asynccontextmanager
    async def lease(
        self,
        spec: EngineSpec,
        *,
        client: str = "",
        keep_alive: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AsyncIterator[Lease]:
        """Hold one slot of a ready engine for the length of the block. Cancelling is effective at once.

        Args:
            spec: which engine.
            client: whose request it is: waiting is fair between clients.
            keep_alive: idle seconds after which the engine goes when this request was the last; 0: at once, negative:
                never for idleness. None: the pool's `idle_timeout`.
            on_progress: gets how far the queue and the load are.

        Raises:
            BackendOverloadedError: the queue is full, or the wait was longer than `queue_timeout` (see `retry_after`);
                or there is no room beside pinned engines.
            EngineStartError: the engine does not start, has failed too often just now (see `retry_after`), or never
                fits into the memory budget.
        """
        scheduler = self.bind_loop()
        member = scheduler.members.get(spec) or self._add(scheduler, spec)
        member.retired = False
        if member.cooldown_error() is not None:
            await member.engine.recheck_model_file()
        waiter = scheduler.enqueue(member, client, keep_alive, on_progress)
        try:
            yield await waiter.future
        finally:
            scheduler.leave(member, waiter)

    def pin(self, target: EngineSpec | str) -> None:
        """Never evict an engine, nor unload it for idleness. Holds for one that is not loaded yet, too."""
        self._pins.add(target)
        self._pins_changed()

    def unpin(self, target: EngineSpec | str) -> None:
        """Take a pin back."""
        self._pins.discard(target)
        self._pins_changed()

    async def unload(self, target: EngineSpec | str) -> bool:
        """Stop an engine, pinned or not, once its requests in flight are done; who waits for it loads it again then.

        Returns whether there was one to stop. BackendTimeoutError after `queue_timeout`: the engine then goes on.
        """
        scheduler = self.bind_loop()
        members = [member for member in self._named(target) if member.state is not State.UNLOADED]
        for member in members:
            member.unloading = True
        scheduler.schedule()
        try:
            async with asyncio.timeout(self.limits.queue_timeout):
                for member in members:
                    await member.gone.wait()
        except TimeoutError as error:
            raise BackendTimeoutError(
                f"The engine of {target!r} still has requests in flight after {self.limits.queue_timeout:g} s.",
                backend="llamacpp",
                hint="Cancel them, or unload it later.",
            ) from error
        finally:
            for member in members:
                member.unloading = False
            scheduler.schedule()
        return bool(members)

    def retire(self, spec: EngineSpec) -> None:
        """The model of this spec is another one now: its engine serves those who came before, then it is stopped and
        forgotten, pinned or not.
        """
        scheduler = self._scheduler
        member = scheduler.members.get(spec) if scheduler is not None else None
        if scheduler is not None and member is not None:
            member.retired = True
            if scheduler.loop.is_running():
                scheduler.schedule()

    def loaded(self) -> set[EngineSpec]:
        """Those whose engines are ready. Asks no system for anything, which `status` does."""
        return {member.spec for member in self._members() if member.engine.state == "ready"}

    def reset(self, target: EngineSpec | str) -> None:
        """Forget the failures of an engine: the next request starts it again."""
        for member in self._named(target):
            member.engine.reset()
            member.failure = None

    def status(self) -> list[EngineStatus]:
        """Every engine that was asked for since the loop began."""
        return [member.status() for member in self._members()]

    async def aclose(self) -> None:
        """Stop all engines; who waits, or comes later, gets BackendUnavailableError. Idempotent."""
        self._closed = True
        scheduler = self._scheduler
        if scheduler is None or scheduler.loop is not asyncio.get_running_loop():
            self.kill_all()
            return
        await scheduler.aclose()
        self._scheduler = None

    def kill_all(self) -> None:
        """End all processes at once and forget them; works without a loop. The pool can be used again."""
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.kill()

    def bind_loop(self) -> Scheduler:
        """Make the running loop the owner. Engines of an earlier one are killed: their pipes are lost with it."""
        if self._closed:
            raise closed()
        loop = asyncio.get_running_loop()
        if self._scheduler is not None and self._scheduler.loop is not loop:
            if self._scheduler.loop.is_running():
                raise RuntimeError("The engines are in use by another running event loop; make a service for each.")
            self.kill_all()
        if self._scheduler is None:
            self._scheduler = Scheduler(self.limits)
        return self._scheduler

    def _add(self, scheduler: Scheduler, spec: EngineSpec) -> Member:
        need = self._memory_of(spec) if self._memory_of is not None else 0
        gpu_need = self._gpu_memory_of(spec) if self._gpu_memory_of is not None else ()
        member = Member(spec, self._make(spec), need, gpu_need)
        member.pinned = any(member.matches(target) for target in self._pins)
        scheduler.members[spec] = member
        return member

    def _members(self) -> list[Member]:
        return list(self._scheduler.members.values()) if self._scheduler is not None else []

    def _named(self, target: EngineSpec | str) -> list[Member]:
        return [member for member in self._members() if member.matches(target)]

    def _pins_changed(self) -> None:
        for member in self._members():
            member.pinned = any(member.matches(target) for target in self._pins)
        if self._scheduler is not None and self._scheduler.loop.is_running():
            self._scheduler.schedule()
