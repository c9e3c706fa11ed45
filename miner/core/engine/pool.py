"""The engines of one service: `EnginePool.lease` gives a request a slot of a loaded engine.

A request waits in its model's queue (`slot_queue.py`, fair between clients) until the engine is loaded and one of its
`parallel` slots is free; an engine never gets more requests than it has slots. A model is loaded once, however many
requests wait for it.

Where not all models fit into memory, they share it by time: free memory is used first, then idle engines are evicted,
the least recently used first, then busy ones when their time slice is over. So mixed requests do not swap models at
each request, and none starves. `eviction.py` decides which engine is evicted and when, `scheduler.py` carries it out.

A pool belongs to one event loop. Used from another one it starts again, and kills the engines of the old one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from miner.core.engine.errors import closed, stopped
from miner.core.engine.events import EngineEvents
from miner.core.engine.headroom import Measure, RunningEngine, running_engines
from miner.core.engine.limits import PoolLimits
from miner.core.engine.logtail import EngineLog
from miner.core.engine.member import Member, State
from miner.core.engine.rules import NO_RULES, EngineRules
from miner.core.engine.scheduler import Scheduler
from miner.core.engine.slot_queue import Lease
from miner.core.engine.spec import AnySpec, Engine, EngineSource
from miner.core.fair_queue import Client
from miner.core.wire import EngineStatus, Progress
from miner.errors import BackendTimeoutError


class EnginePool:
    """The engines of one service, under one set of limits."""

    def __init__(
        self,
        make: Callable[[Any], Engine] | None = None,
        *,
        limits: PoolLimits,
        memory_of: Callable[[Any], int | None] | None = None,
        gpu_memory_of: Callable[[Any], tuple[int, ...]] | None = None,
        events: EngineEvents | None = None,
        measure: Measure | None = None,
    ) -> None:
        """
        Args:
            make: makes the engine of a spec, not started; None: the sources of leases do.
            memory_of: bytes of main memory that such a spec takes, None: unknown before it runs; required with a memory
                budget. Its errors reach the caller of `lease`.
            gpu_memory_of: bytes on each GPU that a spec takes.
            events: where changes of engines are told.
            measure: the memory for all engines as of now, in place of the limits': measured in a thread before a load.
        """
        if limits.memory_budget is not None and make is not None and memory_of is None:
            raise ValueError("memory_budget requires memory_of.")
        self.limits = limits
        self._make = make
        self._memory_of = memory_of
        self._gpu_memory_of = gpu_memory_of
        self._measure = measure
        self._pins: set[AnySpec | str] = set()
        self._rules: Callable[[AnySpec], EngineRules] = lambda _: NO_RULES
        self._events = EngineEvents() if events is None else events
        self._scheduler: Scheduler | None = None
        self._closed = False

    @asynccontextmanager
    async def lease(
        self,
        spec: AnySpec,
        source: EngineSource | None = None,
        *,
        client: Client = "",
        keep_alive: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AsyncIterator[Lease]:
        """Hold one slot of a ready engine for the length of the block. Cancelling takes effect at once.

        Args:
            spec: which engine.
            source: makes it, and tells its memory, where it is not known yet.
            client: the request's client: the queue is fair between clients.
            keep_alive: idle seconds after which the engine is unloaded if this request was the last; 0: at once,
                negative: never. None: the pool's `idle_timeout`.
            on_progress: called with the progress of the queue and of the load.

        Raises:
            BackendOverloadedError: the queue is full, the wait was longer than `queue_timeout`, or the model does not
                fit beside the pinned engines; has `retry_after`.
            EngineStartError: the engine does not start, is in its cooldown after crashes (has `retry_after`), or never
                fits into the memory budget.
        """
        scheduler = self.bind_loop()
        member = scheduler.members.get(spec) or self._add(scheduler, spec, source)
        member.retired = False
        if member.cooldown_error() is not None:
            await member.engine.recheck_model_file()
        waiter = scheduler.enqueue(member, client, keep_alive, on_progress)
        try:
            yield await waiter.future
        finally:
            scheduler.leave(member, waiter)

    def pin(self, target: AnySpec | str) -> None:
        """Never evict an engine nor unload it for idleness, also if it is loaded later."""
        self._pins.add(target)
        self._pins_changed()

    def unpin(self, target: AnySpec | str) -> None:
        """Undo `pin`."""
        self._pins.discard(target)
        self._pins_changed()

    def set_rules(self, rules_of: Callable[[AnySpec], EngineRules], limits: PoolLimits | None = None) -> None:
        """Apply other rules, and other limits, from now on: engines that may not stay together are evicted, the idle
        ones at once and others when their requests in flight are done.

        Args:
            rules_of: of each engine, asked again when one is added.
        """
        self._rules = rules_of
        self.limits = limits or self.limits
        scheduler = self._scheduler
        if scheduler is not None:
            scheduler.limits, scheduler.unsettled = self.limits, True
            if scheduler.meter is not None:
                scheduler.meter.forget()
            for member in scheduler.members.values():
                member.rules = rules_of(member.spec)
                member.idle_timeout = self.limits.idle_timeout
            if scheduler.loop.is_running():
                scheduler.schedule()

    async def unload(self, target: AnySpec | str) -> bool:
        """Stop an engine, pinned or not, once its requests in flight and those that wait for a slot are done. One that
        is not loaded yet is stopped at once, and those who wait for that get EngineStoppedError. Only later requests
        load it again.

        Returns whether there was one to stop.

        Raises:
            BackendTimeoutError: they were not done within `queue_timeout`; the engine keeps running.
        """
        scheduler = self.bind_loop()
        found = [m for m in self._named(target) if m.state is not State.UNLOADED or m.asleep or m.queue]
        for member in found:
            if member.state is not State.READY:
                scheduler.fail(member, stopped(member))
            if member.state is State.LOADING or member.asleep:
                scheduler.stop(member)
        members = [member for member in found if member.state is not State.UNLOADED]
        for member in members:
            member.unloading = scheduler.loop.time()
        scheduler.schedule()
        try:
            async with asyncio.timeout(self.limits.queue_timeout):
                for member in members:
                    await member.unloaded.wait()
        except TimeoutError as error:
            raise BackendTimeoutError(
                f"The engine of {target!r} still has requests in flight after {self.limits.queue_timeout:g} s.",
                backend="llamacpp",
                hint="Cancel them, or unload it later.",
            ) from error
        finally:
            for member in members:
                member.unloading = None
            scheduler.schedule()
        return bool(found)

    def retire(self, spec: AnySpec) -> None:
        """The model file of this spec was replaced: stop its engine, pinned or not, once its requests are served."""
        scheduler = self._scheduler
        member = scheduler.members.get(spec) if scheduler is not None else None
        if scheduler is not None and member is not None:
            member.retired = True
            if scheduler.loop.is_running():
                scheduler.schedule()

    async def unloaded(self, specs: Iterable[AnySpec]) -> None:
        """Wait until the engines of these specs have stopped, for as long as that takes and some seconds at most."""
        wanted = set(specs)
        staying = [m for m in self._members() if m.spec in wanted and m.state is not State.UNLOADED]
        waits = [member.unloaded.wait() for member in staying]
        if waits:
            try:
                longest = max(member.engine.stop_seconds for member in staying)
                async with asyncio.timeout(max(self.limits.stop_timeout, longest) + 5.0):
                    await asyncio.gather(*waits)
            except TimeoutError:
                pass

    def occupied(self) -> list[AnySpec]:
        """The specs whose engines are loaded, or being loaded or stopped."""
        return [member.spec for member in self._members() if member.state is not State.UNLOADED or member.asleep]

    def loaded(self) -> set[AnySpec]:
        """The specs whose engines are ready. Makes no system call, unlike `status`."""
        return {member.spec for member in self._members() if member.engine.state == "ready"}

    def expires_at(self, spec: AnySpec) -> float | None:
        """When a loaded engine is unloaded if no other request comes, in seconds since 1970; None: never, or it is not
        loaded.
        """
        scheduler = self._scheduler
        member = scheduler.members.get(spec) if scheduler is not None else None
        if scheduler is None or member is None or member.state not in (State.LOADING, State.READY):
            return None
        if member.pinned or member.keep_alive is None:
            return None
        now = scheduler.loop.time()
        idle_since = member.idle_since
        return time.time() + member.keep_alive + (0.0 if idle_since is None else idle_since - now)

    def reserved(self) -> tuple[int, tuple[int, ...]]:
        """Bytes of main memory, and on each GPU, that engines which are loaded or being loaded count for."""
        members = [member for member in self._members() if member.state is not State.UNLOADED]
        cards = max((len(member.gpu_need) for member in members), default=0)
        padded = [(*member.gpu_need, *[0] * (cards - len(member.gpu_need))) for member in members]
        return sum(member.booked for member in members), tuple(map(sum, zip(*padded, strict=True)))

    def running(self) -> list[RunningEngine]:
        """The engines that have a process."""
        return running_engines(self._members())

    def reset(self, target: AnySpec | str) -> None:
        """Forget the crashes of an engine: the next request starts it without a pause."""
        for member in self._named(target):
            member.engine.reset()
            member.failure = None

    def status(self) -> list[EngineStatus]:
        """All engines that were requested since the loop began."""
        return [replace(member.status(), expires_at=self.expires_at(member.spec)) for member in self._members()]

    def stop(self, target: AnySpec | str) -> bool:
        """Stop an engine now, pinned or not: its requests in flight end with an error, and those that wait for it, also
        before it is loaded, with EngineStoppedError. Only requests that come later load it again. Returns whether there
        was one to stop.
        """
        scheduler = self.bind_loop()
        found = [m for m in self._named(target) if m.state in (State.LOADING, State.READY) or m.asleep or m.queue]
        for member in found:
            scheduler.fail(member, stopped(member))
            if member.state in (State.LOADING, State.READY) or member.asleep:
                scheduler.stop(member)
        return bool(found)

    def log_of(self, target: AnySpec | str) -> EngineLog:
        """The last lines that an engine has written; of several, of the one that was started last."""
        return max((member.engine.log() for member in self._named(target)), default=EngineLog())

    def booked(self, spec: AnySpec) -> tuple[int, tuple[int, ...]]:
        """Bytes of main memory, and on each GPU, that one engine counts for; 0 if it is not loaded."""
        member = self._scheduler.members.get(spec) if self._scheduler is not None else None
        return (0, ()) if member is None or member.state is State.UNLOADED else (member.booked, member.gpu_need)

    def status_of(self, spec: AnySpec) -> EngineStatus | None:
        """One engine; None if it was not requested since the loop began."""
        member = self._scheduler.members.get(spec) if self._scheduler is not None else None
        return member.status() if member is not None else None

    async def aclose(self) -> None:
        """Stop all engines; requests that wait, and later ones, get ServiceClosedError. Idempotent."""
        self._closed = True
        scheduler = self._scheduler
        if scheduler is None or scheduler.loop is not asyncio.get_running_loop():
            self.kill_all()
            return
        await scheduler.aclose()
        self._scheduler = None

    def kill_all(self) -> None:
        """Kill all processes and forget them; works without a running loop. The pool can be used again."""
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.kill()

    def bind_loop(self) -> Scheduler:
        """Bind the pool to the running loop. Engines of an earlier loop are killed."""
        if self._closed:
            raise closed()
        loop = asyncio.get_running_loop()
        if self._scheduler is not None and self._scheduler.loop is not loop:
            if self._scheduler.loop.is_running():
                raise RuntimeError(
                    "The engines are in use by another running event loop; create one service for each loop."
                )
            self.kill_all()
        if self._scheduler is None:
            self._scheduler = Scheduler(self.limits, self._events, self._measure)
        return self._scheduler

    def _add(self, scheduler: Scheduler, spec: AnySpec, source: EngineSource | None) -> Member:
        if self._make is None:
            assert source is not None
            need, gpu_need = source.memory_of(spec)
            engine = source.make(spec)
        else:
            need = self._memory_of(spec) if self._memory_of is not None else 0
            gpu_need = self._gpu_memory_of(spec) if self._gpu_memory_of is not None else ()
            engine = self._make(spec)
        member = Member(spec, engine, need, gpu_need)
        member.rules = self._rules(spec)
        member.pinned_by_call = any(member.matches(target) for target in self._pins)
        scheduler.members[spec] = member
        return member

    def _members(self) -> list[Member]:
        return list(self._scheduler.members.values()) if self._scheduler is not None else []

    def _named(self, target: AnySpec | str) -> list[Member]:
        return [member for member in self._members() if member.matches(target)]

    def _pins_changed(self) -> None:
        for member in self._members():
            member.pinned_by_call = any(member.matches(target) for target in self._pins)
        if self._scheduler is not None and self._scheduler.loop.is_running():
            self._scheduler.unsettled = True
            self._scheduler.schedule()
