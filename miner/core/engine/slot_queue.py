"""Who waits for a slot of one engine, in order of arrival, and how long that may take.

Plain data and synchronous methods: the pool owns the queues and decides; nothing here waits or starts anything.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from miner.core.engine.spec import Engine, EngineAddress
from miner.core.wire import Progress

__all__ = ["Lease", "ServiceTimes", "SlotQueue", "Waiter"]


@dataclass(eq=False, slots=True)
class Lease:
    """One slot of a ready engine, for one request."""

    address: EngineAddress
    queue_seconds: float
    """Waited for a slot, or for room to load."""
    load_seconds: float
    """Waited while the engine loaded."""
    engine: Engine
    granted_at: float
    """Loop time."""
    generation: int
    """Which life of the engine the slot belongs to."""


@dataclass(eq=False, slots=True)
class Waiter:
    """One request that waits. Its future gets a lease or an error, or is cancelled with the task that awaits it."""

    future: asyncio.Future[Lease]
    arrived: float
    """Loop time in seconds."""
    keep_alive: float | None = None
    on_progress: Callable[[Progress], None] | None = None
    ahead: int = 0
    """Requests that stood before this one when it came."""
    told: int | None = None
    """The position that was reported last."""

    def tell(self, progress: Progress) -> None:
        """Report progress, if anybody listens. A callback that raises harms nobody but its owner's log."""
        if self.on_progress is not None and not self.future.done():
            # Not called from here: an error in it must not cut a scheduling pass in half.
            asyncio.get_running_loop().call_soon(self.on_progress, progress)


class SlotQueue:
    """First come, first served. Cancelled waiters are passed over, and gone as soon as they leave."""

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()
        self.listeners = 0
        """Waiters that want progress."""

    def __len__(self) -> int:
        return len(self._waiters)

    def __bool__(self) -> bool:
        return self.head is not None

    @property
    def head(self) -> Waiter | None:
        """Who is next; a request that was cancelled just now waits no more."""
        while self._waiters and self._waiters[0].future.done():
            self._drop_first()
        return self._waiters[0] if self._waiters else None

    def arrived_by(self, moment: float) -> int:
        """How many of those that wait came at that moment or before."""
        return sum(1 for _ in itertools.takewhile(lambda waiter: waiter.arrived <= moment, self._waiters))

    def push(self, waiter: Waiter) -> None:
        """Put at the end."""
        waiter.ahead = len(self._waiters)
        self.listeners += waiter.on_progress is not None
        self._waiters.append(waiter)

    def pop(self) -> Waiter | None:
        """Take the first that still waits; None if there is none."""
        return self._drop_first() if self.head is not None else None

    def _drop_first(self) -> Waiter:
        waiter = self._waiters.popleft()
        self.listeners -= waiter.on_progress is not None
        return waiter

    def discard(self, waiter: Waiter) -> None:
        """Take out, wherever it stands; nothing if it is not here."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            self.listeners -= waiter.on_progress is not None

    def report_positions(self) -> None:
        """Report to each listener whose position has changed how many are gone of those that were before it."""
        if not self.listeners:
            return
        for position, waiter in enumerate(self._waiters):
            if waiter.told != position:
                waiter.told = position
                waiter.tell(Progress(done=waiter.ahead - position, total=waiter.ahead, stage="queue"))

    def report_load(self, done: int, total: int) -> None:
        """Report to each listener how far the load is, in bytes."""
        if self.listeners:
            for waiter in self._waiters:
                waiter.tell(Progress(done=done, total=total, stage="load"))


class ServiceTimes:
    """How long a slot is held, from recent requests, and what follows from it for those who come too many."""

    _WEIGHT = 0.2
    """Of the newest request; the last ten or so decide."""

    def __init__(self) -> None:
        self.mean: float | None = None
        """Seconds; None before the first."""

    def record(self, seconds: float) -> None:
        """Count one request that held its slot for `seconds`."""
        self.mean = seconds if self.mean is None else self.mean + self._WEIGHT * (seconds - self.mean)

    def retry_after(self, waiting: int, slots: int, *, most: float) -> float:
        """Seconds until `waiting` requests have gone through `slots` slots: at least 1, at most `most`."""
        return max(1.0, min(most, (waiting + 1) * (self.mean or 0.0) / slots))
