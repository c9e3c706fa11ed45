"""One engine of a pool: its process, slots, queue, and the times that scheduling needs.

Times are loop times in seconds. Only the scheduler changes these fields, in its synchronous methods.
"""

from __future__ import annotations

import asyncio
import math
from enum import Enum

from miner.core.engine.rules import NO_RULES, EngineRules
from miner.core.engine.slot_queue import ServiceTimes, SlotQueue
from miner.core.engine.spec import AnySpec, Engine, EngineAddress
from miner.core.wire import EngineStatus
from miner.errors import EngineStartError


class State(Enum):
    """State of an engine; all but UNLOADED occupy memory."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"


class Member:
    """One engine of the pool, loaded or not."""

    def __init__(self, spec: AnySpec, engine: Engine, need: int | None, gpu_need: tuple[int, ...] = ()) -> None:
        self.spec = spec
        self.engine = engine
        self.need = need
        """Bytes of main memory when loaded, as estimated; 0 without a memory budget, None: unknown before it runs."""
        self.measured = 0
        """Most bytes of main memory that it was seen to take."""
        self.gpu_need = gpu_need
        """Bytes on each GPU when loaded."""
        self.state = State.UNLOADED
        self.queue = SlotQueue()
        self.times = ServiceTimes()
        self.active = 0
        """Slots in use."""
        self.run_number = 0
        """Number of the run: leases of an earlier run hold no slot."""
        self.rules: EngineRules = NO_RULES
        self.pinned_by_call = False
        """Pinned while it runs, beside its rules."""
        self.waits_for: tuple[Member, ...] = ()
        """The engines of higher priority whose requests it waits for."""
        self.unloading: float | None = None
        """When `unload` was called: requests that came later wait until it was unloaded. None: it was not."""
        self.retired = False
        """Its model file was replaced: it is unloaded, pinned or not, once its requests are served."""
        self.unloaded = asyncio.Event()
        """Set while the state is UNLOADED."""
        self.requested_keep_alive: float | None = None
        """The keep_alive of its last request; None: it had none."""
        self.idle_timeout: float | None = None
        """The pool's, for an engine without a keep_alive."""
        self.address: EngineAddress | None = None
        self.failure: str | None = None
        """Why the last start failed, or the engine exited; None once it is ready again."""
        self.task: asyncio.Task[None] | None = None
        """Loads, watches or stops the engine."""
        self.preparing: asyncio.Future[None] | None = None
        """`Engine.before_stop`, while it runs."""
        self.load_began = 0.0
        self.abandoned_at: float | None = None
        """Since when nobody waits for its load; None: somebody does, or it is not loading."""
        self.last_load_seconds: float | None = None
        """Duration of the last load that succeeded; None: none has."""
        self.ready_at = 0.0
        self.last_used = 0.0
        """End of the last request, or of the load."""
        self.slice_began: float | None = None
        """When its time slice began: when it became ready; a restart after a crash continues the same slice."""
        self.slice_ended = 0.0
        self.load_reported_at = 0.0
        """When the load's progress was reported last."""

    @property
    def parallel(self) -> int:
        """Slots that the engine has, or will have once loaded."""
        return self.spec.parallel

    @property
    def priority(self) -> int:
        """Whose requests come first."""
        return self.rules.priority

    @property
    def pinned(self) -> bool:
        """Whether it is neither evicted nor unloaded for idleness."""
        return self.rules.pinned or self.pinned_by_call

    @property
    def keep_alive(self) -> float | None:
        """Idle seconds after which it is unloaded: those of its last request, its rules or the pool; None: never."""
        own = self.rules.keep_alive if self.requested_keep_alive is None else self.requested_keep_alive
        if own is None:
            return self.idle_timeout
        return None if own < 0 else own

    @property
    def asleep(self) -> bool:
        """Whether its process sleeps: unloaded, but it holds main memory."""
        return self.state is State.UNLOADED and self.engine.state == "sleeping"

    @property
    def booked(self) -> int:
        """Bytes of main memory that it counts for: what was estimated, or more if it took more."""
        return max(self.need or 0, self.measured)

    @property
    def memory_known(self) -> bool:
        """Whether its memory was estimated, declared or measured."""
        return self.need is not None or self.measured > 0

    def measure(self, budget: int | None) -> None:
        """Book what the engine takes now, where that is more than its estimate. Makes a system call or two.

        Not of an engine on a GPU: pages of the file from which the GPU was filled count as resident, and can be
        dropped. At most the budget: an engine that ran alone with more than that can do so again.
        """
        self.gpu_need = self.gpu_need or self.engine.gpu_memory
        taken = self.engine.memory if self.state is State.READY else None
        if taken is not None and (self.need is None or not any(self.gpu_need)):
            self.measured = max(self.measured, taken if budget is None else min(taken, budget))

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return self.active > 0 or bool(self.queue)

    @property
    def computes(self) -> bool:
        """Whether its engine has a request."""
        return self.active > 0 and self.state is State.READY

    @property
    def idle_since(self) -> float | None:
        """Since when a ready engine has no requests; None while it has some."""
        return self.last_used if self.state is State.READY and not self.busy else None

    @property
    def expires_at(self) -> float | None:
        """When it is unloaded for idleness; None while it is busy, or never unloaded for that."""
        if self.retired:
            return self.idle_since
        if self.pinned or self.keep_alive is None or self.idle_since is None:
            return None
        return self.idle_since + self.keep_alive

    @property
    def may_grant(self) -> bool:
        """Whether waiting requests may get slots: while it is being unloaded, only as those that came before wait."""
        return self.unloading is None or self.queue.arrived_by(self.unloading) > 0

    @property
    def load_seconds(self) -> float:
        """Duration of the last load."""
        return self.ready_at - self.load_began

    def load_part(self, arrived: float) -> float:
        """How many seconds of the wait of a request that arrived then were the load."""
        return max(0.0, self.ready_at - max(arrived, self.load_began))

    @property
    def waiting_since(self) -> float:
        """Since when its oldest request waits, or its last time slice ended: the order of waiting models."""
        oldest = self.queue.oldest
        return max(oldest.arrived if oldest else 0.0, self.slice_ended)

    @property
    def backlog(self) -> int:
        """Requests beyond the slots that the engine has or, once it is loaded, will have."""
        return max(0, self.active + len(self.queue) - self.parallel)

    def cooldown_error(self) -> EngineStartError | None:
        """Why requests are refused now: it is in the cooldown after too many crashes. Else None."""
        return self.engine.cooldown_error() if self.engine.state == "failed" else None

    def matches(self, target: AnySpec | str) -> bool:
        """Whether `target`, an alias or a spec, names this engine."""
        return target in (self.spec.alias, self.spec)

    def begin_load(self, now: float, idle_timeout: float | None) -> None:
        """Begin a load; `idle_timeout` is for an engine whose requests and rules do not set a keep_alive."""
        self.state = State.LOADING
        self.unloaded.clear()
        self.load_began, self.load_reported_at = now, -math.inf
        self.requested_keep_alive, self.idle_timeout = None, idle_timeout

    def look_for_waiters(self, now: float) -> None:
        """Note since when nobody waits for its load: whether they left, were refused or were dropped."""
        if self.state is not State.LOADING or self.queue:
            self.abandoned_at = None
        elif self.abandoned_at is None:
            self.abandoned_at = now

    def ready(self, now: float) -> None:
        """Record the end of the load."""
        self.state = State.READY
        self.failure = None
        self.ready_at = self.last_used = now
        self.last_load_seconds = self.load_seconds
        if self.slice_began is None:
            self.slice_began = now

    def end_slice(self, now: float) -> None:
        """End its time slice: it joins the models that wait for memory at the end."""
        self.slice_began, self.slice_ended = None, now

    def exited(self) -> None:
        """Record the exit of the process: all slots are gone."""
        self.state = State.UNLOADED
        self.task = None
        self.active = 0
        self.queue.release_all()
        self.run_number += 1
        self.unloading = None
        self.unloaded.set()

    def status(self) -> EngineStatus:
        """Its entry in `health()`."""
        crash = self.engine.crash_error()
        refusal = self.cooldown_error()
        return EngineStatus(
            model=self.spec.alias,
            state=self.engine.state,
            pid=self.engine.pid,
            memory=self.engine.memory,
            need=self.need or None,
            gpu_memory=sum(self.gpu_need) or None,
            pinned=self.pinned,
            slots=self.spec.slots,
            slots_busy=self.active,
            queued=len(self.queue),
            restarts=self.engine.restarts,
            reason=refusal.message if refusal else self.failure or (crash.message if crash else None),
            retry_after=refusal.retry_after if refusal else None,
            kv_cache=self.engine.kv_cache,
        )
