"""What the pool knows of one engine: its process, its slots, its queue, and the times that scheduling needs.

Times are loop times in seconds. Only the pool changes these fields, and only in its synchronous methods.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

from miner.core.engine.slot_queue import ServiceTimes, SlotQueue
from miner.core.wire import EngineStatus
from miner.errors import EngineCrashedError, EngineStartError

if TYPE_CHECKING:
    from miner.core.engine.spec import Address, EngineSpec

__all__ = ["Engine", "Lease", "Member", "State"]


class Engine(Protocol):
    """What the pool asks of an engine; `EngineProcess` is one."""

    @property
    def state(self) -> Literal["stopped", "starting", "ready", "stopping", "failed"]: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def memory(self) -> int | None: ...
    @property
    def restarts(self) -> int: ...
    @property
    def log_tail(self) -> Sequence[str]: ...
    async def ensure_ready(self) -> Address:
        """Start, if need be after a pause; raises EngineStartError."""

    async def stop(self) -> None:
        """End the process; returns when its memory is free."""

    def fail(self, why: str, hint: str | None = None) -> None:
        """End a process that does not work, as a crash for that reason; returns at once."""

    def kill(self) -> None:
        """End the process at once, with or without a loop, on which it does not wait."""

    def refusal(self) -> EngineStartError | None:
        """Why it is not started now, although asked for, and for how long; given while it is `failed`."""

    async def look_at_file(self) -> None:
        """Forget past failures if they were those of another model file."""

    def reset(self) -> None:
        """Forget past failures."""

    def crashed(self, address: Address | None = None) -> EngineCrashedError | None:
        """Why the process, or the one that answered at `address`, is gone, if it went by itself."""

    async def died(self, address: Address | None = None) -> EngineCrashedError:
        """Wait until the process, or the one that answers at `address`, is gone."""


@dataclass(eq=False, slots=True)
class Lease:
    """One slot of a ready engine, for one request."""

    address: Address
    queue_seconds: float
    """Waited for a slot, or for room to load."""
    load_seconds: float
    """Waited while the engine loaded."""
    engine: Engine
    granted_at: float
    """Loop time."""
    generation: int
    """Which life of the engine the slot belongs to."""


class State(Enum):
    """Where a member stands; all but OUT occupy memory."""

    OUT = "out"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"


class Member:
    """One engine of the pool, loaded or not."""

    def __init__(self, spec: EngineSpec, engine: Engine, need: int, gpu_need: tuple[int, ...] = ()) -> None:
        self.spec = spec
        self.engine = engine
        self.need = need
        """Bytes of the machine's memory."""
        self.gpu_need = gpu_need
        """Bytes on each GPU."""
        """Bytes that it takes when loaded; 0 where nobody counts."""
        self.state = State.OUT
        self.queue = SlotQueue()
        self.times = ServiceTimes()
        self.active = 0
        """Slots in use."""
        self.generation = 0
        """Raised when the engine dies: leases of an earlier life hold no slot of this one."""
        self.pinned = False
        self.unloading = False
        """Somebody asked for its end: no new request until it has been out."""
        self.retired = False
        """Its model is another one by now: it goes, pinned or not, once those who came before are served."""
        self.gone = asyncio.Event()
        """Set while the member is out."""
        self.keep_alive: float | None = None
        """Idle seconds after which it goes; None: it stays."""
        self.address: Address | None = None
        self.failure: str | None = None
        """Why the last start failed, or the engine died; None once it is ready again."""
        self.task: asyncio.Task[None] | None = None
        """Loads, watches or stops the engine."""
        self.load_began = 0.0
        self.ready_at = 0.0
        self.last_used = 0.0
        """End of the last request, or of the load."""
        self.turn_began: float | None = None
        """When it became ready; a restart after a crash goes on with the same turn."""
        self.turn_ended = 0.0
        self.told_at = 0.0
        """When the progress of the load was reported last."""

    @property
    def parallel(self) -> int:
        """Slots."""
        return self.spec.parallel

    @property
    def busy(self) -> bool:
        """Somebody uses it or waits for it."""
        return self.active > 0 or bool(self.queue)

    @property
    def idle_since(self) -> float | None:
        """Since when a ready engine has nothing to do; None while it has."""
        return self.last_used if self.state is State.READY and not self.busy else None

    @property
    def expires_at(self) -> float | None:
        """When it goes for want of requests; None if it does not."""
        if self.retired:
            return self.idle_since
        if self.pinned or self.keep_alive is None or self.idle_since is None:
            return None
        return self.idle_since + self.keep_alive

    @property
    def load_seconds(self) -> float:
        """What the last load took."""
        return self.ready_at - self.load_began

    def load_part(self, arrived: float) -> float:
        """How much of the wait of one who arrived then was the load."""
        return max(0.0, self.ready_at - max(arrived, self.load_began))

    @property
    def waiting_since(self) -> float:
        """Since when its first request waits, or since it had its turn last: what orders those that want room."""
        head = self.queue.head
        return max(head.arrived if head else 0.0, self.turn_ended)

    @property
    def without_slot(self) -> int:
        """Requests beyond the slots that the engine has, or will have once it is loaded."""
        return max(0, self.active + len(self.queue) - self.parallel)

    def refusal(self) -> EngineStartError | None:
        """Why no request is taken now; None unless the engine has failed too often just now."""
        return self.engine.refusal() if self.engine.state == "failed" else None

    def is_called(self, target: EngineSpec | str) -> bool:
        """Whether `target`, an alias or a spec, means this member."""
        return target in (self.spec.alias, self.spec)

    def begin_load(self, now: float, keep_alive: float | None) -> None:
        """The load begins; unless a request says otherwise, it will stay idle for `keep_alive` seconds."""
        self.state = State.LOADING
        self.gone.clear()
        self.load_began, self.told_at = now, -math.inf
        self.keep_alive = keep_alive

    def ready(self, now: float) -> None:
        """The load is done."""
        self.state = State.READY
        self.failure = None
        self.ready_at = self.last_used = now
        if self.turn_began is None:
            self.turn_began = now

    def end_turn(self, now: float) -> None:
        """It goes to the end of those that want room."""
        self.turn_began, self.turn_ended = None, now

    def out(self) -> None:
        """The process is gone, and with it all slots."""
        self.state = State.OUT
        self.task = None
        self.active = 0
        self.generation += 1
        self.unloading = False
        self.gone.set()

    def status(self) -> EngineStatus:
        """As `health()` shows it."""
        crash = self.engine.crashed()
        refusal = self.refusal()
        return EngineStatus(
            model=self.spec.alias,
            state=self.engine.state,
            pid=self.engine.pid,
            memory=self.engine.memory,
            slots=self.parallel,
            slots_busy=self.active,
            queued=len(self.queue),
            restarts=self.engine.restarts,
            reason=refusal.message if refusal else self.failure or (crash.message if crash else None),
            retry_after=refusal.retry_after if refusal else None,
        )
